"""What a run starts from, and whose people that knows."""

from collections.abc import Callable
from pathlib import Path

import pytest

from camreid.checkpoints.io import read_checkpoint, save
from camreid.data import OriginalSplit, Records
from camreid.labels import LabelMap
from tests.conftest import TINY, Ran, tiny_module, trained

Run = Callable[..., Ran]
pytestmark = pytest.mark.slow


@pytest.fixture
def foreign(records: Records, tmp_path: Path) -> Path:
    """Trained on another dataset, whose numbers are some of those of this one's test."""
    labels = LabelMap(tuple(sorted({r.pid for r in records.query})))
    save(trained(tiny_module(labels)).eval(), tmp_path / "foreign.ckpt")
    return tmp_path / "foreign.ckpt"


@pytest.fixture
def train(run: Run, market: Path, foreign: Path) -> Run:
    def command(*arguments: object) -> Ran:
        own = [option for option in TINY if not option.startswith("model")]  # as init= has it
        options = (f"data.root={market}", *own, "trainer.max_epochs=1", "run_dir=r")
        return run("camreid-train", "+split=original", *options, f"init={foreign}", *arguments)

    return command


def test_people_of_another_dataset_are_seen_by_nobody(train: Run, records: Records) -> None:
    ran = train("init_dataset=other", "model.unknown=reinit")
    assert ran.code == 0, ran.err
    found = read_checkpoint("r/checkpoints/best.ckpt")
    assert found.provenance.seen == set(OriginalSplit()(records).labels.pids)
    assert found.provenance.complete
    assert [parent.role for parent in found.provenance.parents] == ["init"]
    assert "Leakage:" not in ran.out


def test_people_are_those_of_this_dataset_by_default(train: Run, records: Records) -> None:
    ran = train("model.unknown=reinit")
    assert ran.code == 0, ran.err
    assert {r.pid for r in records.query} <= read_checkpoint(
        "r/checkpoints/best.ckpt"
    ).provenance.seen
    assert "Leakage:" in ran.out


def test_rows_of_another_dataset_are_nobodys_here(train: Run) -> None:
    for typed, said in (
        (("init_dataset=other",), "model.unknown=reinit"),
        (("init_dataset=others",), "init_dataset=others"),
        (("init_dataset=other", "model.unknown=reinit", "init=null"), "no init="),
    ):
        ran = train(*typed)
        assert ran.code == 1
        assert said in ran.err
        assert "Traceback" not in ran.err
        assert not Path("r").exists()
