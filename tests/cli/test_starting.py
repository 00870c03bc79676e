"""Checkpoints in a command: `init=` of another dataset, `split.exclude_seen`."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

from camreid import FeatureExtractor, create_model
from camreid.checkpoints.io import read_checkpoint, save
from camreid.cli.checkpoints import seen_identities
from camreid.data import OriginalSplit, Records, Split
from camreid.errors import InputError
from camreid.evaluation import FeatureTable
from camreid.labels import LabelMap
from tests.cli.conftest import metrics, refused
from tests.conftest import TINY, Ran, tiny_module, trained

Run = Callable[..., Ran]


def checkpoint(path: Path, *pids: int) -> str:
    """A file of weights that were trained on these identities."""
    save(trained(tiny_module(LabelMap(pids) if pids else LabelMap.anonymous(3))).eval(), path)
    return str(path)


@pytest.fixture
def train(run: Run, market: Path) -> Run:
    common = (f"data.root={market}", *TINY, "trainer.max_epochs=1", "run_dir=r")
    return partial(run, "camreid-train", *common)


def test_identities_of_all_checkpoints(tmp_path: Path) -> None:
    a, b = checkpoint(tmp_path / "a.ckpt", 7, 2), checkpoint(tmp_path / "b.ckpt", 2, 5)
    assert seen_identities(None, ()) == ()
    assert seen_identities(a, ()) == (2, 7)
    assert seen_identities([b, f"{tmp_path}/?.ckpt"], ()) == (2, 5, 7)
    with pytest.raises(InputError, match=r"anonymous\.ckpt"):
        seen_identities([a, checkpoint(tmp_path / "anonymous.ckpt")], ())


@pytest.mark.slow
def test_what_does_not_go_together(train: Run, records: Records) -> None:
    pids = sorted({r.pid for r in (*records.train, *records.query)})
    checkpoint(Path("all.ckpt"), *pids)
    seen = f"split.exclude_seen={checkpoint(Path('some.ckpt'), *pids[:3])}"
    for typed, expected in (
        (["split.exclude_seen=all.ckpt"], "24 of the 24 identities"),
        ([seen, "split.by=image"], "by=identity"),
        ([seen, "split.manifest=some.ckpt"], "split.manifest and split.exclude_seen"),
        (["init=some.ckpt", "init_dataset=other"], "model.unknown=reinit"),
    ):
        assert expected in refused(train("+split=resplit", *typed))


@pytest.mark.slow
def test_no_tested_identity_was_seen(train: Run, run: Run, market: Path) -> None:
    expert = train("+split=original", "split.camera=3", "run_dir=expert")
    assert expert.code == 0, expert.err
    weights = "expert/checkpoints/best.ckpt"
    resplit = ("+split=resplit", "split.val_fraction=0", f"split.exclude_seen={weights}")
    tuned = train(*resplit, f"init={weights}", "run_dir=tuned")
    assert tuned.code == 0, tuned.err
    quiet = (f"data.root={market}", "trainer=cpu", "data.workers=0", "run_dir=tested")
    tested = run("camreid-evaluate", *quiet, *resplit, f"checkpoint={weights}")
    assert tested.code == 0, tested.err
    opencv = ("run_dir=opencv", "interpolation=opencv")
    assert (
        run("camreid-evaluate", *quiet[:-1], *resplit, f"checkpoint={weights}", *opencv).code == 0
    )
    query = FeatureTable.load("opencv/features.safetensors").query
    extract = FeatureExtractor(weights, interpolation="opencv")
    torch.testing.assert_close(query.features, extract(list(query.paths)))
    split, again = (Split.load(Path(folder, "split.csv")) for folder in ("tuned", "tested"))
    assert split.digest == again.digest
    pids = {r.pid for r in (*split.query, *split.gallery) if r.pid > 0}
    assert read_checkpoint(weights).provenance.seen.isdisjoint(pids)
    assert metrics("tuned")["split"]["options"]["excluded"] > 0
    assert yaml.safe_load(Path("tuned/config.yaml").read_text())["split"]["exclude_seen"] == weights


@pytest.mark.slow
def test_training_identities_of_an_anonymous_start_stay_unknown(train: Run, run: Run) -> None:
    save(create_model("small", LabelMap.anonymous(5)), "anonymous.ckpt")
    start = ("init=anonymous.ckpt", "model.unknown=reinit")
    assert train("+split=resplit", *start).code == 0
    weights = Path("r", "checkpoints", "best.ckpt")
    assert read_checkpoint(weights).provenance.seen
    assert not read_checkpoint(weights).provenance.complete
    assert metrics("r")["seen_complete"] is False
    again = train("+split=resplit", f"split.exclude_seen={weights}", "run_dir=again")
    assert str(weights) in again.err
    assert run("camreid-evaluate", "features=r/features.safetensors", "run_dir=f").code == 0
    assert metrics("f")["seen_complete"] is False


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["other", "same"])
def test_identities_of_another_dataset(
    dataset: str, run: Run, market: Path, records: Records
) -> None:
    tested = {r.pid for r in records.query}
    checkpoint(Path("start.ckpt"), *sorted(tested))
    ran = run(
        "camreid-train", "+split=original", f"data.root={market}", *TINY[3:], "run_dir=r",
        "trainer.max_epochs=1", "init=start.ckpt", f"init_dataset={dataset}",
        "model.unknown=reinit",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    found = read_checkpoint("r/checkpoints/best.ckpt").provenance
    own = set(OriginalSplit()(records).labels.pids)
    assert found.seen == (own if dataset == "other" else own | tested)
    assert found.complete
    assert [parent.role for parent in found.parents] == ["init"]
