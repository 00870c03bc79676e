"""Where numbers come from, and where the weights do."""

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest
import torch

from camreid.checkpoints.io import save
from camreid.data import OriginalSplit, Records
from camreid.evaluation import FeatureTable
from camreid.labels import LabelMap
from tests.conftest import Ran, tiny_module
from tests.runs.report.pages import page_of
from tests.runs.report.runs import write_run

Run = Callable[..., Ran]


def said(page: str, name: str) -> str:
    found = re.search(rf"<dt>{name}</dt><dd>(.*?)</dd>", page)
    assert found, name
    return unescape(re.sub("<.*?>", "", found[1]))


@pytest.fixture
def folder(tmp_path: Path, records: Records) -> Path:
    """A test without anything but numbers, of weights that another run has trained."""
    folder = write_run(tmp_path / "run", records, queries=20)
    for name in ("config.yaml", ".hydra/overrides.yaml"):
        (folder / name).unlink()
    put(folder, weights=str(write_weights(tmp_path / "trained")))
    return folder


def put(folder: Path, **numbers: object) -> None:
    path = folder / "metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **numbers}))


def write_weights(folder: Path) -> Path:
    path = folder / "checkpoints" / "best.ckpt"
    path.parent.mkdir(parents=True)
    save(tiny_module(LabelMap((1, 2))), path)
    content = torch.load(path, weights_only=True)
    notes = {
        "commit": "of-the-training", "versions": {"torch": "1.0"}, "config": "of: training",
        "command": "camreid-train of-the-training",
    }  # fmt: skip
    torch.save({**content, "camreid": {**content["camreid"], **notes}}, path)
    return path


def test_another_run_of_the_weights_is_not_taken_for_this_one(folder: Path) -> None:
    page = page_of(folder)
    assert said(page, "Commit") == said(page, "Versions") == said(page, "Command") == "not known"
    assert said(page, "Commit of the weights") == "of-the-training"
    assert said(page, "Versions of the weights") == "torch 1.0"
    assert "of: training" not in page
    origin = {"command": "camreid-evaluate x", "commit": "own", "versions": {"torch": "2.0"}}
    put(folder, origin=origin)
    page = page_of(folder)
    assert said(page, "Command") == "camreid-evaluate x"
    assert said(page, "Commit") == "own"
    assert said(page, "Versions") == "torch 2.0"
    assert said(page, "Commit of the weights") == "of-the-training"


def test_weights_of_its_own_say_where_a_run_is_from(folder: Path) -> None:
    put(folder, weights=str(write_weights(folder)))
    page = page_of(folder)
    assert said(page, "Command") == "camreid-train of-the-training"
    assert said(page, "Commit") == said(page, "Commit of the weights") == "of-the-training"
    assert "of: training" in page


def test_a_test_writes_where_it_is_from(
    run: Run, market: Path, records: Records, tmp_path: Path
) -> None:
    path = tmp_path / "weights.ckpt"
    save(tiny_module(OriginalSplit()(records).labels), path)
    options = (f"data.root={market}", "trainer=cpu", "trainer.enable_progress_bar=false")
    ran = run(
        "camreid-evaluate", f"checkpoint={path}", "+split=original", *options, "data.workers=0",
        "run_dir=tested",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert (
        run("camreid-evaluate", "features=tested/features.safetensors", "run_dir=again").code == 0
    )
    for name in ("tested", "again"):
        origin = json.loads(Path(name, "metrics.json").read_text())["origin"]
        assert origin["command"].startswith("camreid-evaluate ")
        assert f"run_dir={name}" in origin["command"]
        assert "torch" in origin["versions"]
        assert "commit" in origin
        page = page_of(Path(name))
        assert f"torch {origin['versions']['torch']}" in said(page, "Versions")
    assert "origin" not in FeatureTable.load("tested/features.safetensors").notes
