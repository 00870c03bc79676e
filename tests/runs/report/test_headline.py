"""The headline claims no more than is known: of the leak, of coverage, of the training."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from camreid.data import Records
from tests.runs.report.pages import noted, page_of, table
from tests.runs.report.runs import write_run

UNKNOWN = "nobody knows all that the weights were trained on"


@pytest.fixture
def folder(tmp_path: Path, records: Records) -> Path:
    return write_run(tmp_path / "run", records)


def put(folder: Path, **numbers: Any) -> None:
    """Say something else in metrics.json."""
    path = folder / "metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **numbers}))


def put_notes(folder: Path, **notes: Any) -> None:
    """Say something else in the notes of the features; None takes a note away."""
    path = folder / "features.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    metadata |= {name: json.dumps(value) for name, value in notes.items()}
    kept = {name: text for name, text in metadata.items() if notes.get(name, 0) is not None}
    save_file(tensors, path, kept)


def of(page: str, label: str) -> str:
    return table(page, "Headline numbers")[label][0]


def test_where_everyone_is_known_there_is_no_doubt(folder: Path) -> None:
    put(folder, seen_complete=True)
    page = page_of(folder)
    assert "tested people were trained on" in of(page, "Leak")
    assert of(page, "mAP, unseen people").endswith("%")
    assert "obody knows" not in page


def test_people_who_may_have_been_seen_are_not_called_unseen(folder: Path) -> None:
    everyone = json.loads((folder / "metrics.json").read_text())["leak"]["all"]["identities"]
    put(folder, seen_complete=False)
    page = page_of(folder)
    assert of(page, "Leak") == f"at least 3 of {everyone}; {UNKNOWN}"
    assert of(page, "mAP, unseen people") == "n/a"
    assert "Nobody knows" in noted(page)
    (folder / "metrics.json").unlink()
    put_notes(folder, seen_complete=False)
    page = page_of(folder)
    assert of(page, "Leak") == f"at least 3 of {everyone}; {UNKNOWN}"
    assert of(page, "mAP, unseen people") == "n/a"


def test_features_that_do_not_say_who_was_seen_show_no_leak(folder: Path, tmp_path: Path) -> None:
    (folder / "metrics.json").unlink()
    put_notes(folder, seen=None)
    page = page_of(folder)
    assert of(page, "mAP").endswith(")")
    assert of(page, "Leak") == UNKNOWN
    assert of(page, "mAP, unseen people") == "n/a"
    assert "Nobody knows" in noted(page)
    assert 'aria-label="Leak table"' not in page
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "features.safetensors"
    other.write_bytes((folder / "features.safetensors").read_bytes())
    assert "a leak can&#39;t be ruled out" in page_of(folder, other.parent)


def test_images_that_were_trained_on_are_on_the_page(folder: Path) -> None:
    assert "Images that were trained on" not in page_of(folder)
    images = {"query": 40, "query_trained": 7, "gallery": 90, "gallery_trained": 11}
    put(folder, leaked_images=images)
    page = page_of(folder)
    assert "Images that were trained on: 7 of 40 query, 11 of 90 gallery." in page


def test_images_seen(folder: Path) -> None:
    assert of(page_of(folder), "Images seen") == "n/a"
    put(folder, images_seen=12936)
    assert of(page_of(folder), "Images seen") == "12,936"


def test_coverage_is_that_of_all_heads(folder: Path) -> None:
    path = folder / "head_check.json"
    content = json.loads(path.read_text())
    shares = {2: 0.4, 5: 0.364, 1: 0.462, 6: 0.0}
    heads = [
        {
            **content["heads"][0], "head": f"camera_{n}", "camera": n, "members": 10 + n,
            "coverage": share, "identities": 0 if n == 6 else 11,
        }
        for n, share in shares.items()
    ]  # fmt: skip
    assert "members" not in page_of(folder)
    path.write_text(json.dumps({**content, "heads": heads}))
    page = page_of(folder)
    assert of(page, "Coverage") == "36.4 % (c5) to 46.2 % (c1) of train identities"
    assert table(page, "Head check")["camera_5"][-2:] == ["5", "15"]
    heads.insert(0, {**content["heads"][0], "camera": None, "members": None})
    path.write_text(json.dumps({**content, "heads": heads}))
    assert table(page_of(folder), "Head check")["identity"][-2:] == ["all", "n/a"]
