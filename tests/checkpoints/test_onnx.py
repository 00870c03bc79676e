"""An exported file gives the features of the model, for any batch, or it is not written."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camreid import create_model, export_onnx
from camreid.checkpoints.exported import read_metadata
from camreid.checkpoints.io import save
from camreid.checkpoints.onnx import OPSET
from camreid.errors import InputError
from camreid.labels import LabelMap
from camreid.provenance import Provenance, SplitRecord
from camreid.training import ReIDModule
from tests.conftest import Ran, tiny_module

LABELS = LabelMap((30, 4, 17))
MODELS: dict[str, dict[str, Any]] = {
    "agw_r50_ibn": {  # non-local blocks; sizes that FastReID's stem rounds up
        "network__backbone": "resnet26", "network__pool": "gem_learned",
        "network__stem_padding": 0, "image_size": [63, 31],
    },
    "mgn_r50_ibn": {
        "network__backbone": "resnet14t", "network__dim": 16, "image_size": [96, 32],
    },
    "osnet_x0_25": {"image_size": [64, 32]},
    "vit_base": {"network__backbone": "vit_tiny_patch16_224", "image_size": [64, 32]},
}  # fmt: skip


def trained_like(module: ReIDModule) -> ReIDModule:
    """Statistics, scales and powers that a training might have left, so that none is 0 or 1."""
    torch.manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 2)
            nn.init.uniform_(part.weight, 0.5, 1)
    for name, parameter in module.named_parameters():
        if name.endswith(".p"):
            nn.init.constant_(parameter, 2.6)
    return module


def outputs(path: Path, images: Tensor) -> dict[str, Tensor]:
    """Those of a file, by name."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, {session.get_inputs()[0].name: images.numpy()})
    return {name: torch.from_numpy(v) for name, v in zip(names, values, strict=True)}


def raw(batch: int, module: ReIDModule) -> Tensor:
    return torch.randint(0, 256, (batch, 3, *module.config.image_size), dtype=torch.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_gives_its_own_features_and_logits(name: str, tmp_path: Path) -> None:
    module = trained_like(create_model(name, LABELS, **MODELS[name])).eval()
    export_onnx(module, tmp_path / "m.onnx", logits=True)
    for batch in (1, 2, 7):
        images = raw(batch, module)
        with torch.no_grad():
            ours = module.model(images)
        expected = {"features": ours.features}
        expected |= {f"logits_{head}": logits for head, logits in ours.logits.items()}
        scale = {output: values.abs().max() for output, values in expected.items()}
        found = outputs(tmp_path / "m.onnx", images)
        assert found.keys() == expected.keys()
        assert all(((found[k] - expected[k]).abs() < 1e-4 * scale[k]).all() for k in expected)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[ReIDModule, Path, dict[str, float]]:
    """A module in training mode, its file, and the parity that was found."""
    module = trained_like(tiny_module(LABELS)).train()
    path = tmp_path_factory.mktemp("exported") / "new" / "tiny.onnx"
    return module, path, export_onnx(module, path, notes={"checkpoint": "best.ckpt"})


def test_the_file_is_sound_and_takes_any_batch(exported: tuple[ReIDModule, Path, Any]) -> None:
    module, path, parity = exported
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    (images,), (features,) = proto.graph.input, proto.graph.output
    kind = images.type.tensor_type
    assert [d.dim_value or d.dim_param for d in kind.shape.dim] == ["batch", 3, 64, 32]
    assert kind.elem_type == onnx.TensorProto.UINT8
    assert (images.name, features.name) == ("images", "features")
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", OPSET)]
    assert 0 <= parity["features"] < 1e-4
    assert all(part.training for part in module.modules())
    assert [p.name for p in path.parent.iterdir()] == ["tiny.onnx"]
    for trace in (b"stack_trace", b"File ", str(Path(__file__).parents[1]).encode()):
        assert trace not in path.read_bytes()

    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(metadata["pids"]) == [30, 4, 17]
    assert json.loads(metadata["anonymous"]) is False
    assert json.loads(metadata["image_size"]) == [64, 32]
    assert json.loads(metadata["features_normalized"]) is False
    assert (metadata["model"], metadata["checkpoint"]) == ("tiny", "best.ckpt")
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1  # a weight
    path.with_name("damaged.onnx").write_bytes(damaged)
    with pytest.raises(InputError, match=r"damaged\.onnx has a wrong checksum"):
        read_metadata(path.with_name("damaged.onnx"))
    assert read_metadata(path).items() < metadata.items()
    assert (metadata["channels"], metadata["resize"]) == ("RGB", "bicubic, antialiased")


@pytest.mark.slow
def test_a_model_of_normalised_pixels_takes_raw_ones_in_its_file(tmp_path: Path) -> None:
    module = trained_like(tiny_module(LABELS, pixels="imagenet")).eval()
    export_onnx(module, tmp_path / "m.onnx", input="float", normalize=True)
    images = raw(3, module).float() * 0.5 + 0.25
    norm = module.model.pixel_norm
    with torch.no_grad():
        expected = F.normalize(module.model((images - norm.mean) / norm.std).features)
    found = outputs(tmp_path / "m.onnx", images)["features"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_file_that_differs_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def biased(self: nn.Module, images: Tensor) -> Tensor:
        traced = torch.compiler.is_exporting()  # the file gets other pixels than PyTorch
        return (images.to(self.mean.dtype) + (10 if traced else 0) - self.mean) / self.std

    path, module = tmp_path / "m.onnx", tiny_module(LABELS)
    path.write_bytes(b"an earlier one")
    nn.init.constant_(module.model.neck.weight, float("nan"))
    with pytest.raises(InputError, match="differ by nan"):
        export_onnx(module, path)
    monkeypatch.setattr("camreid.models.pixels.PixelNorm.normalize", biased)
    with pytest.raises(InputError, match=r"features of PyTorch .* differ by"):
        export_onnx(tiny_module(LABELS), path)
    assert path.read_bytes() == b"an earlier one"
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["network", "exporter", "runtime"])
def test_an_export_that_fails_ends_in_one_paragraph(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_value(self: nn.Module, images: Tensor) -> Tensor:
        return images.float() * (2 if images.max().item() > 100 else 1)

    if broken == "network":
        monkeypatch.setattr("camreid.models.pixels.PixelNorm.normalize", by_value)
    elif broken == "exporter":
        monkeypatch.setitem(sys.modules, "onnxscript", None)
    else:
        monkeypatch.delattr(onnxruntime, "InferenceSession")
    with pytest.raises(InputError, match=r"can't export tiny to ONNX .*'camreid\[onnx\]'") as found:
        export_onnx(tiny_module(LABELS), tmp_path / "m.onnx")
    assert "\n" not in str(found.value)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    module = trained_like(tiny_module(LABELS))
    module.provenance = Provenance(split=SplitRecord("resplit", digest="d1"))
    save(module, tmp_path / "best.ckpt")
    return tmp_path / "best.ckpt"


def test_the_command_writes_the_file_and_shows_the_parity(
    run: Callable[..., Ran], checkpoint: Path
) -> None:
    ran = run("camreid-export", f"checkpoint={checkpoint}", "run_dir=e", "normalize=true")
    assert (ran.code, ran.err) == (0, "")
    assert "images (N, 3, 64, 32) uint8, RGB in 0..255" in ran.out
    assert "of the norm" in ran.out
    assert "torch.onnx" not in ran.out
    metadata = onnxruntime.InferenceSession("e/model.onnx").get_modelmeta().custom_metadata_map
    assert "d1" in metadata["split"]
    assert metadata["checkpoint"] == str(checkpoint)
    features = outputs(Path("e/model.onnx"), torch.zeros(2, 3, 64, 32, dtype=torch.uint8))
    torch.testing.assert_close(features["features"].norm(dim=1), torch.ones(2))
    assert {p.name for p in Path("e").iterdir()} == {".hydra", "camreid-export.log", "model.onnx"}


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ([], "checkpoint= is missing"),
        (["checkpoint=gone.ckpt"], "no checkpoint at gone.ckpt"),
        (["checkpoint=best.ckpt", "input=int8"], "uint8 or float"),
        (["checkpoint=best.ckpt", "normalize=abc"], "normalize=abc: expected true or false"),
        (["checkpoint=best.ckpt", "path=best.ckpt"], "expected a file that ends in .onnx"),
        (["checkpoint=best.ckpt", "path=best.ckpt/m.onnx"], "can't be written"),
        (["checkpoint=best.ckpt", "inpt=float"], "Did you mean input"),
    ],
)
def test_mistakes_end_in_one_paragraph(
    run: Callable[..., Ran], checkpoint: Path, typed: list[str], expected: str
) -> None:
    before = checkpoint.read_bytes()
    ran = run("camreid-export", *typed)
    assert ran.code == 1
    assert expected in ran.err.strip()
    assert ran.err.count("\n") == 1
    assert [p.name for p in Path().iterdir()] == ["best.ckpt"]
    assert checkpoint.read_bytes() == before
