"""Each program that loads an exported file gets the features of `FeatureExtractor`.

Their preprocessing is written here from their documents, apart from `GraphOptions.feed`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image

from camreid import FeatureExtractor, create_model
from camreid.checkpoints import boxmot, import_weights, save
from camreid.checkpoints.onnx import check_onnx, export_onnx
from camreid.errors import InputError
from camreid.labels import LabelMap
from camreid.training import ReIDModule
from tests.checkpoints.test_onnx import MODELS, trained_like
from tests.conftest import Ran, tiny_module

LABELS = LabelMap((30, 4, 17))
BATCHES = (1, 2, 14, 33)
SCRIPT = Path(__file__).parents[2] / "scripts" / "bench" / "boxmot.py"


def structured(count: int, size: tuple[int, int]) -> list[np.ndarray]:
    """Crops (H, W, 3) uint8 RGB with edges and gradients."""
    random = np.random.default_rng(0)
    height, width = size
    crops = []
    for _ in range(count):
        blocks = Image.fromarray(random.integers(0, 256, (8, 4, 3), np.uint8))
        crop = np.array(blocks.resize((width, height), Image.Resampling.BICUBIC))
        crop[height // 3 : height // 2, width // 4 : width // 2] = random.integers(0, 256, 3)
        crops.append(crop)
    return crops


def boxmot_pixels(bgr: np.ndarray, _: str) -> np.ndarray:
    scaled = bgr[..., ::-1].astype(np.float32) / 255
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    return ((scaled - mean) / std).transpose(0, 3, 1, 2)


def ultralytics_pixels(bgr: np.ndarray, _: str) -> np.ndarray:
    return bgr[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 255


def deepstream_pixels(bgr: np.ndarray, printed: str) -> np.ndarray:
    config = yaml.safe_load(printed[printed.index("ReID:") :])["ReID"]
    assert (config["inputOrder"], config["keepAspc"], config["reidType"]) == (0, 0, 2)
    frame = bgr if config["colorFormat"] else bgr[..., ::-1]
    assert config["inferDims"] == [3, *bgr.shape[1:3]]
    moved = frame.astype(np.float32) - np.float32(config["offsets"])
    return config["netScaleFactor"] * moved.transpose(0, 3, 1, 2)


def openvino_pixels(bgr: np.ndarray, _: str) -> np.ndarray:
    return bgr.transpose(0, 3, 1, 2).astype(np.float32)


def onnxruntime_pixels(bgr: np.ndarray, _: str) -> np.ndarray:
    return bgr[..., ::-1].transpose(0, 3, 1, 2)


PROGRAMS: dict[str, Callable[[np.ndarray, str], np.ndarray]] = {
    "boxmot": boxmot_pixels,
    "ultralytics": ultralytics_pixels,
    "deepstream": deepstream_pixels,
    "openvino": openvino_pixels,
    "onnxruntime": onnxruntime_pixels,
}
NAMES = {
    "boxmot": "images_imagenet", "ultralytics": "images_0_1", "deepstream": "images_0_255",
    "openvino": "images_0_255", "onnxruntime": "images",
}  # fmt: skip


def least_cosine(
    path: Path, module: ReIDModule, pixels: Callable[..., np.ndarray], *given: Any
) -> float:
    crops = structured(BATCHES[-1], module.config.image_size)
    expected = FeatureExtractor(module, normalize=True)(crops).numpy()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (graph,) = session.get_inputs()
    found = 1.0
    for batch in BATCHES:
        bgr = np.stack(crops[:batch])[..., ::-1]
        (features, *_) = session.run(None, {graph.name: np.ascontiguousarray(pixels(bgr, *given))})
        features = features / np.linalg.norm(features, axis=1, keepdims=True)
        found = min(found, float((features * expected[:batch]).sum(1).min()))
    return found


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[ReIDModule, Path]:
    module = trained_like(tiny_module(LABELS)).eval()
    save(module, tmp_path / "best.ckpt")
    return module, tmp_path / "best.ckpt"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_each_program_gets_the_features(
    program: str, precision: str, run: Callable[..., Ran], checkpoint: tuple[ReIDModule, Path]
) -> None:
    module, path = checkpoint
    ran = run(
        *("camreid-export", f"checkpoint={path}", f"for={program}", "path=resnet50_a.onnx"),
        f"precision={precision}",
    )
    assert (ran.code, ran.err) == (0, "")
    assert least_cosine(Path("resnet50_a.onnx"), module, PROGRAMS[program], ran.out) >= 0.9999
    (graph,) = onnxruntime.InferenceSession("resnet50_a.onnx").get_inputs()
    assert graph.name == NAMES[program]
    assert Path("resnet50_a.onnx.metadata.json").exists() == (program == "boxmot")
    assert check_onnx(Path("resnet50_a.onnx")) < 0.014


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_in_half_precision(name: str, tmp_path: Path) -> None:
    module = trained_like(create_model(name, LABELS, **MODELS[name])).eval()
    path = tmp_path / "m.onnx"
    export_onnx(module, path, "imagenet", precision="float16")
    assert least_cosine(path, module, boxmot_pixels, "") >= 0.9999
    graph = onnx.load(path).graph
    onnx.checker.check_model(onnx.load(path), full_check=True)
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    wide = [node.input[1] for node in graph.node if node.op_type in ("Conv", "MatMul")]
    assert {kinds[name] for name in wide if name in kinds} == {onnx.TensorProto.FLOAT16}
    export_onnx(module, tmp_path / "whole.onnx", "imagenet")
    assert path.stat().st_size < 0.8 * (tmp_path / "whole.onnx").stat().st_size


@pytest.mark.slow
def test_pixels_are_undone_for_a_model_of_other_statistics(tmp_path: Path) -> None:
    module = create_model("vit_base", LABELS, **MODELS["vit_base"]).eval()
    assert module.model.pixel_norm.mean.flatten().tolist() == [127.5] * 3
    export_onnx(module, tmp_path / "m.onnx", "imagenet")
    assert least_cosine(tmp_path / "m.onnx", module, boxmot_pixels, "") >= 0.9999


@pytest.mark.slow
def test_sizes_and_batches_are_those_that_were_asked_for(tmp_path: Path) -> None:
    module = trained_like(tiny_module(LABELS)).eval()
    path = tmp_path / "m.onnx"
    export_onnx(module, path, "unit", size="dynamic", precision="float16")
    shape = onnxruntime.InferenceSession(path).get_inputs()[0].shape
    assert [type(side) for side in shape] == [str, int, str, str]
    larger = torch.from_numpy(np.stack(structured(3, (96, 64)))).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = module.model(larger).features.numpy()
    (found,) = onnxruntime.InferenceSession(path).run(
        None, {"images_0_1": larger.numpy() / np.float32(255)}
    )
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    assert ((found * expected).sum(1) / norms).min() >= 0.9999
    export_onnx(module, path, batch=3)
    assert onnxruntime.InferenceSession(path).get_inputs()[0].shape == [3, 3, 64, 32]


@pytest.mark.slow
def test_a_network_of_one_size_refuses_any(tmp_path: Path) -> None:
    module = create_model("vit_base", LABELS, **MODELS["vit_base"]).eval()
    with pytest.raises(InputError, match="size=static"):
        export_onnx(module, tmp_path / "m.onnx", size="dynamic")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("for=boxmot input=uint8", "Type input=imagenet"),
        ("for=boxmot channels=bgr", "Type channels=rgb"),
        ("for=ultralytics size=dynamic", "Type size=static"),
        ("for=deepstream input=unit", "Type input=float"),
        ("for=deepstream channels=bgr", "Type channels=rgb"),
        ("for=tracker", "Choose for= from boxmot, deepstream"),
        ("for=boxmot path=m.pt precision=float16", "Type precision=float32"),
        ("for=ultralytics path=m.pt", "ends in .onnx"),
        ("precision=int8", "float32 or float16"),
        ("batch=0", "1 or more"),
        ("check=m.onnx", "alone"),
        ("for=boxmot path=m.pt", "Type path=m.onnx"),  # its neck is not torchreid's
    ],
)
def test_what_a_program_cannot_take_is_refused(
    typed: str, expected: str, run: Callable[..., Ran], checkpoint: tuple[ReIDModule, Path]
) -> None:
    ran = run("camreid-export", f"checkpoint={checkpoint[1]}", *typed.split())
    assert ran.code == 1
    assert expected in ran.err
    assert ran.err.count("\n") == 1
    assert [p.name for p in Path().iterdir()] == ["best.ckpt"]


@pytest.mark.parametrize(
    "name", ["osnet_x0_25", pytest.param("resnet50_fc512", marks=pytest.mark.slow)]
)
def test_a_pt_file_has_the_names_of_torchreid(name: str, tmp_path: Path) -> None:
    size = {"image_size": [64, 32], "network__pretrained": False, "network__neck": "none"}
    module = create_model(name, LABELS, **size).eval()
    boxmot.write_pt(module, tmp_path / "m.pt")
    assert boxmot.check_pt(tmp_path / "m.pt") < 1e-5
    content = torch.load(tmp_path / "m.pt", weights_only=True)
    assert (content["model_name"], content["num_classes"]) == (name, 3)
    assert content["preprocess"] == "resize"
    assert {k.split(".")[0] for k in content["state_dict"]} >= {"conv1", "fc", "classifier"}
    again = import_weights(tmp_path / "m.pt", "torchreid", name, LABELS, image_size=[64, 32])
    ours = module.model.state_dict()
    assert all(torch.equal(v, ours[k]) for k, v in again.model.state_dict().items())
    content["state_dict"]["fc.0.weight"] = torch.randn_like(content["state_dict"]["fc.0.weight"])
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(InputError, match="of their norm"):
        boxmot.check_pt(tmp_path / "m.pt")
    test = content["camreid"]
    for part in ({"model_kwargs": 5}, {"model_name": "x"}, {"camreid": {**test, "test_crop": ""}}):
        torch.save(content | part, tmp_path / "n.pt")
        with pytest.raises(InputError, match=r"n\.pt is no \.pt file of camreid-export"):
            boxmot.check_pt(tmp_path / "n.pt")


@pytest.mark.slow
@pytest.mark.skipif("BOXMOT_PYTHON" not in os.environ, reason="BOXMOT_PYTHON names no Python")
def test_boxmot_itself_gives_the_features() -> None:
    line = [sys.executable, SCRIPT, "--python", os.environ["BOXMOT_PYTHON"], "--models"]
    subprocess.run([*line, "resnet50_small", "osnet_x0_25"], check=True)


@pytest.mark.slow
def test_metadata_say_what_is_fed(tmp_path: Path) -> None:
    export_onnx(tiny_module(LABELS), tmp_path / "m.onnx", "unit", channels="bgr")
    proto = onnx.load(tmp_path / "m.onnx")
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    form = json.loads(metadata["form"])
    assert (form["input"], form["precision"], form["batch"]) == ("unit", "float32", "dynamic")
    assert metadata["channels"] == "BGR"
    assert "0..1" in metadata["pixels"]
    assert json.loads(metadata["image_size"]) == [64, 32]


@pytest.mark.slow
def test_a_size_that_is_fixed_is_refused_in_one_paragraph(
    tmp_path: Path, run: Callable[..., Ran]
) -> None:
    save(create_model("vit_base", LABELS, **MODELS["vit_base"]).eval(), tmp_path / "vit.ckpt")
    ran = run("camreid-export", "checkpoint=vit.ckpt", "size=dynamic")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "Type size=static" in ran.err
