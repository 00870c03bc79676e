"""What a run folder holds, read back as it was written."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from camreid.errors import InputError
from camreid.runs.folder import RunFolder
from camreid.runs.matrix import Matrix
from camreid.runs.metrics import HeadCheckRecord, Metrics
from tests.runs.folders import HEAD, features, make_matrix, make_run, records

TEST = records(range(1, 9))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(make_run(tmp_path / "run", features(TEST)))


def test_records_are_read_as_they_were_written(run: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "new")
    assert (folder.metrics, folder.head_check, folder.ranked) == (None, None, None)
    check = HeadCheckRecord("skip", [HEAD], ["Head 'identity' has 12 rows."])
    ends = {**run.metrics.intervals, "mAP": [0.1, math.nan]}
    for record in (replace(run.metrics, intervals=ends, evaluation={"metric": "euclidean"}), check):
        folder.write(record)
    read = RunFolder.existing(tmp_path / "new")
    assert read.head_check == check
    assert read.metrics.intervals["mAP"] == [0.1, None]
    assert read.metrics.rank_options.metric == "euclidean"
    matrix = RunFolder.existing(make_matrix(tmp_path / "matrix", TEST)).matrix
    assert Matrix.from_json(matrix.to_json()) == matrix
    assert list(matrix.rows) == ["c1", "c2"]


def test_features_rank_as_in_the_test_that_wrote_or_read_them(
    run: RunFolder, tmp_path: Path
) -> None:
    again = RunFolder(tmp_path / "again")
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
        ("head_check.json", '{"unknown": "skip", "heads": [{"head": "identity"}]}', "head_check"),
        ("names.json", "[3]", "datasets"),
        ("config.yaml", "a: [", "config"),
        ("config.yaml", "3", "config"),
        ("config.yaml", "model: 3", "config"),
        ("config.yaml", "&x [*x]", "config"),
        ("names.json", "[" * 10**5, "datasets"),
        ("config.yaml", "\udcff", "config"),
        ("metrics.csv", "epoch,step,train/loss\n0,5,three\n", "curves"),
        ("features.safetensors", "cut short", "ranked"),
    ],
)
def test_a_broken_or_foreign_file_is_named(
    file: str, text: str, attribute: str, run: RunFolder
) -> None:
    (run.path / file).write_text(text, errors="surrogateescape")
    with pytest.raises(InputError, match=re.escape(f"{run}/{file}")):
        getattr(RunFolder(run.path), attribute)


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        ("metrics", {"retrieval": {}}),
        ("metrics", {"retrieval": 3}),
        ("metrics", {"intervals": {"mAP": 3}}),
        ("metrics", {"leak": {"all": {}}}),
        ("metrics", {"protocols": ["cross-camera"]}),
        ("metrics", {"protocols": {"within-camera": {"mAP": "high"}}}),
        ("metrics", {"camera_pairs": {"cameras": [1, 2]}}),
        ("metrics", {"evaluation": {"metric": 3}}),
        ("metrics", {"training": {"config": 3}}),
        ("metrics", {"training": {"config": {"data": [1]}}}),
        ("metrics", {"training": {"head_check": {"unknown": "skip", "heads": []}}}),
        ("metrics", {"training": {"head_check": {"unknown": "skip", "heads": [{}]}}}),
        ("matrix", {"experts": {"c1": {}}}),
        ("matrix", {"compared": {}}),
        ("matrix", {"differences": {"c1": {"mAP": {}}}}),
        ("matrix", {"left_out": ["mean"]}),
        ("matrix", {"notes": 3}),
    ],
)
def test_a_file_with_a_broken_nested_part_is_named(
    kind: str, broken: dict[str, Any], tmp_path: Path, run: RunFolder
) -> None:
    path = run.path if kind == "metrics" else make_matrix(tmp_path / "matrix", TEST)
    content = json.loads((path / f"{kind}.json").read_text())
    (path / f"{kind}.json").write_text(json.dumps({**content, **broken}))
    with pytest.raises(InputError, match=re.escape(f"{path}/{kind}.json")):
        getattr(RunFolder(path), kind)


def test_a_matrix_of_one_unseen_identity_has_no_intervals_and_no_winner(tmp_path: Path) -> None:
    matrix = RunFolder(make_matrix(tmp_path, records([1, 2]))).matrix
    assert "null" in (tmp_path / "matrix.json").read_text()
    assert "No clear difference" in matrix.verdict
    assert matrix.tables()


@pytest.mark.parametrize("name", ["", "gone", "file"])
def test_a_folder_without_a_run_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=re.escape(str(tmp_path / name))):
        RunFolder.existing(tmp_path / name)
