"""A checkpoint follows the numbers of the data that it is used with."""

from dataclasses import replace
from pathlib import Path

import torch

from camreid.checkpoints import Checkpoint
from camreid.checkpoints.renumbering import renumber
from camreid.evaluation.verification import Calibration
from camreid.labels import LabelMap
from camreid.provenance import CAMERAS, PIDS, Dataset
from tests.conftest import saved, tiny_module, trained

OLD = Dataset("csv", {"anna": 1, "carl": 2}, {"gate": 1, "yard": 2})
NEW = Dataset("csv", {"anna": 1, "bob": 2, "carl": 3}, {"gate": 1, "hall": 2, "yard": 3})


def checkpoint(tmp_path: Path, *datasets: Dataset, pids: tuple[int, ...] = (2, 1)) -> Checkpoint:
    module = trained(tiny_module(LabelMap(pids)), camera=2)
    module.provenance = replace(module.provenance, datasets=datasets)
    return saved(module, tmp_path / "a.ckpt")


def test_equal_names_get_equal_numbers(tmp_path: Path) -> None:
    calibration = Calibration(10.0, -5.0, 100, cameras={"1-2": (1.0, 2.0)})
    own = replace(checkpoint(tmp_path, OLD), calibration=calibration)
    found = renumber(own, [NEW])
    assert found.calibration == replace(calibration, cameras={"1-3": (1.0, 2.0)})
    assert found.labels.pids == (3, 1)
    assert found.module().labels.pids == (3, 1)
    assert found.provenance.identities == {1, 3}
    assert found.provenance.split.camera == 3
    assert found.provenance.datasets == (NEW,)


def test_names_that_the_data_lacks_are_no_identity_of_it(tmp_path: Path) -> None:
    found = renumber(checkpoint(tmp_path, OLD), [Dataset("csv", {"carl": 1}, {"gate": 1})])
    assert found.labels.pids == (1, PIDS + 1)
    assert found.provenance.split.camera == CAMERAS + 2
    again = replace(found, provenance=replace(found.provenance))
    assert renumber(again, [Dataset("csv", {"carl": 1}, {"gate": 1})]).labels == found.labels
    assert renumber(again, [OLD]).labels.pids == (2, 1)


def test_equal_numbers_of_two_datasets_are_different_identities(tmp_path: Path) -> None:
    own = checkpoint(tmp_path, Dataset("market1501"))
    assert renumber(own, [Dataset("market1501")]).labels.pids == (2, 1)
    assert renumber(own, [Dataset("msmt17")]).provenance.identities == {PIDS + 1, PIDS + 2}
    both = checkpoint(tmp_path, Dataset("market1501"), Dataset("msmt17"), pids=(4, PIDS + 4))
    assert renumber(both, [Dataset("msmt17")]).labels.pids == (PIDS + 4, 4)


def test_without_a_record_of_datasets_numbers_stay(tmp_path: Path) -> None:
    own = checkpoint(tmp_path)
    assert renumber(own, [NEW]) is own
    assert renumber(own, []) is own
    nameless = checkpoint(tmp_path, OLD, pids=(-2, -3))
    assert renumber(nameless, [NEW]).labels.is_anonymous


def test_heads_per_camera_follow_the_names_of_cameras(tmp_path: Path) -> None:
    network = {"cameras": [1, 2], "camera_heads": True, "camera_norm": True}
    config = {"network": {**tiny_module(LabelMap((1,))).config.network, **network}}
    module = tiny_module({1: LabelMap((1, 2)), 2: LabelMap((2,))}, **config)
    images = torch.randint(0, 256, (4, 3, 64, 32), dtype=torch.uint8)
    for name, values in module.named_buffers():
        if name.endswith("camera_mean"):
            values.normal_()
        if name.endswith("camera_batches"):
            values.fill_(1)
    module.provenance = replace(module.provenance, datasets=(OLD,))
    found = renumber(saved(module, tmp_path / "a.ckpt"), [NEW])
    assert {c: m.pids for c, m in found.camera_labels.items()} == {1: (1, 3), 3: (3,)}
    outputs = [
        network(images, cameras=torch.tensor([camera, camera, 1, 1])).features
        for network, camera in ((module.eval().model, 2), (found.module().model, 3))
    ]
    assert torch.equal(*outputs)
    swapped = module.model(images, cameras=torch.tensor([1, 1, 1, 1])).features
    assert not torch.allclose(outputs[0], swapped)
