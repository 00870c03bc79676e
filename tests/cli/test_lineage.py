"""Which images weights were trained on, and what is said where that is not known."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from camreid.checkpoints.io import save
from camreid.cli.lineage import image_leak, trained_images
from camreid.data import OriginalSplit, Records, Resplit, Split
from camreid.runs.result_tables import evidence_tables
from tests.conftest import tiny_module
from tests.runs.test_compare import make_run


def train(folder: Path, split: Split, parents: Sequence[str] | None = ()) -> Path:
    """What a training leaves behind; None for a file that does not say its parents."""
    split.save(folder / "split.csv")
    path = folder / "checkpoints" / "best.ckpt"
    notes = {
        "split": {"digest": split.digest, "strategy": split.strategy},
        **({} if parents is None else {"parents": list(parents)}),
    }
    save(tiny_module(split.labels), path, notes)
    return path


def names(split: Split) -> set[str]:
    return {record.name for record in split.train}


def test_the_images_of_a_run_and_of_what_it_started_from(records: Records, tmp_path: Path) -> None:
    first, second = OriginalSplit(camera=3)(records), Resplit(0.5, 0.0, 0)(records)
    expert = train(tmp_path / "expert", first)
    tuned = train(tmp_path / "tuned", second, [str(expert)])
    assert trained_images(expert) == names(first)
    assert trained_images(tuned) == names(first) | names(second)


def test_images_of_the_test_that_were_trained_on_are_counted(
    records: Records, tmp_path: Path
) -> None:
    expert = train(tmp_path / "expert", OriginalSplit()(records))
    split = Resplit(0.5, 0.0, 0)(records)
    official = names(OriginalSplit()(records))
    assert image_leak(split, str(expert)) == {
        "query": len(split.query),
        "gallery": len(split.gallery),
        "query_trained": len({r.name for r in split.query} & official),
        "gallery_trained": len({r.name for r in split.gallery} & official),
    }
    assert image_leak(split, str(expert))["query_trained"] > 0
    assert image_leak(OriginalSplit()(records), str(expert))["gallery_trained"] == 0


def test_a_by_image_test_has_seen_people_and_no_seen_images(
    records: Records, tmp_path: Path
) -> None:
    split = Resplit(0.5, 0.1, 0, by="image")(records)
    counts = image_leak(split, str(train(tmp_path / "r", split)))
    assert counts["query_trained"] == counts["gallery_trained"] == 0


def test_what_is_not_known_is_none(records: Records, tmp_path: Path) -> None:
    split = OriginalSplit()(records)
    path = train(tmp_path / "r", split)
    assert image_leak(split, None) is None
    assert trained_images(tmp_path / "gone" / "checkpoints" / "best.ckpt") is None
    assert trained_images(train(tmp_path / "on", split, None)) is None
    assert trained_images(train(tmp_path / "lost", split, ["gone.ckpt"])) is None
    round_ = tmp_path / "round" / "checkpoints" / "best.ckpt"
    assert trained_images(train(tmp_path / "round", split, [str(round_)])) is None
    Resplit(0.5, 0.0, 0)(records).save(tmp_path / "r" / "split.csv")
    assert trained_images(path) is None  # the manifest of another split
    (tmp_path / "r" / "split.csv").unlink()
    assert trained_images(path) is None


@pytest.mark.parametrize(("trained", "shown"), [(0, False), (3, True)])
def test_the_table_says_how_many(trained: int, shown: bool, tmp_path: Path) -> None:
    summary = yaml.safe_load((make_run(tmp_path / "a") / "metrics.json").read_text())
    images = {"query": 60, "gallery": 60, "query_trained": trained, "gallery_trained": 0}
    summary["leaked_images"] = images
    captions = [str(table.caption) for table in evidence_tables({**summary, "identity": None}, "")]
    text = "Images that were trained on: 3 of 60 query, 0 of 60 gallery"
    assert (text in captions) is shown
