"""An exported file carries a test crop, and is checked by it without its checkpoint."""

import hashlib
import json
from base64 import b64decode
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image

from camreid import FeatureExtractor
from camreid.checkpoints.boxmot import sidecar, sidecar_note
from camreid.checkpoints.exported import read_metadata
from camreid.checkpoints.graph import GraphOptions
from camreid.checkpoints.onnx import check_onnx, export_onnx
from camreid.errors import InputError
from camreid.evaluation.features import digest_of
from camreid.labels import LabelMap
from tests.checkpoints.test_onnx import trained_like
from tests.conftest import Ran, tiny_module

MODULE = trained_like(tiny_module(LabelMap((3, 9)))).eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("exported") / "m.onnx"
    path.with_name("c.ckpt").write_bytes(b"weights")
    notes = {"threshold": "0.4", **sidecar_note(MODULE, str(path.with_name("c.ckpt")))}
    export_onnx(MODULE, path, "float", batch=2, notes=notes)
    return path.read_bytes()


def changed(content: bytes, change: Callable[[onnx.ModelProto], object], path: Path) -> Path:
    """A changed file with a valid digest."""
    proto = onnx.load_from_string(content)
    if len(proto.metadata_props):
        proto.metadata_props.pop()
    change(proto)
    digest = hashlib.sha256(proto.SerializeToString()).hexdigest()
    proto.metadata_props.add(key="digest", value=digest)
    path.write_bytes(proto.SerializeToString())
    return path


def named(proto: onnx.ModelProto, key: str) -> onnx.StringStringEntryProto:
    return next(entry for entry in proto.metadata_props if entry.key == key)


def set_metadata(key: str, value: str) -> Callable[[onnx.ModelProto], object]:
    return lambda proto: setattr(named(proto, key), "value", value)


def change_weights(proto: onnx.ModelProto) -> None:
    tensor = max(proto.graph.initializer, key=lambda t: np.prod(t.dims))
    values = numpy_helper.to_array(tensor)
    random = np.random.default_rng(0).normal(0, values.std(), values.shape)
    tensor.CopyFrom(numpy_helper.from_array((values + random).astype(np.float32), tensor.name))


def test_each_range_and_order_is_what_its_formula_says() -> None:
    pixels = torch.arange(24, dtype=torch.uint8).view(1, 3, 4, 2) * 10
    assert GraphOptions().feed(pixels).dtype == torch.uint8
    assert torch.equal(GraphOptions(channels="bgr").feed(pixels), pixels[:, [2, 1, 0]])
    assert torch.equal(GraphOptions("unit").feed(pixels), pixels / 255)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    planes = [(pixels[:, c] / 255 - mean[c]) / std[c] for c in range(3)]
    for channels in ("rgb", "bgr"):
        fed = GraphOptions("imagenet", channels=channels).feed(pixels)
        torch.testing.assert_close(fed, torch.stack(planes, 1))
        assert fed.dtype == torch.float32
        planes.reverse()


@pytest.mark.parametrize(
    "wrong", [{"channels": "grb"}, {"precision": "int8"}, {"batch": 0}, {"size": "any"}]
)
def test_a_form_that_does_not_exist_is_refused(wrong: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        export_onnx(MODULE, tmp_path / "m.onnx", **wrong)
    assert not list(tmp_path.iterdir())


def test_a_file_is_checked_without_its_checkpoint(exported: bytes, tmp_path: Path) -> None:
    path = changed(exported, lambda proto: None, tmp_path / "m.onnx")
    assert check_onnx(path) < 1e-5
    metadata = read_metadata(path)
    assert metadata["source"] == FeatureExtractor(MODULE).source
    assert metadata["threshold"] == "0.4"
    crop = Image.open(BytesIO(b64decode(metadata["test_crop"])))
    assert (crop.size, crop.mode) == ((32, 64), "RGB")
    assert len(np.unique(np.array(crop).reshape(-1, 3), axis=0)) == 128
    with torch.no_grad():
        features = MODULE.model(torch.from_numpy(np.array(crop)).permute(2, 0, 1)[None]).features
    torch.testing.assert_close(torch.tensor([json.loads(metadata["test_features"])]), features)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (change_weights, "of their norm"),
        (
            set_metadata("form", '{"input": "float", "batch": 2, "channels": "bgr"}'),
            "of their norm",
        ),
        (set_metadata("form", '{"input": "unit", "batch": 2}'), "of their norm"),
        (set_metadata("form", '{"batch": 2}'), "uint8"),
        (set_metadata("form", '{"input": "float"}'), "images_0_255"),
        (set_metadata("test_features", "[[1]]"), "no features of a test crop"),
        (set_metadata("test_features", "1"), "no features of a test crop"),
        (lambda proto: proto.ClearField("metadata_props"), "no features of a test crop"),
        (lambda proto: proto.ClearField("graph"), "no features of a test crop"),
    ],
)
def test_what_differs_is_named(
    change: Callable[[onnx.ModelProto], object], expected: str, exported: bytes, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=expected) as found:
        check_onnx(changed(exported, change, tmp_path / "m.onnx"))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda proto: proto.metadata_props.remove(named(proto, "model")),
        set_metadata("image_size", "[-5, {}]"),
        set_metadata("image_size", "[9, 9]"),
        set_metadata("form", "[1]"),
        lambda proto: setattr(proto.graph.input[0].type.tensor_type.shape.dim[2], "dim_value", 7),
        lambda proto: proto.graph.output.pop(),
    ],
)
def test_a_file_that_cannot_run_is_refused_before_images_are_read(
    change: Callable[[onnx.ModelProto], object], exported: bytes, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"m\.onnx can't be run"):
        FeatureExtractor(changed(exported, change, tmp_path / "m.onnx"))


def test_tensors_in_another_file_which_no_checksum_covers_are_refused(
    exported: bytes, tmp_path: Path
) -> None:
    def move(proto: onnx.ModelProto) -> None:
        tensor = max(proto.graph.initializer, key=lambda t: len(t.raw_data))
        (tmp_path / "w.bin").write_bytes(tensor.raw_data)
        onnx.external_data_helper.set_external_data(tensor, "w.bin")
        tensor.ClearField("raw_data")

    with pytest.raises(InputError, match="cannot be read as ONNX"):
        read_metadata(changed(exported, move, tmp_path / "m.onnx"))


def test_the_digest_is_of_the_weights() -> None:
    other = tiny_module(LabelMap((3, 9)))
    assert (
        digest_of(other.model.state_dict(), {})[:16]
        != digest_of(MODULE.model.state_dict(), {})[:16]
    )
    other.model.load_state_dict(MODULE.model.state_dict())
    other.model.to(memory_format=torch.channels_last)
    assert (
        digest_of(other.model.state_dict(), {})[:16]
        == digest_of(MODULE.model.state_dict(), {})[:16]
    )


def test_a_sidecar_states_size_and_files(exported: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(exported)
    assert json.loads(sidecar(path)) == {
        **{"schema_version": 1, "model_name": "resnet50", "num_classes": 2},
        **{"preprocess": "resize", "img_size": [64, 32]},
        **{"model_kwargs_schema_version": 1, "model_kwargs": {"img_size": [64, 32]}},
        "source_sha256": hashlib.sha256(b"weights").hexdigest(),
        "artifact_sha256": hashlib.sha256(exported).hexdigest(),
    }


def test_the_command_checks_and_refuses(run: Callable[..., Ran], exported: bytes) -> None:
    Path("m.onnx").write_bytes(exported)
    Path("text.pt").write_text("text")
    ran = run("camreid-export", "check=m.onnx")
    assert (ran.code, ran.err) == (0, "")
    assert "gives the features" in ran.out
    beside, text = Path("m.onnx.metadata.json"), sidecar(Path("m.onnx"))
    for found in (text, text.replace("64", "65"), text.replace("resize", "\udcff"), "", "{}"):
        beside.write_text(found, errors="surrogateescape")
        assert run("camreid-export", "check=m.onnx").code == (found != text)
    beside.unlink()
    Path("m.onnx").write_bytes(exported[:-100])
    for path in ("m.onnx", "gone.onnx", "gone.pt", "text.pt"):
        ran = run("camreid-export", f"check={path}")
        assert ran.code == 1
        assert path in ran.err
        assert ran.err.count("\n") == 1
    assert {p.name for p in Path().iterdir()} == {"m.onnx", "text.pt"}


def test_a_flipped_bit_is_refused_by_the_extractor(exported: bytes, tmp_path: Path) -> None:
    for place in range(50, len(exported), len(exported) // 20):
        damaged = bytearray(exported)
        damaged[place] ^= 4
        (tmp_path / "m.onnx").write_bytes(damaged)
        with pytest.raises(InputError, match=r"m\.onnx (has a wrong checksum|cannot be read)"):
            FeatureExtractor(tmp_path / "m.onnx")
