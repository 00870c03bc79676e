"""A folder of experts: each image by the expert of its camera, or all experts side by side."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import camreid
from camreid import FeatureExtractor
from camreid.checkpoints import save, save_experts
from camreid.errors import InputError
from camreid.evaluation.verification import Calibration
from camreid.labels import LabelMap
from tests.conftest import tiny_module, trained

IMAGES = [np.random.default_rng(n).integers(0, 256, (70, 30, 3), np.uint8) for n in range(5)]


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    made = [tmp_path / "a.ckpt", tmp_path / "b.ckpt"]
    for path, camera in zip(made, (3, 1), strict=True):
        module = tiny_module(LabelMap((5, 10 + camera)))
        with torch.no_grad():
            for value in module.parameters():
                value.mul_(1 + 0.1 * camera)
        save(trained(module, camera).eval(), path)
    return made


@pytest.fixture
def folder(paths: list[Path], tmp_path: Path) -> Path:
    save_experts(tmp_path / "experts", paths)
    return tmp_path / "experts"


def test_each_image_goes_to_the_expert_of_its_camera(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == ["c1.ckpt", "c3.ckpt", "experts.json"]
    extractor, cameras = FeatureExtractor(folder), [3, 1, 3, 3, 1]
    found = extractor(IMAGES, cameras=cameras)
    for image, camera, feature in zip(IMAGES, cameras, found, strict=True):
        own = FeatureExtractor(folder / f"c{camera}.ckpt")
        torch.testing.assert_close(own(image)[0], feature, rtol=0, atol=1e-5)
        assert extractor.experts[camera].source == own.source
    one, three = (extractor.experts[c](IMAGES) for c in (1, 3))
    assert not torch.allclose(one, three, atol=1e-3)


def test_without_cameras_the_cosine_is_the_mean_of_the_experts(folder: Path) -> None:
    extractor = FeatureExtractor(folder, normalize=True)
    found = extractor(IMAGES)
    cosines = [(x := F.normalize(e(IMAGES))) @ x.T for e in extractor.experts.values()]
    torch.testing.assert_close(found @ found.T, torch.stack(cosines).mean(0))
    assert extractor.source not in {e.source for e in extractor.experts.values()}


def test_calibrations_weight_the_experts(folder: Path) -> None:
    experts = camreid.load(folder)
    slopes = {1: 4.0, 3: 9.0}
    for camera, slope in slopes.items():
        experts.modules[camera].calibration = Calibration(slope, -1.0, 100, 100)
    extractor = FeatureExtractor(experts)
    found = extractor(IMAGES)
    parts = {c: F.normalize(extractor.experts[c](IMAGES)) for c in slopes}
    expected = sum(slope * parts[c] @ parts[c].T for c, slope in slopes.items())
    torch.testing.assert_close(found @ found.T, expected)
    experts.modules[1].calibration = None
    assert FeatureExtractor(experts)(IMAGES).norm(dim=1).square().tolist() == pytest.approx([2] * 5)


def test_load_gives_the_modules_by_camera(folder: Path) -> None:
    modules = camreid.load(folder).modules
    assert [modules[c].provenance.camera for c in modules] == [1, 3]
    assert camreid.load(folder / "c3.ckpt").labels == modules[3].labels


@pytest.mark.parametrize("cameras", [[3, 1, 2, 3, 1], [3, 1, None, 3, 1]])
def test_a_camera_without_an_expert_is_refused(cameras: list[int | None], folder: Path) -> None:
    with pytest.raises(InputError, match=r"\[1, 3\]"):
        FeatureExtractor(folder)(IMAGES, cameras=cameras)
    with pytest.raises(InputError, match="1 cameras for 5 images"):
        FeatureExtractor(folder)(IMAGES, cameras=3)


def test_a_missing_or_changed_expert_is_named(folder: Path) -> None:
    content = (folder / "c3.ckpt").read_bytes()
    (folder / "c3.ckpt").write_bytes(content + b"0")
    with pytest.raises(InputError, match=r"c3\.ckpt.*missing or has changed"):
        FeatureExtractor(folder)
    (folder / "c3.ckpt").unlink()
    with pytest.raises(InputError, match=r"c3\.ckpt.*missing or has changed"):
        FeatureExtractor(folder)
    listed = (folder / "experts.json").read_text()
    twice = json.dumps([*json.loads(listed), *json.loads(listed)])
    endless = '[{"camera": Infinity, "file": "c3.ckpt", "sha256": ""}]'
    for text in ("{}x", "[]", "[" * 9999, '[{"camera": 1}]', twice, '{"a": 1}', "[[1]]", endless):
        (folder / "experts.json").write_text(text)
        with pytest.raises(InputError, match=r"experts\.json"):
            FeatureExtractor(folder)


def test_an_expert_is_a_file_of_the_folder(folder: Path) -> None:
    text = (folder / "experts.json").read_text()
    (folder / "experts.json").write_text(text.replace("c3.ckpt", "../c3.ckpt"))
    (folder / "c3.ckpt").rename(folder.parent / "c3.ckpt")
    with pytest.raises(InputError, match="is missing"):
        FeatureExtractor(folder)


def test_what_makes_no_folder_leaves_none(paths: list[Path], tmp_path: Path) -> None:
    save(tiny_module(LabelMap((5, 3))).eval(), tmp_path / "joint.ckpt")
    for wrong, reason in (("joint.ckpt", "no camera"), ("a.ckpt", "camera 3")):
        with pytest.raises(InputError, match=reason):
            save_experts(tmp_path / "e", [*paths, tmp_path / wrong])
        assert not (tmp_path / "e").exists()
    with pytest.raises(InputError, match="exists"):
        save_experts(tmp_path, paths)
