"""camreid-compare: what is typed, what is written, what is refused."""

import json
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
    assert [r["letter"] for r in content["runs"]] == ["A", "B"]
    assert content["pairs"][0]["shared"]["differences"]["mAP"]["p"] < 0.05


def test_wrong_arguments_are_refused_in_a_paragraph(run: Run) -> None:
    for name in "ab":
        make_run(Path(name))
    before = Path("a/metrics.json").read_text()
    for typed, names in (
        (["a"], "a"),
        (["a", "a/../a"], "a/../a"),
        (["a", "gone"], "gone"),
        (["a", "b", "-o", "c.csv"], "c.csv"),
        (["a", "b", "-o", "a/metrics.json"], "a/metrics.json"),
        (["a", "b", "-o", "a/metrics.json/c.md"], "a/metrics.json/c.md"),
        (["a", "b", "--level"], "--level"),
    ):
        assert names in refused(run("camreid-compare", *typed))
    assert Path("a/metrics.json").read_text() == before


def test_an_unfinished_run_is_shown_before_the_error(run: Run) -> None:
    make_run(Path("a"))
    Path("b").mkdir()
    Path("b/config.yaml").write_text("seed: 7\n")
    ran = run("camreid-compare", "a", "b", "-o", "c.json")
    assert "B (b) has no metrics.json" in refused(ran)
    assert json.loads(Path("c.json").read_text())["config"]["seed"] == [0, 7]


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
    assert "not comparable: A (original)" in apart.out
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
