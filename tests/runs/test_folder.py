"""What a run folder holds, read back as it was written."""

import math
import re
from pathlib import Path

import pytest

from camreid.errors import InputError
from camreid.runs.folder import HeadCheckRecord, Matrix, Metrics, RunFolder
from tests.runs.folders import HEAD, features, make_matrix, make_run, records

TEST = records(range(1, 9))
METRICS = Metrics(
    retrieval={"mAP": 0.5},
    intervals={"mAP": [0.1, math.nan]},
    leak={"all": {}},
    evaluation={"metric": "euclidean", "flip": True},
)


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert (folder.metrics, folder.head_check, folder.ranked) == (None, None, None)
    check = HeadCheckRecord("skip", [HEAD], ["Head 'identity' has 12 rows."])
    for record in (METRICS, check):
        folder.write(record)
    read = RunFolder.existing(tmp_path / "run")
    assert read.head_check == check
    assert read.metrics.intervals == {"mAP": [0.1, None]}
    assert read.metrics.rank_options.metric == "euclidean"
    matrix = RunFolder.existing(make_matrix(tmp_path / "matrix", TEST)).matrix
    assert Matrix.from_json(matrix.to_json()) == matrix
    assert list(matrix.rows) == ["c1", "c2"]


def test_features_rank_as_in_the_test_that_wrote_or_read_them(tmp_path: Path) -> None:
    run, again = RunFolder(make_run(tmp_path / "a", features(TEST))), RunFolder(tmp_path / "b")
    file = f"{run}/features.safetensors"
    again.write(Metrics.from_json({**run.metrics.to_json(), "features": file}))
    assert run.ranked[1].mAP == again.ranked[1].mAP == run.metrics.retrieval["mAP"]


def test_the_metrics_of_a_resumed_run_are_joined(tmp_path: Path) -> None:
    header = "epoch,lr,step,val/mAP,test/mAP\n"
    run = RunFolder(tmp_path)
    run.gather_metrics(resuming=True)  # nothing was logged yet
    (tmp_path / "metrics.csv").write_text(f"{header},0.1,0,,\n0,,5,0.2,\n,0.3,5,,\n1,,9,0.4,\n")
    run.gather_metrics(resuming=True)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.before.csv"]
    (tmp_path / "metrics.csv").write_text(f"{header}1,,9,0.5,\n2,,14,0.6,\n2,,14,,0.7\n")
    curves = {"lr": [(1, 0.1), (2, 0.3)], "val/mAP": [(1, 0.2), (2, 0.5), (3, 0.6)]}
    assert run.curves == curves
    run.gather_metrics(resuming=True)  # stopped and resumed once more
    run.gather_metrics()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]
    assert run.curves == curves


@pytest.mark.parametrize(
    ("file", "text", "attribute"),
    [
        ("metrics.json", "{", "metrics"),
        ("metrics.json", "[]", "metrics"),
        ("metrics.json", '{"mAP": 0.5}', "metrics"),
        ("matrix.json", "{}", "matrix"),
        ("head_check.json", '{"unknown": "skip", "epochs": 3}', "head_check"),
        ("config.yaml", "a: [", "config"),
        ("config.yaml", "3", "config"),
        ("config.yaml", "\udcff", "config"),
        ("metrics.csv", "epoch,step,train/loss\n0,5,three\n", "curves"),
        ("features.safetensors", "cut short", "ranked"),
    ],
)
def test_a_broken_or_foreign_file_is_named(
    file: str, text: str, attribute: str, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path)
    if attribute == "ranked":
        run.write(METRICS)
    (tmp_path / file).write_text(text, errors="surrogateescape")
    with pytest.raises(InputError, match=re.escape(str(tmp_path / file))):
        getattr(run, attribute)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "sweep" / "0" / "config.yaml"
    RunFolder(config.parent).write_config("seed: 0")
    for path, named in (
        (tmp_path / "sweep", "sweep/0"),
        (tmp_path / "gone", "gone"),
        (config, "0"),
    ):
        with pytest.raises(InputError, match=named):
            RunFolder.existing(path)
