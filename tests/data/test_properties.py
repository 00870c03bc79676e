"""Any name, manifest or label map gives the right answer or a clear error."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from camreid.data import Records, Split, read_csv
from camreid.data.named import numbers
from camreid.data.records import LARGEST, parse_name
from camreid.errors import InputError
from camreid.labels import LabelMap

fast = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
wide = st.integers(0, 10**25)
cell = st.text(st.characters(codec="utf-8"), max_size=8) | wide.map(str) | st.just("nan")


def outcome(read: Callable[[Path], Split | Records], path: Path) -> Split | Records | str:
    """What is read, or the message."""
    try:
        return read(path)
    except InputError as error:
        return str(error)


def in_range(found: Split | Records) -> bool:
    return all(1 <= r.pid <= LARGEST for r in found.train)


@fast
@given(st.integers(-1, LARGEST), st.integers(1, LARGEST), st.integers(0, LARGEST), st.text())
def test_names_of_the_grammar_are_read_back(pid: int, camera: int, frame: int, rest: str) -> None:
    rest = rest.replace("/", "")
    record = parse_name(
        f"a/b_c9/{pid:0{2 if pid < 0 else 4}d}_c{camera}s{frame}_{frame:06d}_{rest}.jpg"
    )
    assert record is not None
    assert (record.pid, record.camera, record.sequence) == (pid, camera, frame)
    assert record.frame == frame


@fast
@given(st.text() | st.from_regex(r"-?\d{1,30}_c\d{1,30}(s\d{0,30})?(_f?\d{0,30})?\.jpg"))
def test_any_other_name_is_a_record_in_range_or_none(name: str) -> None:
    record = parse_name(name)
    if record is not None:
        assert -1 <= record.pid <= LARGEST
        assert 1 <= record.camera <= LARGEST


@fast
@given(st.sets(cell, max_size=6))
def test_names_are_numbered_one_to_one(names: set[str]) -> None:
    try:
        found = numbers(names, "a.csv")
    except InputError:
        assert len({name.strip().lstrip("0") for name in names}) <= len(names)
        return
    assert found.keys() == names
    assert len({*found.values()}) == len(names)
    assert all(1 <= number <= LARGEST for number in found.values())


@fast
@given(rows=st.lists(st.lists(cell, min_size=3, max_size=6), max_size=4), subset=st.booleans())
def test_any_manifest_and_csv_file_is_read_or_refused(
    rows: list[list[str]], subset: bool, tmp_path: Path
) -> None:
    path = tmp_path / "x.csv"
    lines = [",".join(["train", str(path), *row] if subset else row) for row in rows]
    for header, read in (
        ("subset,path,pid,camera,row", Split.load),
        ("path,identity,camera", read_csv),
    ):
        path.write_text("\n".join([header, *lines]), encoding="utf-8")
        found = outcome(read, path)
        assert "x.csv" in found if isinstance(found, str) else in_range(found)


@fast
@given(
    content=st.binary(max_size=60),
    header=st.sampled_from([b"", b"subset,path,pid,camera\n", b"\xff\xfe"]),
)
def test_any_bytes_are_read_or_refused(content: bytes, header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(header + content)
    for read in (Split.load, read_csv):
        found = outcome(read, path)
        assert "x.csv" in found if isinstance(found, str) else not found.train


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "utf-8-sig"])
def test_a_manifest_of_another_encoding_is_one_paragraph(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "Müller.csv"
    text = f"subset,path,pid,camera\ntrain,{path},1,1\ntrain,{path},2,1\n"
    path.write_bytes(text.encode(encoding))
    if encoding == "utf-8-sig":
        assert len(Split.load(path).train) == 2
        return
    with pytest.raises(InputError, match="is not CSV in UTF-8"):
        Split.load(path)


@fast
@given(st.lists(st.integers(-5, 2**64), max_size=8), st.sampled_from(["numeric", "fastreid"]))
def test_a_label_map_has_one_row_for_each_identity(pids: list[int], order: str) -> None:
    try:
        labels = LabelMap.of(pids, order=order)
    except InputError:
        assert max(pids) > LARGEST
        return
    rows = [labels.row(pid) for pid in labels.pids]
    assert rows == list(range(len(set(pids))))
    if labels.pids:
        assert labels.rows(torch.tensor(labels.pids)).tolist() == rows
    assert labels.pids == tuple(sorted(set(pids), key=str if order == "fastreid" else None))
