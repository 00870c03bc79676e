"""Files that are broken, or not what a run writes: a paragraph each, and the rest is shown."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from camreid.checkpoints.io import save
from camreid.data import Records
from camreid.errors import InputError
from camreid.labels import LabelMap
from camreid.runs.report.page import build_page, read_folders, write_page
from tests.conftest import Ran, tiny_module
from tests.runs.report.matrices import write_matrix
from tests.runs.report.pages import noted, page_of
from tests.runs.report.runs import write_run

Run = Callable[..., Ran]


@pytest.fixture
def folder(tmp_path: Path, records: Records) -> Path:
    return write_run(tmp_path / "run", records, queries=20)


@pytest.fixture
def matrix(tmp_path: Path, records: Records) -> Path:
    return write_matrix(tmp_path / "matrix", records)


def put(path: Path, place: tuple[Any, ...], value: Any) -> None:
    """Another value somewhere in a JSON file."""
    content = json.loads(path.read_text())
    part = content
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("retrieval",), {}),
        (("retrieval",), None),
        (("retrieval", "mAP"), "0.5"),
        (("retrieval", "rank5"), True),
        (("intervals",), []),
        (("intervals", "mAP"), [0.1]),
        (("leak",), {}),
        (("leak",), None),
        (("leak", "seen"), 3),
        (("split",), "resplit"),
        (("evaluation",), ["cosine"]),
        (("camera_pairs",), {}),
        (("camera_pairs", "cameras"), [1]),
        (("leaked_images",), {"query": 3}),
        (("weights",), 3),
        (("features",), ["x"]),
        (("seen_complete",), "yes"),
        (("images_seen",), "many"),
        (("dropped_queries",), [1]),
        (("protocol",), 3),
        (("origin",), "here"),
        (("origin",), {"versions": 2}),
    ],
)
def test_numbers_of_another_form_are_left_out(
    folder: Path, place: tuple[str, ...], value: Any
) -> None:
    put(folder / "metrics.json", place, value)
    page = page_of(folder)
    assert re.search(rf"metrics.json \(\d+ bytes\) can't be read \({place[0]}", noted(page))
    assert "CMC as a table" in page  # of the features
    (folder / "features.safetensors").unlink()
    assert "metrics.json" in noted(page_of(folder))


@pytest.mark.parametrize("name", ["intervals", "leaked_images", "camera_pairs", "split", "weights"])
@pytest.mark.parametrize("kept", [True, False])
def test_numbers_that_were_not_measured_are_not_broken(folder: Path, name: str, kept: bool) -> None:
    put(folder / "metrics.json", (name,), None)
    if not kept:
        (folder / "features.safetensors").unlink()
    assert "metrics.json (" not in noted(page_of(folder, folder / ".." / "run"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metrics.json", '{"retrieval": '),
        ("metrics.json", "[]"),
        ("metrics.csv", "epoch,step,train/loss\n0,5,1.5,7\n"),
        ("metrics.csv", "epoch,step,train/loss\n0,5,low\n"),
        ("head_check.json", '{"unknown": "skip", "heads": [{}]}'),
        ("head_check.json", '{"unknown": "skip", "heads": {}}'),
        ("head_check.json", "null"),
        ("config.yaml", "model:\n  name: [tiny"),
        ("config.yaml", "- 3"),
        (".hydra/hydra.yaml", "- 3"),
        (".hydra/hydra.yaml", "hydra: 3"),
        (".hydra/overrides.yaml", "7"),
        ("features.safetensors", "short"),
    ],
)
def test_one_broken_file_is_a_note(
    folder: Path, tmp_path: Path, records: Records, name: str, text: str
) -> None:
    (folder / name).write_text(text)
    page = page_of(folder, write_run(tmp_path / "whole", records, queries=20))
    assert f"{name} " in noted(page)
    assert "can't be read" in noted(page)


@pytest.mark.parametrize(
    ("name", "text"),
    [(".hydra/hydra.yaml", "hydra:"), (".hydra/hydra.yaml", ""), (".hydra/overrides.yaml", "")],
)
def test_an_empty_file_is_no_matter(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    assert "can't be read" not in noted(page_of(folder))


def test_faults_of_no_head(folder: Path) -> None:
    put(folder / "head_check.json", ("faults",), None)
    page = page_of(folder)
    assert 'aria-label="Head check"' in page
    assert "can't be read" not in noted(page)


@pytest.mark.parametrize(
    ("notes", "says"),
    [
        (5, "camreid is a int"),
        ({"split": "resplit"}, "split is a str"),
        ({"versions": [1]}, "versions is a list"),
        ({"config": 3}, "config is a int"),
    ],
)
def test_notes_of_a_checkpoint(folder: Path, notes: Any, says: str) -> None:
    path = folder / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    save(tiny_module(LabelMap((1, 2))), path)
    content = torch.load(path, weights_only=True)
    torch.save({**content, "camreid": notes}, path)
    assert says in noted(page_of(folder))


@pytest.mark.parametrize(
    ("notes", "broken"),
    [
        ({"seen": None}, False),
        ({"seen": 3}, True),
        ({"seen": ["x"]}, True),
        ({"split": "resplit"}, True),
        ({"query_paths": 3}, True),
        ({"gallery_paths": None}, True),
    ],
)
def test_notes_of_features(folder: Path, notes: dict[str, Any], broken: bool) -> None:
    path = folder / "features.safetensors"
    _put_notes(path, notes)
    page = page_of(folder)
    assert (path.name in noted(page)) == broken
    assert ("CMC as a table" in page) != broken
    (folder / "metrics.json").unlink()
    page_of(folder)


def test_paths_that_no_file_can_have(folder: Path) -> None:
    path = folder / "features.safetensors"
    with safe_open(path, framework="pt") as file:
        paths = json.loads(file.metadata()["query_paths"])
    _put_notes(path, {"query_paths": [f"{name}\0" for name in paths[:-1]] + ["\ud800"]})
    page = page_of(folder)
    assert "pictures are left out" in noted(page)
    write_page(folder / "report.html", page)


def _put_notes(path: Path, notes: dict[str, Any]) -> None:
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata | {name: json.dumps(value) for name, value in notes.items()})


def test_nothing_but_broken_files_is_refused(run: Run, folder: Path) -> None:
    for path in (folder / "config.yaml", folder / "metrics.csv", folder / "head_check.json"):
        path.unlink()
    (folder / "features.safetensors").write_text("short")
    whole = (folder / "metrics.json").read_text()
    (folder / "metrics.json").write_text(whole[:100])
    ran = run("camreid-report", folder)
    assert ran.code == 1
    assert "metrics.json (100 bytes) can't be read" in ran.err
    assert "can't be read as features" in ran.err
    assert "\n" not in ran.err.strip()
    assert not list(folder.glob("*.html*"))
    with pytest.raises(InputError, match="100 bytes"):
        read_folders([folder])


def test_a_run_of_which_nothing_is_left_does_not_hide_the_others(
    folder: Path, tmp_path: Path
) -> None:
    lost = tmp_path / "lost"
    lost.mkdir()
    (lost / "metrics.json").write_text("{")
    page = build_page(read_folders([folder, lost]))
    assert "lost/metrics.json (1 bytes) can't be read" in noted(page)
    assert "CMC as a table" in page


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("cameras",), None),
        (("cameras",), 3),
        (("best",), None),
        (("best",), {}),
        (("best", "all"), {"mAP": 3}),
        (("protocol",), 3),
        (("experts",), {}),
        (("experts",), ["c1"]),
        (("experts", "c1"), {}),
        (("experts", "c1", "retrieval"), None),
        (("experts", "c1", "retrieval", "mAP"), "0.5"),
        (("experts", "c1", "leak"), {}),
        (("experts", "c1", "by_camera"), [1]),
        (("experts", "c1", "features"), 3),
        (("experts", "c1", "camera_pairs"), {}),
        (("combinations",), None),
        (("differences",), None),
        (("differences", "concat"), {}),
        (("evaluation",), 3),
        (("spaces",), {}),
        (("spaces", "cka"), [[1]]),
        (("left_out",), ["mean"]),
        (("notes",), 3),
        (("origin",), 3),
        (("split",), 3),
    ],
)
def test_a_matrix_of_another_form_leaves_its_features(
    matrix: Path, place: tuple[str, ...], value: Any
) -> None:
    put(matrix / "matrix.json", place, value)
    page = page_of(matrix)
    assert f"{'.'.join(place)}" in noted(page)
    assert "shown are the numbers of c1, c2, c3 alone" in noted(page)
    assert "CMC as a table" in page


@pytest.mark.parametrize("name", ["protocol", "cameras", "best"])
def test_a_matrix_that_lacks_something(run: Run, matrix: Path, name: str) -> None:
    content = json.loads((matrix / "matrix.json").read_text())
    del content[name]
    (matrix / "matrix.json").write_text(json.dumps(content))
    assert f"it lacks {name}" in noted(page_of(matrix))
    for path in (*(matrix / "features").iterdir(), matrix / "config.yaml"):
        path.unlink()
    ran = run("camreid-report", matrix)
    assert ran.code == 1
    assert f"it lacks {name}" in ran.err


@pytest.mark.parametrize("text", ["experts: [", "3", "evaluation: 3\nexperts: x\ncombine: y"])
def test_a_matrix_whose_config_is_broken(matrix: Path, text: str) -> None:
    (matrix / "matrix.json").unlink()
    (matrix / "config.yaml").write_text(text)
    assert "shown are the numbers of c1, c2, c3 alone" in noted(page_of(matrix))
