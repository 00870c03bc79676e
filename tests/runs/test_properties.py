"""A run folder with any damage gives an answer or a clear error, never a traceback or a hang."""

import copy
import json
import math
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from camreid.errors import InputError
from camreid.runs.compare import compare_runs
from camreid.runs.folder import RunFolder
from camreid.runs.report.page import build_page
from tests.runs.folders import HEAD, SPLIT, change, features, make_matrix, make_run, records

VALUES = (
    None, True, -1, 3, 10**400, 1e308, math.nan, math.inf, "", "1-2", "\x1b[31m", "\ud800", [],
    [1], [["a", "b"]], {}, {"a": 1}, {"seen": {"identities": 1}}, {"": None}, "!!timestamp x",
)  # fmt: skip
FILES = ("a/metrics.json", "a/head_check.json", "a/config.yaml", "a/names.json", "m/matrix.json")
BYTES = (*FILES, "a/metrics.csv", "a/features.safetensors")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs with all files, and a matrix."""
    folder, of = tmp_path_factory.mktemp("runs"), records(range(1, 9))
    make_run(folder / "a", features(of), [1], model={"name": "x"}, data={"name": "d"}, seed=1)
    make_run(folder / "b", features(of, 0.5), model={"name": "y"}, data={"name": "d"}, seed=1)
    make_matrix(folder / "m", of)
    check = {"unknown": "skip", "heads": [HEAD], "faults": []}
    config = {"model": {"name": "x"}, "data": {"name": "d"}}
    change(folder / "a", training={"split": SPLIT, "config": config, "head_check": check})
    names = [{"name": "d", "identities": {"a": 1}, "cameras": {"b": 1}}]
    (folder / "a/names.json").write_text(json.dumps(names))
    return folder


@pytest.fixture
def copied(runs: Path, tmp_path: Path) -> Path:
    shutil.copytree(runs, tmp_path / "runs")
    return tmp_path / "runs"


def places(content: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    if isinstance(content, dict | list):
        pairs = content.items() if isinstance(content, dict) else enumerate(content)
        for key, part in pairs:
            yield from places(part, (*at, key))


def changed(content: Any, draw: st.DataObject) -> Any:
    """A copy with one part, at any depth, of another type, nested, or left out."""
    every = list(places(content))
    depth = draw.draw(st.sampled_from(sorted({len(at) for at in every})))
    at = draw.draw(st.sampled_from([at for at in every if len(at) == depth]))
    if not at:
        return draw.draw(st.sampled_from(VALUES))
    content = holder = copy.deepcopy(content)
    for key in at[:-1]:
        holder = holder[key]
    how, old = draw.draw(st.integers(0, 5)), holder[at[-1]]
    if how == 0:
        del holder[at[-1]]
    else:
        new = {1: [old], 2: {"a": old}}.get(how) or draw.draw(st.sampled_from(VALUES))
        holder[at[-1]] = new
    return content


def read_all(folder: Path) -> None:
    """All that reads a run folder, but for the pages."""
    with suppress(InputError):
        found = compare_runs([folder / "a", folder / "b"])
        for table in found.tables():
            table.text(".csv"), table.__rich__()
        json.dumps(found.to_json(), allow_nan=False)
        _ = found.warnings, [pair.verdict for pair in found.pairs]
    for read in (lambda r: (r.datasets, r.curves), lambda r: r.matrix and r.matrix.tables()):
        for name in "am":
            with suppress(InputError):
                read(RunFolder(folder / name))
    with suppress(InputError):
        RunFolder(folder / "a").gather_metrics()


def test_the_whole_folders_are_read(runs: Path) -> None:
    assert len(compare_runs([runs / "a", runs / "b"]).tables()) == 4
    assert [own.name for own in RunFolder(runs / "a").datasets] == ["d"]
    assert RunFolder(runs / "m").matrix


BROKEN = {
    "a number beyond float": ("metrics.json", {"retrieval": {"mAP": 10**400}}),
    "no heads": ("head_check.json", {"unknown": "skip", "heads": []}),
    "a count that is a list": ("matrix.json", {"experts": {"c1": {"leak": {"all": {}}}}}),
    "training without its split": ("metrics.json", {"training": {"config": {}}}),
    "a config of pairs": ("metrics.json", {"training": {"config": {"model": [["a", "b"]]}}}),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_part_of_another_form_is_refused(how: str, copied: Path) -> None:
    name, part = BROKEN[how]
    path = copied / ("m" if name == "matrix.json" else "a") / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **part}))
    run = RunFolder(path.parent)
    with pytest.raises(InputError, match=name):
        _ = run.metrics, run.head_check, run.matrix


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "/dev/zero"])
def test_features_that_no_file_can_hold_are_left_out(name: str, copied: Path) -> None:
    path = copied / "a" / "metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "features": name}))
    assert RunFolder(path.parent).ranked is None


@pytest.mark.parametrize("name", BYTES)
def test_a_folder_or_a_loop_of_links_in_place_of_a_file(name: str, copied: Path) -> None:
    (copied / name).unlink()
    (copied / name).mkdir()
    read_all(copied)
    (copied / name).rmdir()
    (copied / name).symlink_to((copied / name).name)
    read_all(copied)


slow = settings(
    max_examples=300, deadline=20_000, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip


def read_changed(name: str, copied: Path, data: st.DataObject, pages: bool = False) -> None:
    whole = (copied / name).read_text()
    is_json = name.endswith(".json")
    content = changed(json.loads(whole) if is_json else yaml.safe_load(whole), data)
    (copied / name).write_text(json.dumps(content) if is_json else yaml.safe_dump(content))
    read_all(copied)
    if pages:
        with suppress(InputError):
            build_page([copied / "a", copied / "m"])
    (copied / name).write_text(whole)


@settings(slow, max_examples=12)
@given(name=st.sampled_from(FILES), data=st.data())
def test_any_part_is_read_or_refused(name: str, copied: Path, data: st.DataObject) -> None:
    read_changed(name, copied, data)


@pytest.mark.slow
@settings(slow)
@given(name=st.sampled_from(FILES), data=st.data(), page=st.integers(0, 19))
def test_any_part_is_read_or_refused_by_all(
    name: str, copied: Path, data: st.DataObject, page: int
) -> None:
    read_changed(name, copied, data, pages=not page)


@pytest.mark.slow
@settings(slow, max_examples=150)
@given(name=st.sampled_from(BYTES), data=st.data())
def test_any_bytes_are_read_or_refused(name: str, copied: Path, data: st.DataObject) -> None:
    whole = (copied / name).read_bytes()
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)) | st.just(len(whole)))])
    if damaged:
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (copied / name).write_bytes(damaged)
    read_all(copied)
    (copied / name).write_bytes(whole)
