"""The table at the end of a sweep."""

from collections.abc import Callable
from pathlib import Path

import pytest

from camreid.cli.sweep import sweep_table
from tests.conftest import TINY, Ran
from tests.runs.folders import features, make_run, records

TEST = records(range(1, 9))


def job(folder: Path, *overrides: str) -> Path:
    (folder / ".hydra").mkdir(parents=True)
    text = "".join(f"- {override}\n" for override in ("+split=resplit", *overrides))
    (folder / ".hydra" / "overrides.yaml").write_text(text)
    return folder


def test_jobs_are_sorted_by_validation_with_what_differs(tmp_path: Path) -> None:
    for name, last in (("0", 0.2), ("1", 0.4)):
        folder = job(make_run(tmp_path / name, features(TEST)), f"lr={name}")
        (folder / "metrics.csv").write_text(f"epoch,step,val/mAP\n0,5,0.1\n1,9,{last}\n")
    failed = job(tmp_path / "2", "lr=2")
    (failed / "camreid-error.txt").write_text("lr=2: too high.\n")
    table = sweep_table(tmp_path)
    assert [row[0] for row in table.rows] == ["lr=1", "lr=0", "lr=2"]
    assert [row[1] for row in table.rows] == ["40.0 %", "20.0 %", "failed"]
    assert [row[3] for row in table.rows] == ["1", "0", "2"]
    assert table.notes == ["Job 2 failed: lr=2: too high."]


@pytest.mark.slow
def test_a_sweep_ends_with_its_table_also_after_a_failure(
    run: Callable[..., Ran], market: Path
) -> None:
    ran = run(
        "camreid-train", "-m", "+split=original", "split.camera=1,99", "run_dir=s", "test=false",
        f"data.root={market}", *TINY, "trainer.max_epochs=1",
    )  # fmt: skip
    assert ran.code == 1
    end = " ".join(ran.out[ran.out.index("Sweep ") :].split())
    assert "split.camera=99" in end
    assert "Job 1 failed: camera=99 has no images" in end
    assert "split.camera=1 " in end
