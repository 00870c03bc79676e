"""What a run folder holds, read back as it was written."""

import math
from pathlib import Path

import pytest

from camreid.errors import InputError
from camreid.runs.folder import HeadCheckRecord, Metrics, RunFolder


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    metrics = Metrics({"mAP": 0.5}, {"mAP": [0.1, math.nan]}, {"all": {}}, {"metric": "cosine"})
    check = HeadCheckRecord("skip", [{"head": "identity", "coverage": 0.5}])
    folder = RunFolder(tmp_path / "run")
    assert folder.metrics is None
    assert folder.head_check is None
    for record in (metrics, check):
        folder.write(record)
    read = RunFolder.existing(tmp_path / "run")
    assert read.head_check == check
    assert read.metrics is not None
    assert read.metrics.intervals == {"mAP": [0.1, None]}
    assert read.metrics.retrieval == metrics.retrieval


def test_the_metrics_of_a_resumed_run_are_joined(tmp_path: Path) -> None:
    header = "epoch,lr,step,val/mAP,test/mAP\n"
    (tmp_path / "metrics.0.csv").write_text(f"{header},0.1,0,,\n0,,5,0.2,\n,0.3,5,,\n1,,9,0.4,\n")
    (tmp_path / "metrics.csv").write_text(f"{header}1,,9,0.5,\n2,,14,0.6,\n2,,14,,0.7\n")
    curves = RunFolder(tmp_path).curves
    assert curves == {"lr": [(1, 0.1), (2, 0.3)], "val/mAP": [(1, 0.2), (2, 0.5), (3, 0.6)]}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metrics.json", "{"),
        ("metrics.json", "[]"),
        ("metrics.json", "{}"),
        ("head_check.json", '{"unknown": "skip", "epochs": 3}'),
        ("config.yaml", "a: ["),
        ("config.yaml", "3"),
        ("features.safetensors", "x"),
    ],
)
def test_a_broken_file_is_named(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=name):
        getattr(RunFolder.existing(tmp_path), name.rpartition(".")[0])


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sweep" / "0").mkdir(parents=True)
    (tmp_path / "sweep" / "0" / "config.yaml").touch()
    with pytest.raises(InputError, match=r"sweep/0"):
        RunFolder.existing(tmp_path / "sweep")
    for path in (tmp_path / "gone", tmp_path / "sweep" / "0" / "config.yaml"):
        with pytest.raises(InputError):
            RunFolder.existing(path)
