"""Heads per camera: ordinary heads, each over the label map of its camera."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from camreid.checkpoints.average import soup
from camreid.checkpoints.start import start_from
from camreid.data import OriginalSplit, Records, ReIDDataModule
from camreid.errors import HeadMismatch, InputError
from camreid.labels import LabelMap, fit_camera_labels
from camreid.losses.identity import identity_loss_of_heads
from camreid.training import ReIDModule
from camreid.training.head_check import HeadCheck
from tests.conftest import CONFIG, saved, tiny_module

LABELS = {1: LabelMap((10, 2)), 3: LabelMap((7, 2, 4))}
NETWORK = {**CONFIG["network"], "camera_heads": True, "cameras": [1, 3]}


def module_of(labels: object = LABELS, **options: object) -> ReIDModule:
    return tiny_module(labels, **{"network": NETWORK, **options})


def row(module: ReIDModule, camera: int, pid: int) -> Tensor:
    return module.model.heads[f"c{camera}"].weight[module.camera_labels[camera].row(pid)]


def batch_of(pids: list[int], cameras: list[int]) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    shape = (len(pids), 3, 64, 32)
    return {
        "images": torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator),
        "pids": torch.tensor(pids),
        "camids": torch.tensor(cameras) - 1,
        "img_paths": [f"{n}.jpg" for n in range(len(pids))],
    }


def test_an_identity_outside_the_camera_has_no_row() -> None:
    module = module_of()
    assert module.camera_labels == LABELS
    assert module.labels.pids == (10, 2, 7, 4)
    rows = module.model.rows(torch.tensor([10, 10, 2, 2, 4, 99]), torch.tensor([1, 3, 1, 3, 5, 1]))
    assert rows["c1"].tolist() == [0, -1, 1, -1, -1, -1]
    assert rows["c3"].tolist() == [-1, -1, -1, 1, -1, -1]
    for labels, network in ((LabelMap((2, 7)), NETWORK), (LABELS, CONFIG["network"])):
        with pytest.raises(InputError, match="a label map for each camera"):
            module_of(labels, network=network)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, "adaptive"])
def test_an_image_is_classified_among_the_identities_of_its_camera(smoothing: object) -> None:
    generator = torch.Generator().manual_seed(0)
    pids, cameras = torch.tensor([2, 2, 7, 4, 10, 99]), torch.tensor([1, 3, 3, 1, 5, 1])
    logits = {
        f"c{c}": torch.randn(6, len(own), generator=generator).requires_grad_()
        for c, own in LABELS.items()
    }
    loss = identity_loss_of_heads(logits, module_of().model.rows(pids, cameras), smoothing)
    terms = []
    for image in (0, 1, 2):  # the others have no row in the head of their camera
        camera = int(cameras[image])
        scores = logits[f"c{camera}"][image].log_softmax(0).tolist()
        true = scores.pop(LABELS[camera].row(int(pids[image])))
        share = 0.2 * math.exp(true) if smoothing == "adaptive" else smoothing
        terms.append(-(1 - share) * true - share * sum(scores) / len(scores))
    assert loss.item() == pytest.approx(sum(terms) / 3, rel=1e-5)
    loss.backward()
    assert [v.grad.any(1).tolist() for v in logits.values()] == [
        [True, False, False, False, False, False], [False, True, True, False, False, False]
    ]  # fmt: skip
    rows = module_of().model.rows(pids, torch.full((6,), 9))
    assert identity_loss_of_heads(logits, rows, smoothing).item() == 0


@pytest.mark.parametrize("classifier", ["linear", "circle"])
def test_a_camera_without_identities_has_a_head_without_rows(classifier: str) -> None:
    network = {**NETWORK, "classifier": classifier}
    for smoothing in (0.1, "adaptive"):
        loss = {**CONFIG["loss"], "smoothing": smoothing}
        module = module_of({3: LABELS[3]}, network=network, loss=loss)
        module.log = module.log_dict = lambda *args, **options: None  # type: ignore[assignment]
        total = module.training_step(batch_of([2, 2, 7, 7, 2], [3, 3, 3, 3, 1]), 0)
        total.backward()
        assert total.isfinite()
        assert module.model.heads["c1"].weight.shape == (0, 96)


def test_a_training_step_compares_images_of_one_camera() -> None:
    module = module_of()
    logged: dict[str, Tensor] = {}
    module.log = lambda *args, **options: None  # type: ignore[assignment]
    module.log_dict = lambda values, **options: logged.update(values)  # type: ignore[assignment]
    batch = batch_of([10, 10, 2, 2, 2, 2, 7, 7], [1, 1, 1, 1, 3, 3, 3, 3])
    total = module.training_step(batch, 0)
    embeddings = module_of().model.train()(batch["images"]).embeddings["identity"]
    distances = torch.cdist(embeddings, embeddings)
    same = batch["pids"][:, None] == batch["pids"]
    near = batch["camids"][:, None] == batch["camids"]
    positive = distances.masked_fill(~(same & near), 0).amax(1)
    negative = distances.masked_fill(same | ~near, torch.inf).amin(1)
    expected = (positive - negative + CONFIG["loss"]["triplet_margin"]).relu().mean()
    torch.testing.assert_close(logged["train/triplet_loss"], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(total, expected + logged["train/identity_loss"], rtol=1e-4, atol=0)
    del batch["camids"]
    with pytest.raises(InputError, match="need `camids`"):
        module.training_step(batch, 0)


def test_rows_are_copied_camera_by_camera(tmp_path: Path) -> None:
    module = module_of()
    start = saved(module, tmp_path / "a.ckpt")
    assert start.camera_labels == start.module().camera_labels == LABELS
    split = {1: LabelMap((5, 7, 10)), 3: LabelMap((2, 5))}
    extended = module_of(fit_camera_labels(LABELS, split, "extend"), unknown="extend").eval()
    start_from(extended, start)
    assert [own.pids for own in extended.camera_labels.values()] == [(10, 2, 5, 7), (7, 2, 4, 5)]
    assert [own.pids for own in extended.new_rows.values()] == [(5, 7), (5,)]
    for camera, own in LABELS.items():
        assert all(torch.equal(row(extended, camera, p), row(module, camera, p)) for p in own.pids)
    # new rows start from the images of their camera
    batch = batch_of([5, 5, 5, 7, 10], [1, 3, 3, 1, 3])
    features = extended.model(batch["images"]).features
    extended.start_rows([batch])
    for camera, pid, images in ((1, 5, [0]), (3, 5, [1, 2]), (1, 7, [3])):
        found, mean = row(extended, camera, pid), features[images].mean(0)
        assert torch.cosine_similarity(found, mean, dim=0) > 0.9999
    assert torch.equal(row(extended, 3, 7), row(module, 3, 7))

    fresh = module_of(fit_camera_labels(LABELS, split, "reinit"), unknown="reinit")
    start_from(fresh, start)
    assert fresh.camera_labels == split
    assert not torch.equal(row(fresh, 1, 10), row(module, 1, 10))


def test_a_plain_head_starts_the_head_of_every_camera(tmp_path: Path) -> None:
    plain = tiny_module(LabelMap((10, 2, 7)))
    start = saved(plain, tmp_path / "a.ckpt")
    module = module_of(fit_camera_labels(start.labels, LABELS, "skip"))
    start_from(module, start)
    assert [own.pids for own in module.camera_labels.values()] == [(10, 2), (2, 7)]
    for camera, pid in ((1, 10), (1, 2), (3, 2), (3, 7)):
        assert torch.equal(row(module, camera, pid), plain.model.heads["identity"].weight[
            start.labels.row(pid)
        ])  # fmt: skip
    heads = saved(module, tmp_path / "b.ckpt")
    for other in (tiny_module(LabelMap((2, 7))), module_of(network={**NETWORK, "cameras": [3, 1]})):
        with pytest.raises(InputError, match=r"cameras \[1, 3\]"):
            start_from(other, heads)


def test_a_soup_has_the_rows_of_both(tmp_path: Path) -> None:
    first, second = module_of(), module_of({1: LabelMap((7, 2)), 3: LabelMap((10,))})
    second.model.heads["c1"].weight.data += 1
    paths = enumerate((first, second))
    both = soup([saved(module, tmp_path / f"{n}.ckpt") for n, module in paths])
    assert [own.pids for own in both.camera_labels.values()] == [(10, 2, 7), (7, 2, 4, 10)]
    for camera, pid, source in ((1, 7, second), (3, 7, first), (1, 10, first), (3, 10, second)):
        torch.testing.assert_close(row(both, camera, pid), row(source, camera, pid))
    mean = (row(first, 1, 2) + row(second, 1, 2)) / 2
    torch.testing.assert_close(row(both, 1, 2), mean)


def test_the_head_check_has_one_line_for_each_camera(
    records: Records, trainer: Callable[..., pl.Trainer], tmp_path: Path
) -> None:
    split = OriginalSplit()(records)
    data = ReIDDataModule(split, (64, 32), identities=4, workers=0, within_camera=True)
    network = {**NETWORK, "cameras": [1, 2, 3, 4, 5, 6]}
    runner = trainer(callbacks=[HeadCheck(1.0)], limit_train_batches=1, limit_test_batches=1)
    module = module_of(split.camera_labels, network=network)
    runner.fit(module, data)
    runner.test(module, data, verbose=False)
    heads = json.loads((tmp_path / "head_check.json").read_text())["heads"]
    assert [head["head"] for head in heads] == ["c1", "c2", "c3", "c4", "c5", "c6"]
    for head in heads:
        own = {r.pid for r in split.train if r.camera == head["camera"]}
        assert head["rows"] == head["identities"] == head["shared"] == len(own)
    runner.save_checkpoint(tmp_path / "last.ckpt")
    loaded = ReIDModule.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert loaded.camera_labels == split.camera_labels
    few = {camera: LabelMap(own.pids[:1]) for camera, own in split.camera_labels.items()}
    module = module_of(few, network=network)
    with pytest.raises(HeadMismatch, match=r"Head 'c1' has 1 rows; 1 .* of camera 1 are among"):
        trainer(callbacks=[HeadCheck(1.0)]).fit(module, data)
    data.keep_only(module.camera_labels)
    assert {(r.pid, r.camera) for r in data.train_records} == {
        (own.pids[0], camera) for camera, own in few.items()
    }
