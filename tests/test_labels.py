import json
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from camreid.errors import InputError
from camreid.labels import LabelMap, Unknown, fit_labels
from tests.conftest import GOLDEN

identities = st.lists(st.integers(-1, 2000), unique=True, max_size=40)


@given(identities, st.lists(st.integers(-1, 2000), max_size=60))
def test_rows_are_those_of_a_dictionary(pids: list[int], asked: list[int]) -> None:
    row = {pid: i for i, pid in enumerate(pids)}
    expected = [[row.get(pid, -1)] for pid in asked]
    table = torch.tensor(asked, dtype=torch.int64)[:, None]  # rows keep the shape
    assert LabelMap(tuple(pids)).rows(table).tolist() == expected


def test_orders_are_fastreids_and_torchreids_for_market1501() -> None:
    facts = json.loads((GOLDEN / "market1501_train_facts.json").read_text())
    fastreid = tuple(facts["class_index_to_pid_fastreid(lexicographic)"])
    assert LabelMap.of(reversed(fastreid), order="fastreid").pids == fastreid
    assert LabelMap.of(fastreid).pids == tuple(sorted(fastreid))
    assert LabelMap.of(fastreid, order="fastreid").row(704) == 582
    assert LabelMap.of(fastreid, order="numeric").row(704) == 373
    same = zip(fastreid, sorted(fastreid), strict=True)
    assert not any(a == b for a, b in same)


@given(identities, identities, st.sampled_from(get_args(Unknown)))
def test_known_identities_keep_their_rows_unless_reinit(
    a: list[int], b: list[int], how: str
) -> None:
    start, split = LabelMap(tuple(a)), LabelMap(tuple(b))
    fitted = fit_labels(start, split, how)  # type: ignore[arg-type]
    if how == "reinit" or not a:
        assert fitted == split
        return
    assert fitted.pids[: len(a)] == start.pids
    added = set(b) - set(a) if how == "extend" else set()
    assert set(fitted.pids[len(a) :]) == added


def test_shared_identities_are_in_this_maps_order() -> None:
    assert (LabelMap((5, 1, 3)) & LabelMap((3, 5))).pids == (5, 3)
    assert (LabelMap((5, 1, 3)) - LabelMap((3, 5))).pids == (1,)


def test_wrong_identities_and_orders_are_named() -> None:
    with pytest.raises(KeyError, match="pid 5 "):
        LabelMap((1, 2)).row(5)
    with pytest.raises(InputError, match=r"more than one row .*\[7\]"):
        LabelMap((7, 3, 7))
    with pytest.raises(InputError, match="numeric, fastreid"):
        LabelMap.of([1], order="alphabetic")  # type: ignore[arg-type]
