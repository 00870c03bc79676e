"""A re-split whose test people a checkpoint has never seen."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from camreid import create_model
from camreid.checkpoints.io import read_checkpoint, save
from camreid.cli.checkpoints import seen_identities
from camreid.data import Records, Split
from camreid.data.records import people
from camreid.errors import InputError
from camreid.labels import LabelMap
from tests.conftest import TINY, Ran, tiny_module, trained

Run = Callable[..., Ran]


def checkpoint(path: Path, *pids: int) -> str:
    """A file of weights that were trained on these people."""
    save(trained(tiny_module(LabelMap(pids) if pids else LabelMap.anonymous(3))), path)
    return str(path)


def test_all_whom_any_checkpoint_has_seen(tmp_path: Path) -> None:
    a, b = checkpoint(tmp_path / "a.ckpt", 7, 2), checkpoint(tmp_path / "b.ckpt", 2, 5)
    assert seen_identities(None) == ()
    assert seen_identities(a) == (2, 7)
    assert seen_identities([b, a]) == seen_identities([a, b]) == (2, 5, 7)
    assert (
        seen_identities(f"{tmp_path}/*.ckpt")
        == seen_identities([a, f"{tmp_path}/?.ckpt"])
        == (2, 5, 7)
    )
    with pytest.raises(InputError, match=r"no file matches split\.exclude_seen="):
        seen_identities(f"{tmp_path}/*.pth")


def test_a_checkpoint_that_knows_nobody_is_refused(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "anonymous.ckpt")
    with pytest.raises(InputError, match=r"anonymous\.ckpt"):
        seen_identities([path])


@pytest.mark.parametrize("value", [3, "", ["a.ckpt", None], {"a": 1}, True])
def test_what_is_no_path_is_refused(value: object) -> None:
    with pytest.raises(InputError, match=r"expected checkpoints, such as split\.exclude_seen="):
        seen_identities(value)


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (["split.exclude_seen=all.ckpt"], "24 of the 24 identities"),
        (["split.exclude_seen=anonymous.ckpt"], "split.exclude_seen=anonymous.ckpt"),
        (["split.exclude_seen=gone.ckpt"], "no checkpoint at gone.ckpt"),
        (["split.exclude_seen=some.ckpt", "split.by=image"], "split.by=identity"),
        (["split.exclude_seen=some.ckpt", "split.manifest=m.csv"], "Leave one of the two out"),
    ],
)
def test_what_can_not_be_is_said_in_a_paragraph(
    typed: list[str], says: str, run: Run, market: Path, records: Records
) -> None:
    everyone = people((*records.train, *records.query))
    checkpoint(Path("all.ckpt"), *everyone)
    checkpoint(Path("some.ckpt"), *everyone[:3])
    checkpoint(Path("anonymous.ckpt"))
    ran = run("camreid-train", "+split=resplit", f"data.root={market}", *TINY, "run_dir=r", *typed)
    assert ran.code == 1
    assert says in ran.err
    assert "\n" not in ran.err.strip()
    assert not Path("r").exists()


@pytest.mark.slow
def test_nobody_tested_on_was_seen_by_the_expert_or_by_what_it_becomes(
    run: Run, market: Path
) -> None:
    common = (f"data.root={market}", *TINY, "trainer.max_epochs=1")
    expert = run("camreid-train", *common, "+split=original", "split.camera=3", "run_dir=expert")
    assert expert.code == 0, expert.err
    weights = "expert/checkpoints/best.ckpt"
    resplit = ("+split=resplit", "split.val_fraction=0", f"split.exclude_seen={weights}")
    tuned = run("camreid-train", *common, *resplit, f"init={weights}", "run_dir=tuned")
    assert tuned.code == 0, tuned.err
    tested = run(
        "camreid-evaluate", f"data.root={market}", "trainer=cpu", "data.workers=0",
        "trainer.enable_progress_bar=false", *resplit, f"checkpoint={weights}", "run_dir=tested",
    )  # fmt: skip
    assert tested.code == 0, tested.err
    seen = read_checkpoint(weights).provenance.seen
    for folder in ("tuned", "tested"):
        split = Split.load(Path(folder, "split.csv"))
        assert seen.isdisjoint(people((*split.query, *split.gallery)))
        metrics = json.loads(Path(folder, "metrics.json").read_text())
        assert metrics["leak"]["seen"]["queries"] == 0
        assert metrics["leak"]["unseen"]["queries"] == len(split.query) > 0
        assert metrics["split"]["options"]["excluded"] > 0
    assert yaml.safe_load(Path("tuned/config.yaml").read_text())["split"]["exclude_seen"] == weights
    digests = {Split.load(Path(f, "split.csv")).digest for f in ("tuned", "tested")}
    assert len(digests) == 1


@pytest.mark.slow
def test_what_became_of_an_anonymous_file_has_seen_nobody_knows_whom(
    run: Run, market: Path
) -> None:
    save(create_model("small", LabelMap.anonymous(5)), "anonymous.ckpt")
    common = (f"data.root={market}", *TINY, "trainer.max_epochs=1", "+split=resplit")
    tuned = run(
        "camreid-train", *common, "init=anonymous.ckpt", "model.unknown=reinit", "run_dir=t"
    )
    assert tuned.code == 0, tuned.err
    weights = Path("t", "checkpoints", "best.ckpt")
    assert read_checkpoint(weights).provenance.seen
    assert not read_checkpoint(weights).provenance.complete
    assert "leakage may be larger" in tuned.out
    assert json.loads(Path("t", "metrics.json").read_text())["seen_complete"] is False
    refused = run("camreid-train", *common, f"split.exclude_seen={weights}", "run_dir=r")
    assert refused.code == 1
    assert str(weights) in refused.err
    again = run("camreid-evaluate", "features=t/features.safetensors", "run_dir=f")
    assert again.code == 0, again.err
    assert "leakage may be larger" in again.out
