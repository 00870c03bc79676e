"""Checkpoints in a command: `init=` of another dataset, `split.exclude_seen`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from camreid import create_model
from camreid.checkpoints.io import read_checkpoint, save
from camreid.cli.checkpoints import seen_identities
from camreid.data import OriginalSplit, Records, Split
from camreid.errors import InputError
from camreid.labels import LabelMap
from tests.conftest import TINY, Ran, tiny_module, trained

Run = Callable[..., Ran]
QUIET = [option for option in TINY if not option.startswith("model")]


def checkpoint(path: Path, *pids: int) -> str:
    """A file of weights that were trained on these identities."""
    save(trained(tiny_module(LabelMap(pids) if pids else LabelMap.anonymous(3))).eval(), path)
    return str(path)


def pids_of(split: Split) -> set[int]:
    return {r.pid for r in (*split.query, *split.gallery) if r.pid > 0}


def test_identities_of_all_checkpoints(tmp_path: Path) -> None:
    a, b = checkpoint(tmp_path / "a.ckpt", 7, 2), checkpoint(tmp_path / "b.ckpt", 2, 5)
    assert seen_identities(None) == ()
    assert seen_identities(a) == (2, 7)
    assert seen_identities([b, f"{tmp_path}/?.ckpt"]) == (2, 5, 7)
    with pytest.raises(InputError, match=r"anonymous\.ckpt"):
        seen_identities([a, checkpoint(tmp_path / "anonymous.ckpt")])


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["split.exclude_seen=all.ckpt"], "24 of the 24 identities"),
        (["split.exclude_seen=some.ckpt", "split.by=image"], "by=identity"),
        (
            ["split.exclude_seen=some.ckpt", "split.manifest=m.csv"],
            "split.manifest and split.exclude_seen",
        ),
        (["init=some.ckpt", "init_dataset=other"], "model.unknown=reinit"),
    ],
)
def test_what_does_not_go_together(
    typed: list[str], expected: str, run: Run, market: Path, records: Records
) -> None:
    pids = sorted({r.pid for r in (*records.train, *records.query)})
    checkpoint(Path("all.ckpt"), *pids)
    checkpoint(Path("some.ckpt"), *pids[:3])
    ran = run("camreid-train", "+split=resplit", f"data.root={market}", *TINY, "run_dir=r", *typed)
    assert ran.code == 1
    assert expected in ran.err
    assert "\n" not in ran.err.strip()
    assert not Path("r").exists()


@pytest.mark.slow
def test_no_tested_identity_was_seen(run: Run, market: Path) -> None:
    common = (f"data.root={market}", *TINY, "trainer.max_epochs=1")
    expert = run("camreid-train", *common, "+split=original", "split.camera=3", "run_dir=expert")
    assert expert.code == 0, expert.err
    weights = "expert/checkpoints/best.ckpt"
    resplit = ("+split=resplit", "split.val_fraction=0", f"split.exclude_seen={weights}")
    tuned = run("camreid-train", *common, *resplit, f"init={weights}", "run_dir=tuned")
    assert tuned.code == 0, tuned.err
    quiet = (f"data.root={market}", "trainer=cpu", "data.workers=0")
    tested = run("camreid-evaluate", *quiet, *resplit, f"checkpoint={weights}", "run_dir=tested")
    assert tested.code == 0, tested.err
    splits = [Split.load(Path(folder, "split.csv")) for folder in ("tuned", "tested")]
    assert splits[0].digest == splits[1].digest
    assert read_checkpoint(weights).provenance.seen.isdisjoint(pids_of(splits[0]))
    metrics = json.loads(Path("tuned", "metrics.json").read_text())
    assert metrics["split"]["options"]["excluded"] > 0
    assert yaml.safe_load(Path("tuned/config.yaml").read_text())["split"]["exclude_seen"] == weights


@pytest.mark.slow
def test_training_identities_of_an_anonymous_start_stay_unknown(run: Run, market: Path) -> None:
    save(create_model("small", LabelMap.anonymous(5)), "anonymous.ckpt")
    common = (f"data.root={market}", *TINY, "trainer.max_epochs=1", "+split=resplit")
    start = ("init=anonymous.ckpt", "model.unknown=reinit", "run_dir=t")
    assert run("camreid-train", *common, *start).code == 0
    weights = Path("t", "checkpoints", "best.ckpt")
    assert read_checkpoint(weights).provenance.seen
    assert not read_checkpoint(weights).provenance.complete
    assert json.loads(Path("t", "metrics.json").read_text())["seen_complete"] is False
    refused = run("camreid-train", *common, f"split.exclude_seen={weights}", "run_dir=r")
    assert str(weights) in refused.err
    assert run("camreid-evaluate", "features=t/features.safetensors", "run_dir=f").code == 0
    assert json.loads(Path("f", "metrics.json").read_text())["seen_complete"] is False


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["other", "same"])
def test_identities_of_another_dataset(
    dataset: str, run: Run, market: Path, records: Records
) -> None:
    tested = {r.pid for r in records.query}
    checkpoint(Path("start.ckpt"), *sorted(tested))
    ran = run(
        "camreid-train", "+split=original", f"data.root={market}", *QUIET, "trainer.max_epochs=1",
        "run_dir=r", "init=start.ckpt", f"init_dataset={dataset}", "model.unknown=reinit",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    found = read_checkpoint("r/checkpoints/best.ckpt").provenance
    own = set(OriginalSplit()(records).labels.pids)
    assert found.seen == (own if dataset == "other" else own | tested)
    assert found.complete
    assert [parent.role for parent in found.parents] == ["init"]
