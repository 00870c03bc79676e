"""Splits in words."""

import pytest

from camreid.data import OriginalSplit, Records, Resplit
from camreid.provenance import SplitRecord


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        (OriginalSplit(camera=3), "original split, camera 3, seed 0"),
        (Resplit(), "re-split, half of the identities, 10 % held out for validation, seed 0"),
        (
            Resplit(0.3, 0.0, 2, by="image"),
            "re-split, 30 % of the images of each identity, seed 2, by image",
        ),
        (
            Resplit(pool="train"),
            "re-split, half of the identities, 10 % held out for validation, seed 0, pool train",
        ),
    ],
)
def test_a_strategy_is_described_in_words(
    strategy: OriginalSplit | Resplit, words: str, records: Records
) -> None:
    split = strategy(records)
    assert str(split.record) == f"{words}, digest {split.digest}"


def test_options_of_a_foreign_file_are_text() -> None:
    record = SplitRecord.from_json(
        {"kind": "custom", "options": {"{x}": "{y}", "train_fraction": "a"}, "digest": None}
    )
    assert str(record) == "custom, {x} {y}, a of the identities"
