"""camreid-compare: what is typed, what is written, what is refused."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import TINY, Ran
from tests.runs.test_compare import make_run

Run = Callable[..., Ran]


def refused(ran: Ran) -> str:
    assert ran.code == 1
    assert "Traceback" not in ran.err + ran.out
    paragraph = ran.err.strip()
    assert "\n" not in paragraph, paragraph
    assert paragraph.startswith("camreid-compare: ")
    return paragraph


def test_tables_and_both_files(run: Run) -> None:
    make_run(Path("runs/good"), 0.2)
    make_run(Path("runs/bad"), 0.6, seed=1)
    ran = run("camreid-compare", "runs/good", "runs/bad", "-o", "o/c.json", "-o", "o/c.md")
    assert ran.code == 0, ran.err
    content = json.loads(Path("o/c.json").read_text())
    (line,) = content["verdicts"]
    assert line.startswith("A (runs/good) is better than B (runs/bad) by")
    for text in (ran.out, Path("o/c.md").read_text()):
        assert line in text
        assert "Each run is one training" in text
    assert [r["letter"] for r in content["runs"]] == ["A", "B"]
    assert content["pairs"][0]["shared"]["differences"]["mAP"]["p"] < 0.05


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ([], "no run was given"),
        (["a"], "only a was given"),
        (["a", "a/../a"], "are the same run"),
        (["a", "gone"], "gone is not there"),
        (["a", "empty"], "empty is no run folder: it holds nothing"),
        (["a", "b", "-o", "c.csv"], "expected a .json or .md file"),
        (["a", "b", "-o", "a/metrics.json"], "would be lost"),
        (["a", "b", "-o", "a/metrics.json/c.md"], "can't be written"),
        (["a", "b", "-o"], "expected one argument"),
        (["a", "b", "--level"], "--level"),
    ],
)
def test_what_is_wrong_is_said_in_a_paragraph(typed: list[str], says: str, run: Run) -> None:
    for name in "ab":
        make_run(Path(name))
    before = Path("a/metrics.json").read_text()
    Path("empty").mkdir()
    assert says in refused(run("camreid-compare", *typed))
    assert Path("a/metrics.json").read_text() == before


def test_an_unfinished_run_is_shown_before_it_is_told(run: Run) -> None:
    make_run(Path("a"))
    Path("b").mkdir()
    Path("b/config.yaml").write_text("seed: 7\n")
    ran = run("camreid-compare", "a", "b", "-o", "c.json")
    assert "B (b) has no metrics.json and no checkpoints" in refused(ran)
    assert "Config: what differs" in ran.out
    assert json.loads(Path("c.json").read_text())["config"]["seed"] == [0, 7]


def test_a_run_that_can_not_be_read_ends_the_real_command(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "camreid.cli.compare", str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 1
    assert found.stderr.startswith("camreid-compare: only ")
    assert found.stdout == ""


@pytest.mark.slow
def test_resplit_or_original_from_training_to_verdict(run: Run, market: Path) -> None:
    common = (
        f"data.root={market}", "trainer=cpu", "data.workers=0", "trainer.enable_progress_bar=false"
    )  # fmt: skip
    train = ("camreid-train", *TINY, *common, "trainer.max_epochs=1")
    for split in ("original", "resplit"):
        ran = run(*train, f"+split={split}", "split.val_fraction=0", f"run_dir={split}")
        assert ran.code == 0, ran.err
    apart = run("camreid-compare", "original", "resplit")
    assert apart.code == 0, apart.err
    assert "can't be told: they were tested on other images" in apart.out
    assert "Head check" in apart.out
    weights = {f: f"{f}/checkpoints/best.ckpt" for f in ("original", "resplit")}
    unseen = (
        "+split=resplit", "split.train_fraction=0.3", "split.val_fraction=0",
        f"split.exclude_seen=[{','.join(weights.values())}]",
    )  # fmt: skip
    for name, checkpoint in weights.items():
        ran = run(
            "camreid-evaluate", *common, *unseen, f"checkpoint={checkpoint}", f"run_dir=test-{name}"
        )
        assert ran.code == 0, ran.err
    ran = run("camreid-compare", "test-original", "test-resplit", "-o", "c.json")
    assert ran.code == 0, ran.err
    content = json.loads(Path("c.json").read_text())
    (found,) = content["pairs"]
    assert not found["leaks"]
    assert found["shared"]["queries"] > 0
    first, second = (r["retrieval"]["mAP"] for r in content["runs"])
    assert found["shared"]["differences"]["mAP"]["value"] == pytest.approx(first - second, abs=2e-3)
    assert list(content["config"]) == ["checkpoint"]
