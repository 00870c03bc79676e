"""camreid-compare and camreid-report: what is typed, what is written, what is refused."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import TINY, Ran
from tests.runs.folders import features, make_run, records

Run = Callable[..., Ran]
TEST = records(range(1, 21))
QUIET = ("trainer=cpu", "data.workers=0", "trainer.enable_progress_bar=false")


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    noise = {"good": 0.2, "bad": 0.6}
    return [make_run(tmp_path / name, features(TEST, n)) for name, n in noise.items()]


def test_the_verdict_is_printed_and_written(run: Run, runs: list[Path]) -> None:
    for _ in range(2):  # its own file is replaced
        ran = run("camreid-compare", *runs, "-o", "o/c.json")
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
        ([good, bad, "-o", "c.csv"], "c.csv"),
        ([good, bad, "-o", good / "metrics.json"], "metrics.json"),
        ([good, bad, "-o", good / "metrics.json" / f"c{suffix}"], f"c{suffix}"),
        ([good, bad, "-o", own], own.name),
    ):
        ran = run(command, *typed)
        assert (ran.code, ran.err.count("\n")) == (1, 1)
        assert ran.err.startswith(f"{command}: ")
        assert named in ran.err
    assert own.read_text() == "precious"


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
    assert "original and resplit are not comparable" in done("camreid-compare", *splits)
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
    assert list(content["options"]) == ["checkpoint"]
    done("camreid-report", "resplit")
    assert "Training loss" in Path("resplit/report.html").read_text()
