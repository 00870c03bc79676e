"""A checkpoint file is data: what comes back of it, and what is refused."""

import importlib.metadata
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from camreid.checkpoints import import_weights
from camreid.checkpoints.io import decision_notes, load, read_checkpoint, save
from camreid.errors import InputError
from camreid.evaluation import Calibration
from camreid.labels import LabelMap
from tests.conftest import tiny_module
from tests.runs.folders import features, make_run, records

Content = dict[str, Any]
PIDS = "model.heads.identity.pids"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save(tiny_module(LabelMap((10, 2, 7))), tmp_path / "m.ckpt", {"k": 1})
    return tmp_path / "m.ckpt"


def config(content: Content) -> Content:
    return content["hyper_parameters"]["config"]


def network(content: Content) -> Content:
    return config(content)["network"]


def change(checkpoint: Path, change: Callable[[Content], object]) -> None:
    content = torch.load(checkpoint, weights_only=True)
    change(content)
    torch.save(content, checkpoint)


def test_a_model_comes_back_with_its_identities(checkpoint: Path) -> None:
    module, original = load(checkpoint), tiny_module(LabelMap((10, 2, 7)))
    images = torch.randint(0, 256, (2, 3, 64, 32), dtype=torch.uint8)
    assert module.labels.pids == (10, 2, 7)
    assert not module.training
    assert torch.equal(module.model(images).features, original.eval().model(images).features)
    assert read_checkpoint(checkpoint).notes["k"] == 1


def test_a_checkout_without_installed_metadata_saves_and_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def distribution(name: str) -> object:
        if name == "camreid":
            raise importlib.metadata.PackageNotFoundError(name)
        return SimpleNamespace(version="1.0")

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    save(tiny_module(LabelMap((5, 3))), tmp_path / "m.ckpt")
    assert read_checkpoint(tmp_path / "m.ckpt").notes["versions"]["camreid"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no checkpoint at"),
        (b"PK\x03\x04", "its 4 bytes can't be read"),
        ({"epoch": 3}, "is no camreid checkpoint: it holds epoch"),
        ([1, 2], "holds a list"),
        ({"state_dict": {}, "hyper_parameters": {}}, "camreid 0.1"),
        ({"model": {"conv1.weight": torch.zeros(1)}}, "import them first"),
        ({"conv1.weight": torch.zeros(1)}, "import them first"),
    ],
)
def test_files_that_are_no_checkpoint_are_refused(
    checkpoint: Path, content: object, message: str
) -> None:
    path = checkpoint.with_name("other.ckpt")
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(InputError, match=message):
        load(path)


@pytest.mark.parametrize("read", [load, partial(import_weights, model="bot_r50")])
def test_pickled_code_is_not_run(read: Callable[[Path], object], tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("the trap was sprung",)

    torch.save({"state_dict": Trap()}, tmp_path / "trap.ckpt")
    with pytest.raises(InputError, match=r"holds pickled code \(.*print\)"):
        read(tmp_path / "trap.ckpt")


def test_only_a_class_that_the_user_names_is_imported(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text("from camreid.models import Baseline as Network\n")
    monkeypatch.syspath_prepend(tmp_path)
    for target in ("os.system", "camreid.cli.train.main", ["mine.Network"], None, "mine.Network"):
        change(checkpoint, lambda c, t=target: network(c).update(_target_=t))
        with pytest.raises(InputError, match=r"_target_|mine\.Network|is not imported"):
            load(checkpoint)
    assert "mine" not in sys.modules
    assert load(checkpoint, trusted=["mine.Network"]).labels


def _nested() -> torch.Tensor:
    return torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])


WRONG: dict[str, Callable[[Content], object]] = {
    "config of text": lambda c: c["hyper_parameters"].update(config="text"),
    "network of text": lambda c: config(c).update(network="text"),
    "unknown option": lambda c: config(c).update(more=1),
    "loss of numbers": lambda c: config(c).update(loss=[1]),
    "interpolation": lambda c: config(c).update(name="${oc.env:HOME}"),
    "size of text": lambda c: config(c).update(image_size="ab"),
    "address as backbone": lambda c: network(c).update(backbone="hf-hub:user/model"),
    "number as backbone": lambda c: network(c).update(backbone=5),
    "weights of another file": lambda c: network(c).update(weights=["/etc/passwd"], neck=3),
    "vast layer": lambda c: network(c).update(projection=10**12),
    "other network": lambda c: network(c).update(backbone="resnet10t"),
    "cameras of text": lambda c: network(c).update(camera_heads=True, cameras="ab"),
    "head that is missing": lambda c: c["state_dict"].pop(PIDS),
    "fewer identities": lambda c: c["state_dict"].update({PIDS: torch.tensor([10, 2])}),
    "repeated identities": lambda c: c["state_dict"].update({PIDS: torch.tensor([10, 2, 2])}),
    "identities of floats": lambda c: c["state_dict"].update({PIDS: torch.ones(3)}),
    "vast tensor": lambda c: c["state_dict"].update({PIDS: torch.ones(1).long().expand(10**12)}),
    "nested tensor": lambda c: c["state_dict"].update({PIDS: _nested()}),
    "tensor of another kind": lambda c: c["state_dict"].update(
        {"model.neck.weight": torch.ones(96, dtype=torch.int64)}
    ),
    "no number": lambda c: c["state_dict"]["model.neck.weight"].fill_(torch.nan),
    "no record": lambda c: c["camreid"].pop("provenance"),
    "record of numbers": lambda c: c["camreid"].update(provenance={"complete": True, "split": 3}),
    "parents of numbers": lambda c: c["camreid"]["provenance"].update(parents=3),
    "identities of text": lambda c: c["camreid"]["provenance"].update(identities=["a"]),
    "epoch of text": lambda c: c.update(epoch="1"),
}


@pytest.mark.filterwarnings("ignore:.*nested tensors")
@pytest.mark.parametrize("how", WRONG)
def test_what_no_run_wrote_is_refused(checkpoint: Path, how: str) -> None:
    change(checkpoint, WRONG[how])
    with pytest.raises(InputError) as refused:
        load(checkpoint)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("part", ["network", "loss", "optimizer", "schedule"])
def test_a_group_of_the_config_that_is_no_mapping_is_refused(checkpoint: Path, part: str) -> None:
    change(checkpoint, lambda c: config(c).update({part: 2**70}))
    with pytest.raises(InputError, match="no model config"):
        read_checkpoint(checkpoint)


@pytest.mark.parametrize(
    "note",
    [
        {"config": "a: ["},
        {"config": "&x [*x]"},
        {"head_check": torch.zeros(2)},
        {"x": float("inf")},
    ],
)
def test_notes_that_no_run_writes_are_refused(note: Content, checkpoint: Path) -> None:
    change(checkpoint, lambda content: content["camreid"].update(note))
    with pytest.raises(InputError, match="no checkpoint that a run wrote"):
        read_checkpoint(checkpoint)


@pytest.mark.slow
def test_a_file_that_repeats_its_parts_without_end_is_refused(checkpoint: Path) -> None:
    part: list[Any] = [1]
    for _ in range(30):
        part = [part] * 9
    change(checkpoint, lambda content: config(content)["network"].update(layers=part))
    with pytest.raises(InputError, match="10,000,000 of them"):
        read_checkpoint(checkpoint)


def test_the_calibration_and_the_thresholds_of_the_run_are_text_for_an_export(
    tmp_path: Path,
) -> None:
    module = tiny_module(LabelMap((2, 7)))
    module.calibration = Calibration(9.0, -4.0, 120, cameras={"1-2": (8.0, -3.0)})
    run = make_run(tmp_path / "run", features(records(range(1, 9))))
    for name in ("best", "last"):
        save(module, run / "checkpoints" / f"{name}.ckpt")
    found = decision_notes(read_checkpoint(run / "checkpoints" / "best.ckpt"))
    assert Calibration.from_json(json.loads(found["calibration"])) == module.calibration
    kept = json.loads((run / "metrics.json").read_text())["verification"]
    assert json.loads(found["thresholds"]) == kept
    assert list(decision_notes(read_checkpoint(run / "checkpoints" / "last.ckpt"))) == [
        "calibration"
    ]
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["evaluation"]["neck"] = "before"  # the file has the features after it
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert "thresholds" not in decision_notes(read_checkpoint(run / "checkpoints" / "best.ckpt"))
    save(tiny_module(LabelMap((2, 7))), tmp_path / "alone.ckpt")
    assert decision_notes(read_checkpoint(tmp_path / "alone.ckpt")) == {}


def test_a_broken_calibration_is_refused(tmp_path: Path) -> None:
    save(tiny_module(LabelMap((2, 7))), tmp_path / "a.ckpt", {"calibration": {"slope": "steep"}})
    with pytest.raises(InputError, match=r"a\.ckpt .* Calibration is broken"):
        read_checkpoint(tmp_path / "a.ckpt")
