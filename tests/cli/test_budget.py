"""How many images weights have seen, and training until that many."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from camreid.checkpoints.io import read_checkpoint, save
from camreid.cli.lineage import trained_images
from camreid.data import OriginalSplit, Records
from tests.conftest import TINY, Ran, tiny_module

Run = Callable[..., Ran]
pytestmark = pytest.mark.slow
LAST = Path("checkpoints", "last.ckpt")


@pytest.fixture
def train(run: Run, market: Path) -> Callable[..., Ran]:
    def command(*arguments: object) -> Ran:
        return run("camreid-train", f"data.root={market}", *TINY, "test=false", *arguments)

    return command


def seen(folder: str | Path) -> Any:
    return read_checkpoint(Path(folder) / LAST).images_seen


def trained(folder: str | Path) -> Any:
    return read_checkpoint(Path(folder) / LAST).images_trained


def epochs(folder: str | Path) -> int:
    return read_checkpoint(Path(folder) / LAST).epochs


def test_images_are_counted_over_epochs_starts_and_resumes(train: Run) -> None:
    assert train("+split=original", "trainer.max_epochs=2", "run_dir=a").code == 0
    first = seen("a")
    assert first == 2 * (first // 2) > 0
    assert first % (4 * 4) == 0  # batches of 4 people x 4 images
    assert trained("a") == first
    start = f"init=a/{LAST}"
    assert train("+split=original", start, "trainer.max_epochs=1", "run_dir=b").code == 0
    assert seen("b") == first + first // 2
    assert trained("b") == first // 2  # what it has started from is not its own
    resume = f"resume=b/{LAST}"
    assert train("+split=original", resume, "trainer.max_epochs=3", "run_dir=b").code == 0
    assert seen("b") == first + 3 * (first // 2)
    assert trained("b") == 3 * (first // 2)
    # what a continued run has started from is not lost
    assert read_checkpoint(Path("b") / LAST).notes["parents"] == [str(Path("a", LAST).resolve())]
    assert trained_images(Path("b") / LAST) is not None


def test_a_budget_is_spent_in_whole_epochs(train: Run) -> None:
    assert train("+split=original", "trainer.max_epochs=1", "run_dir=one").code == 0
    epoch = seen("one")
    budget = f"budget={2 * epoch + epoch // 3}"
    ran = train("+split=original", budget, "run_dir=a")
    assert ran.code == 0, ran.err
    assert f"2 epochs of {epoch}, {2 * epoch}" in ran.out
    assert (epochs("a"), seen("a")) == (2, 2 * epoch)
    assert "max_epochs: 2" in Path("a", "config.yaml").read_text()
    # a camera has fewer images, and so more epochs
    assert train("+split=original", "split.camera=1", budget, "run_dir=c1").code == 0
    assert epochs("c1") > 2
    assert abs(seen("c1") - 2 * epoch) < epoch
    # typed again, it is finished
    ran = train("+split=original", budget, "run_dir=a", f"resume=a/{LAST}")
    assert ran.code == 1
    assert "has 2 epochs behind it" in ran.err


def test_own_images_are_counted_from_weights_of_an_unknown_past(
    train: Run, records: Records, tmp_path: Path
) -> None:
    module = tiny_module(OriginalSplit()(records).labels)
    module.images_seen = None  # as of an import
    save(module, tmp_path / "imported.ckpt")
    typed = ("init=imported.ckpt", "model.network.pool=avg", "trainer.max_epochs=1")
    ran = train("+split=original", *typed, "run_dir=a")
    assert ran.code == 0, ran.err
    assert seen("a") is None
    assert trained("a") > 0


@pytest.mark.parametrize(("limit", "batches"), [("2", 2), ("0.5", None), ("1000", None)])
def test_a_budget_knows_that_epochs_are_cut(train: Run, limit: str, batches: int | None) -> None:
    cut = f"trainer.limit_train_batches={limit}"
    assert train("+split=original", "trainer.max_epochs=1", cut, "run_dir=one").code == 0
    epoch = trained("one")
    assert batches is None or epoch == batches * 16
    ran = train("+split=original", f"budget={3 * epoch}", cut, "run_dir=a")
    assert ran.code == 0, ran.err
    assert f"3 epochs of {epoch}, {3 * epoch}" in ran.out
    assert (epochs("a"), trained("a")) == (3, 3 * epoch)


def test_a_budget_knows_that_processes_share_the_batches(market: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "camreid.cli.train", "+split=original", f"data.root={market}", *TINY,
        "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2",
        "test=false", "budget=200", "run_dir=a",
    ]  # fmt: skip
    command.remove("trainer=cpu")
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    said = re.search(r"Budget 200 images: (\d+) epochs of (\d+), (\d+)", ran.stdout)
    assert said is not None
    found, epoch = tmp_path / "a", int(said[2])
    assert (epochs(found), trained(found)) == (int(said[1]), int(said[3]))
    assert epoch % (2 * 16) == 0
    assert int(said[1]) == round(200 / epoch)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["budget=500", "trainer.max_steps=3"], "trainer.max_steps=3 both say how long"),
        (["budget=500", "+trainer.overfit_batches=1"], "overfit_batches=1 both say how long"),
        (["budget=500", "+trainer.max_time=00:01:00:00"], "both say how long"),
        (["budget=500", "trainer.fast_dev_run=true"], "both say how long"),
        (["budget=500", "trainer.limit_train_batches=0.01"], "leaves nothing of an epoch"),
        (["budget=3"], "less than half an epoch"),
        (["budget=many"], "budget=many"),
        (["budget=500", "trainer.max_epochs=3"], "both say how long"),
    ],
)
def test_budgets_that_make_no_sense(train: Run, typed: list[str], said: str) -> None:
    ran = train("+split=original", *typed, "run_dir=a")
    assert ran.code == 1
    assert said in ran.err
    assert "Traceback" not in ran.err
    assert not Path("a").exists()
