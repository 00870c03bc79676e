"""Features of images however they come: those of the module, in order, batched or not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from camreid import FeatureExtractor, export_onnx
from camreid.checkpoints.io import load, save
from camreid.cli.build import build_data
from camreid.data import OriginalSplit, Records
from camreid.data.dataset import read_image
from camreid.errors import InputError, PixelRangeError
from camreid.files import CONF
from camreid.labels import LabelMap
from camreid.training import ReIDModule
from tests.conftest import tiny_module

SIZE = (64, 32)


@pytest.fixture(scope="module")
def module() -> ReIDModule:
    return tiny_module(LabelMap((5, 3))).eval()


@pytest.fixture(scope="module")
def paths(records: Records) -> list[str]:
    return [record.path for record in records.query[:11]]


def features(module: ReIDModule, images: Tensor) -> Tensor:
    with torch.no_grad():
        return module.model(images).features


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (4, 2), (11, 2), (128, 0)])
def test_features_of_files_are_the_modules_in_order_at_any_batch_size(
    module: ReIDModule, paths: list[str], batch_size: int, workers: int
) -> None:
    expected = features(module, torch.stack([read_image(path, SIZE) for path in paths]))
    extractor = FeatureExtractor(module, batch_size=batch_size, workers=workers)
    found = extractor(paths)
    assert found.dtype == torch.float32
    close(found, expected)
    close(extractor([Path(path) for path in reversed(paths)]), expected.flip(0))
    close(extractor(paths[3]), expected[3:4])
    assert len({tuple(row.tolist()) for row in expected}) == len(paths)  # so the order shows


KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "array (N, H, W, 3)": lambda a: a,
    "arrays": list,
    "array (H, W, 3)": lambda a: a[0],
    "tensor (N, 3, H, W)": lambda a: torch.from_numpy(a).permute(0, 3, 1, 2),
    "float tensor": lambda a: torch.from_numpy(a).permute(0, 3, 1, 2).float(),
    "double tensors": lambda a: [torch.from_numpy(x).permute(2, 0, 1).double() for x in a],
    "tensor (3, H, W)": lambda a: torch.from_numpy(a[0]).permute(2, 0, 1),
    "PIL": lambda a: [Image.fromarray(x) for x in a],
    "one PIL": lambda a: Image.fromarray(a[0]),
    "a generator": lambda a: (x for x in a),
    "uint8 beside float": lambda a: [a[0], torch.from_numpy(a[1]).permute(2, 0, 1).float(), *a[2:]],
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_at_size_gives_the_same(module: ReIDModule, kind: str) -> None:
    images = noise(5, *SIZE, 3)
    expected = features(module, torch.from_numpy(images).permute(0, 3, 1, 2))
    found = FeatureExtractor(module, batch_size=3)(KINDS[kind](images))
    close(found, expected[: len(found)])
    assert len(found) == (1 if kind in ("array (H, W, 3)", "tensor (3, H, W)", "one PIL") else 5)


def test_mixed_sizes_are_resized_as_the_training_images_are(
    module: ReIDModule, tmp_path: Path
) -> None:
    images = [noise(h, w, 3, seed=h) for h, w in ((128, 64), (64, 32), (31, 77), (200, 50))]
    names = [tmp_path / f"{n}.png" for n in range(len(images))]
    for image, name in zip(images, names, strict=True):
        Image.fromarray(image).save(name)
    expected = features(module, torch.stack([read_image(str(name), SIZE) for name in names]))
    extractor = FeatureExtractor(module)
    tensors = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
    mixed = [names[0], images[1], Image.fromarray(images[2]), tensors[3]]
    for given in (names, images, tensors, mixed):
        close(extractor(given), expected)


@pytest.mark.slow
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "opencv"])
def test_a_checkpoint_has_one_resize(
    records: Records, paths: list[str], tmp_path: Path, interpolation: str
) -> None:
    save(tiny_module(LabelMap((5, 3)), interpolation=interpolation), tmp_path / "m.ckpt")
    module = load(tmp_path / "m.ckpt")
    images = torch.stack([read_image(path, SIZE, interpolation) for path in paths])
    expected = features(module, images)
    close(FeatureExtractor(tmp_path / "m.ckpt")(paths), expected)
    config = OmegaConf.create({"seed": 0, "data": OmegaConf.load(CONF / "data/market1501.yaml")})
    config.data.workers = 0
    data = build_data(config, OriginalSplit()(records), module.config)
    batch = next(iter(data.test_dataloader()[0]))
    close(features(module, batch["images"])[: len(paths)], expected)
    export_onnx(module, tmp_path / "m.onnx")
    metadata = onnx.load(tmp_path / "m.onnx").metadata_props
    resize = f"{interpolation}, {'not ' * (interpolation == 'opencv')}antialiased"
    assert ("resize", resize) in [(m.key, m.value) for m in metadata]
    fresh = FeatureExtractor(tiny_module(LabelMap((5, 3))), interpolation=interpolation)
    fresh.network.load_state_dict(module.model.state_dict())
    close(fresh(paths), expected)


def test_flip_is_the_mean_with_the_mirror_image_and_normalise_comes_after(
    module: ReIDModule,
) -> None:
    images = torch.from_numpy(noise(4, *SIZE, 3)).permute(0, 3, 1, 2)
    both = (features(module, images) + features(module, images.flip(3))) / 2
    assert (both - features(module, images)).abs().max() > 1e-3
    close(FeatureExtractor(module, flip=True)(images), both)
    close(FeatureExtractor(module, flip=True, normalize=True)(images), F.normalize(both))


def test_a_model_of_normalised_pixels_is_given_raw_images(module: ReIDModule) -> None:
    other = tiny_module(LabelMap((5, 3)), pixels="imagenet").eval()
    other.load_state_dict(module.state_dict())
    images = noise(3, 90, 40, 3)
    close(FeatureExtractor(other)(images), FeatureExtractor(module)(images))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA here")
def test_a_device_gives_the_same_and_leaves_the_module_where_it_is(module: ReIDModule) -> None:
    images = noise(9, 90, 40, 3)
    extractor = FeatureExtractor(module, device="cuda", batch_size=4)
    found = extractor(images)
    assert found.device.type == module.device.type == "cpu"
    torch.testing.assert_close(found, FeatureExtractor(module)(images), rtol=1e-2, atol=1e-2)


def test_a_device_without_values_is_refused(module: ReIDModule) -> None:
    with pytest.raises(InputError, match=r"device=meta.*device=cpu"):
        FeatureExtractor(module, device="meta")


def test_no_images_give_no_rows(module: ReIDModule) -> None:
    extractor = FeatureExtractor(module, normalize=True)
    for nothing in ([], torch.zeros(0, 3, 64, 32), np.zeros((0, 9, 9, 3), np.uint8)):
        assert extractor(nothing).shape == (0, 96)


def test_modes_and_statistics_stay_and_features_can_be_trained_on() -> None:
    module = tiny_module(LabelMap((5, 3))).train()
    module.model.neck.eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    modes = [part.training for part in module.modules()]
    extractor = FeatureExtractor(module)
    found = extractor(noise(3, *SIZE, 3))
    with pytest.raises(InputError):
        extractor("gone.jpg")
    assert [part.training for part in module.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    torch.nn.Linear(96, 2)(found).sum().backward()


BAD: dict[str, tuple[Any, str]] = {
    "no file": (["{paths[0]}", "gone.jpg"], r"image 1 of 2: no file at gone\.jpg"),
    "a folder": (".", r"image 0 of 1: no file at \."),
    "no image": ("notes.txt", r"notes\.txt can't be read as an image"),
    "float array": (np.zeros((2, 8, 8, 3)), r"image 0 of 2 .* \(8, 8, 3\) .* float64"),
    "grey array": (noise(8, 8), r"\(8, 8\) .* uint8: expected .* array \(H, W, 3\)"),
    "channels first": (noise(3, 8, 8), r"\(3, 8, 8\) .* array \(H, W, 3\)"),
    "channels last": (torch.zeros(8, 8, 3), r"\(8, 8, 3\) .* tensor \(3, H, W\)"),
    "integers": (torch.zeros(3, 8, 8, dtype=torch.int64), "the type int64"),
    "no pixels": (torch.zeros(3, 0, 8), r"\(3, 0, 8\)"),
    "0 to 1": (torch.rand(2, 3, 64, 32), "expected raw pixels.*multiply 0..1 by 255"),
    "normalised": (torch.randn(2, 3, 64, 32), "expected raw pixels"),
    "not a number": (torch.full((3, 64, 32), float("nan")), "expected raw pixels"),
    "a number": (7, "image 0 of 1 is a int: expected a path"),
}


def test_scaled_pixels_as_uint8_get_a_warning(module: ReIDModule) -> None:
    image = noise(40, 20, 3)
    FeatureExtractor(module)([image // 255, image])
    FeatureExtractor(module)([np.zeros_like(image)])
    with pytest.warns(UserWarning, match=r"all pixels are 0 or 1.*0\.\.255"):
        FeatureExtractor(module)([image // 128] * 2)


@pytest.mark.parametrize("kind", BAD)
def test_bad_images_are_refused_in_one_paragraph(
    module: ReIDModule, paths: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("no image")
    images, expected = BAD[kind]
    if kind == "no file":
        images = [paths[0], images[1]]
    extractor = FeatureExtractor(module, workers=2)
    with pytest.raises(InputError, match=expected) as refused:
        extractor(images)
    assert "\n" not in str(refused.value)
    assert isinstance(refused.value, PixelRangeError) == ("raw pixels" in expected)


def test_mixed_precision_is_close_and_comes_back_as_float32(module: ReIDModule) -> None:
    images = noise(3, *SIZE, 3)
    exact = FeatureExtractor(module)(images)
    rough = FeatureExtractor(module, precision="bfloat16")(images)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert F.cosine_similarity(rough, exact).min() > 0.999


def test_bgr_arrays_and_tensors_are_turned(module: ReIDModule) -> None:
    images = [noise(70, 30, 3, seed=n) for n in range(3)]
    expected = FeatureExtractor(module)(images)
    turned = FeatureExtractor(module, channels="BGR")
    close(turned([image[..., ::-1] for image in images]), expected)
    close(
        turned([torch.from_numpy(i[..., ::-1].copy()).permute(2, 0, 1) for i in images]), expected
    )


def test_boxes_are_crops_of_their_frame(module: ReIDModule) -> None:
    frame = noise(200, 300, 3)
    boxes = [[10.2, 20.4, 60, 120], [-5, -9, 40, 80], [250, 150, 999, 999]]
    crops = [frame[20:120, 10:60], frame[:80, :40], frame[150:, 250:]]
    extractor = FeatureExtractor(module)
    close(extractor.boxes(frame, np.array(boxes)), extractor(crops))
    close(extractor.boxes(torch.from_numpy(frame).permute(2, 0, 1), boxes), extractor(crops))
    assert extractor.boxes(frame, []).shape == (0, module.model.heads["identity"].dim)
    with pytest.raises(InputError, match="NaN"):
        extractor.boxes(frame, [[0, 0, float("nan"), 5]])


def test_an_empty_crop_is_refused_or_zero(module: ReIDModule) -> None:
    frame = noise(200, 300, 3)
    boxes = [[10, 20, 60, 120], [50, 50, 50, 90], [400, 10, 500, 90]]
    with pytest.raises(InputError, match="image 1 of 3 is empty"):
        FeatureExtractor(module).boxes(frame, boxes)
    found = FeatureExtractor(module, empty="zero", normalize=True).boxes(frame, boxes)
    assert found.norm(dim=1).tolist() == pytest.approx([1, 0, 0])


def test_a_source_is_of_the_weights(module: ReIDModule, tmp_path: Path) -> None:
    save(module, tmp_path / "a.ckpt")
    own = FeatureExtractor(module).source
    assert FeatureExtractor(tmp_path / "a.ckpt").source == own
    assert FeatureExtractor(tiny_module(LabelMap((5, 4)))).source != own


@pytest.mark.slow
@pytest.mark.parametrize(
    "form",
    [
        {},
        {"input": "imagenet", "channels": "bgr", "batch": 4},
        {"input": "unit", "precision": "float16", "normalize": True},
    ],
)
def test_an_exported_file_gives_the_features(
    form: dict[str, Any], module: ReIDModule, tmp_path: Path
) -> None:
    export_onnx(module, tmp_path / "m.onnx", **form)
    exported = FeatureExtractor(tmp_path / "m.onnx", normalize=True, flip=True, channels="BGR")
    images = [noise(90, 40, 3, seed=n) for n in range(6)]
    images += [torch.from_numpy(images[0].copy()).permute(2, 0, 1).float()]
    expected = FeatureExtractor(module, normalize=True, flip=True, channels="BGR")
    assert F.cosine_similarity(exported(images), expected(images)).min() > 0.9999
    assert exported.source == expected.source
    with pytest.raises(InputError, match="no camera"):
        exported(images, cameras=1)


def test_a_file_that_is_no_export_of_camreid_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"notes"):
        (tmp_path / "m.onnx").write_bytes(content)
        with pytest.raises(InputError, match=r"m\.onnx (cannot be read|has a wrong checksum)"):
            FeatureExtractor(tmp_path / "m.onnx")
