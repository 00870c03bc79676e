"""camreid-compare and camreid-report: what is typed, what is written, what is refused."""

import csv
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from camreid.checkpoints.io import save
from camreid.data import Records
from camreid.labels import LabelMap
from camreid.provenance import Dataset
from tests.cli.conftest import imported, refused
from tests.conftest import TINY, Ran, tiny_module, trained
from tests.runs.folders import change, features, make_run
from tests.runs.folders import records as made

Run = Callable[..., Ran]
TEST = made(range(1, 21))
QUIET = ("trainer=cpu", "data.workers=0", "trainer.enable_progress_bar=false")


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    noise = {"good": 0.2, "bad": 0.6}
    return [make_run(tmp_path / name, features(TEST, n)) for name, n in noise.items()]


def test_the_verdict_is_printed_and_written(run: Run, runs: list[Path]) -> None:
    Path("multirun.yaml").touch()  # of Hydra, in runs/sweep/*
    for _ in range(2):  # its own file is replaced
        ran = run("camreid-compare", *runs, "multirun.yaml", "-o", "o/c.json")
        assert ran.code == 0, ran.err
    (pair,) = json.loads(Path("o/c.json").read_text())["pairs"]
    assert pair["verdict"] in ran.out
    assert pair["better"] == str(runs[0])
    assert pair["differences"]["mAP"]["p"] < 0.05


@pytest.mark.parametrize("command", ["camreid-compare", "camreid-report"])
def test_mistakes_are_one_paragraph(command: str, run: Run, runs: list[Path]) -> None:
    good, bad = runs
    suffix = ".json" if command == "camreid-compare" else ".html"
    Path("empty").mkdir()
    own = Path(f"own{suffix}")
    own.write_text("precious")
    for typed, named in (
        ([good, "empty"], "empty"),
        ([good, "gone"], "gone"),
        ([good, bad, "-o", "c.txt"], "c.txt"),
        ([good, bad, "-o", good / "metrics.json"], "metrics.json"),
        ([good, bad, "-o", good / "metrics.json" / f"c{suffix}"], f"c{suffix}"),
        ([good, bad, "-o", own], own.name),
    ):
        ran = run(command, *typed)
        assert (ran.code, ran.err.count("\n")) == (1, 1)
        assert ran.err.startswith(f"{command}: ")
        assert named in ran.err
    assert own.read_text() == "precious"


@pytest.mark.slow
def test_a_report_is_written_into_the_run_if_its_packages_are_there(
    run: Run, runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        ran = run("camreid-report", *runs)
        assert ran.code == 0, ran.err
    assert f"{runs[0]} is better than" in (runs[0] / "report.html").read_text()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.delitem(sys.modules, "camreid.runs.report.page", raising=False)
    ran = run("camreid-report", *runs)
    assert ran.code == 1
    assert "pip install 'camreid[report]'" in ran.err


def compare(run: Run, market: Path, *typed: object) -> Ran:
    return run("camreid-compare", *typed, f"data.root={market}", *QUIET, "run_dir=r")


@pytest.mark.slow
def test_checkpoints_that_saw_no_test_identity_get_the_official_test(
    run: Run, market: Path, experts: list[Path]
) -> None:
    ran = compare(run, market, *experts)
    assert ran.code == 0, ran.err
    assert "Test   the official one" in ran.out
    assert "Test of 2 (2 of 2)" in ran.out
    assert "(original split, camera 1)" in ran.out
    assert "(original split, camera 2)" in ran.out
    assert {path.name for path in Path("r").glob("*/metrics.json")} == {"metrics.json"}


@pytest.mark.slow
def test_checkpoints_of_another_dataset_are_tested_on_almost_all_own_images(
    run: Run, records: Records, tmp_path: Path
) -> None:
    for n in (1, 2):
        module = trained(tiny_module(LabelMap((1, 2, 3)), name=f"net{n}"))
        module.provenance = replace(module.provenance, datasets=(Dataset("other"),))
        save(module.eval(), tmp_path / f"{n}.ckpt")
    images = [r for r in (*records.train, *records.query, *records.gallery) if r.pid > 0]
    lines = [f"{r.path},{r.pid},{r.camera}" for r in images]
    (tmp_path / "own.csv").write_text("\n".join(["path,identity,camera", *lines]))
    data = ("data=csv", "data.path=own.csv", *QUIET, "run_dir=r")
    ran = run("camreid-compare", "1.ckpt", "2.ckpt", *data)
    assert ran.code == 0, ran.err
    assert f"re-split, {len({r.pid for r in images}) - 2} identities" in ran.out


@pytest.mark.slow
def test_a_run_folder_beside_a_checkpoint_is_tested_anew(
    run: Run, market: Path, experts: list[Path], records: Records
) -> None:
    folder = make_run(experts[0].parent / "old", features(records))
    change(folder, weights=str(experts[0]))
    ran = compare(run, market, folder, experts[1], "-o", "c.csv")
    assert ran.code == 0, ran.err
    rows = list(csv.reader(Path("c.csv").read_text().splitlines()))
    assert rows[0][:4] == ["camreid-compare", "queries", "mAP", "mAP interval"]
    assert [row[0] for row in rows[1:]] == ["1", "2"]
    assert all(0 < float(row[2]) < 100 for row in rows[1:])


def test_checkpoints_that_cannot_be_compared_are_refused(
    run: Run, market: Path, experts: list[Path]
) -> None:
    imported(experts[0].with_name("other.ckpt"), 1, LabelMap((7001, 7002, 7003)), seed=5)
    imported(experts[0].with_name("unknown.ckpt"), None, LabelMap.anonymous(5), seed=5)
    for other, part in (
        ("other.ckpt", "was trained on another dataset"),
        ("unknown.ckpt", "labels.root="),
        ("1.ckpt", "two or more"),
        ("gone.ckpt", "there is no gone.ckpt"),
    ):
        assert part in refused(compare(run, market, "1.ckpt", other))


@pytest.mark.slow
def test_resplit_or_original_from_training_to_verdict(run: Run, market: Path) -> None:
    def done(*command: str) -> str:
        ran = run(*command)
        assert ran.code == 0, ran.err
        return ran.out

    splits, root = ("original", "resplit"), f"data.root={market}"
    train = ("camreid-train", root, *TINY, "trainer.max_epochs=1", "split.val_fraction=0.2")
    for split in splits:
        done(*train, f"+split={split}", f"run_dir={split}")
    assert "original (original split) and resplit (re-split) are not comparable" in done(
        "camreid-compare", *splits
    )
    weights = [f"{split}/checkpoints/best.ckpt" for split in splits]
    unseen = f"split.exclude_seen=[{','.join(weights)}]"
    test = ("camreid-evaluate", root, *QUIET, "+split=resplit", "split.train_fraction=0.3", unseen)
    for split, checkpoint in zip(splits, weights, strict=True):
        done(*test, "split.val_fraction=0", f"checkpoint={checkpoint}", f"run_dir=test-{split}")
    done("camreid-compare", "test-original", "test-resplit/", "-o", "c.json")
    content = json.loads(Path("c.json").read_text())
    (pair,) = content["pairs"]
    assert (pair["leaked"], pair["complete"]) == (0, True)
    assert pair["queries"] > 0
    assert content["options"]["split._target_"] == [
        "camreid.data.OriginalSplit",
        "camreid.data.Resplit",
    ]
    ran = done("camreid-compare", *weights, root, *QUIET, "run_dir=both", "-o", "both.json")
    again = json.loads(Path("both.json").read_text())
    assert sorted(again["pairs"][0]["titles"]) == [
        "original (original split)",
        "resplit (re-split)",
    ]
    assert "identities that none of the 2 checkpoints was trained on" in ran
    assert "Head check" in ran
    done("camreid-report", "resplit")
    assert "Training loss" in Path("resplit/report.html").read_text()
