"""A file is checked against the features of its own test crop, without its checkpoint."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from camreid.checkpoints.boxmot import write_sidecar
from camreid.checkpoints.graph import GraphOptions
from camreid.checkpoints.onnx import export_onnx
from camreid.errors import InputError
from camreid.exported import check_file, draw_crop, feed
from camreid.labels import LabelMap
from tests.checkpoints.test_onnx import trained_like
from tests.conftest import Ran, tiny_module

MODULE = trained_like(tiny_module(LabelMap((3, 9)))).eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("exported") / "m.onnx"
    export_onnx(MODULE, path, "float", options=GraphOptions(batch=2, input_name="images_0_255"))
    return path.read_bytes()


def changed(content: bytes, change: Callable[[onnx.ModelProto], object], path: Path) -> Path:
    proto = onnx.load_from_string(content)
    change(proto)
    path.write_bytes(proto.SerializeToString())
    return path


def set_metadata(key: str, value: str) -> Callable[[onnx.ModelProto], object]:
    return lambda proto: setattr(
        next(entry for entry in proto.metadata_props if entry.key == key), "value", value
    )


def scale_weights(proto: onnx.ModelProto) -> None:
    tensor = max(proto.graph.initializer, key=lambda t: np.prod(t.dims))
    values = numpy_helper.to_array(tensor)
    random = np.random.default_rng(0).normal(0, values.std(), values.shape)
    tensor.CopyFrom(numpy_helper.from_array((values + random).astype(np.float32), tensor.name))


def test_each_range_and_order_is_what_its_formula_says() -> None:
    crop = np.arange(24, dtype=np.uint8).reshape(1, 4, 2, 3) * 10
    planes = crop.transpose(0, 3, 1, 2)
    assert feed(crop).dtype == np.uint8
    assert np.array_equal(feed(crop, "uint8", "bgr"), planes[:, ::-1])
    assert np.allclose(feed(crop, "unit"), planes / 255)
    mean, std = ([[[[0.485]], [[0.456]], [[0.406]]]], [[[[0.229]], [[0.224]], [[0.225]]]])
    normalised = (planes / 255 - np.array(mean)) / np.array(std)
    assert np.allclose(feed(crop, "imagenet"), normalised, atol=1e-6)
    assert np.allclose(feed(crop, "imagenet", "bgr"), normalised[:, ::-1], atol=1e-6)
    assert feed(crop, "imagenet").dtype == np.float32


def test_the_test_crop_has_the_size_and_many_colours() -> None:
    crop = draw_crop((63, 31))
    assert (crop.shape, crop.dtype) == ((1, 63, 31, 3), np.uint8)
    assert len(np.unique(crop.reshape(-1, 3), axis=0)) == 128


def test_a_file_is_checked_without_its_checkpoint(exported: bytes, tmp_path: Path) -> None:
    path = changed(exported, lambda proto: None, tmp_path / "m.onnx")
    assert check_file(path) < 1e-5


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (scale_weights, "of their norm"),
        (set_metadata("channels", "BGR"), "of their norm"),
        (set_metadata("input", "unit"), "of their norm"),
        (set_metadata("input", "uint8"), "uint8"),
        (set_metadata("image_size", "[64, 64]"), "64"),
        (set_metadata("test_features", "AAAAAA=="), "metadata have 1"),
        (lambda proto: proto.ClearField("metadata_props"), "no test crop"),
        (lambda proto: proto.ClearField("graph"), "can't run it"),
    ],
)
def test_what_differs_is_named(
    change: Callable[[onnx.ModelProto], object], expected: str, exported: bytes, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="check=") as found:
        check_file(changed(exported, change, tmp_path / "m.onnx"))
    assert expected in str(found.value)
    assert "\n" not in str(found.value)


def test_the_sidecar_of_another_file_is_noticed(exported: bytes, tmp_path: Path) -> None:
    path, checkpoint = tmp_path / "m.onnx", tmp_path / "c.ckpt"
    path.write_bytes(exported)
    checkpoint.write_bytes(b"weights")
    write_sidecar(MODULE, path, checkpoint)
    record = json.loads((tmp_path / "m.onnx.metadata.json").read_text())
    assert set(record) == {
        *("schema_version", "model_name", "num_classes", "preprocess", "img_size"),
        *("model_kwargs_schema_version", "model_kwargs", "source_sha256", "artifact_sha256"),
    }
    assert record["model_kwargs"] == {"img_size": [64, 32]}
    check_file(path)
    changed(exported, set_metadata("model", "other"), path)
    with pytest.raises(InputError, match="artifact_sha256"):
        check_file(path)


def test_the_command_checks_and_refuses(
    run: Callable[..., Ran], exported: bytes, tmp_path: Path
) -> None:
    Path("m.onnx").write_bytes(exported)
    ran = run("camreid-export", "check=m.onnx")
    assert (ran.code, ran.err) == (0, "")
    assert "gives the features" in ran.out
    for path in ("gone.onnx", "gone.pt"):
        ran = run("camreid-export", f"check={path}")
        assert ran.code == 1
        assert ran.err.startswith(f"camreid-export: check={path}: ")
    assert {p.name for p in Path().iterdir()} == {"m.onnx"}


@pytest.mark.slow
def test_a_check_does_without_torch(exported: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(exported)
    code = "import sys; from camreid.cli._entry import export; export(); print([*sys.modules])"
    line = [sys.executable, "-c", code, f"check={path}"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert "gives the features" in done.stdout
    assert "'torch'" not in done.stdout
