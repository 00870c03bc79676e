"""Two processes on the CPU, through the real command."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from camreid.checkpoints.io import load
from camreid.cli.folder import ERROR
from camreid.data import ReIDDataModule, Split
from tests.conftest import TINY

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(market: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a training on two processes."""
    folder = tmp_path_factory.mktemp("ddp")
    command = [
        sys.executable, "-m", "camreid.cli.train", "+split=resplit", f"data.root={market}", *TINY,
        "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.max_epochs=2",
        "data.instances=3", "data.eval_batch_size=7", "run_dir=run",
    ]  # fmt: skip
    command.remove("trainer=cpu")
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    (folder / "out.txt").write_text(ran.stdout)
    return folder / "run"


def test_rank_zero_alone_speaks_and_writes(folder: Path) -> None:
    out = (folder.parent / "out.txt").read_text()
    assert out.count("Head check (") == 1
    assert out.count("digest ") == 1
    assert {p.name for p in folder.parent.iterdir()} == {"run", "out.txt"}


def test_numbers_are_those_of_one_process(folder: Path) -> None:
    split = Split.load(folder / "split.csv")
    module = load(folder / "checkpoints" / "best.ckpt")
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.test(module, ReIDDataModule(split, (64, 32), workers=0), verbose=False)
    alone = module.test_result.summary()
    two = json.loads((folder / "metrics.json").read_text())
    assert two["identity"]["coverage"] == alone["identity"]["coverage"]
    assert two["retrieval"]["valid_queries"] == alone["retrieval"]["valid_queries"]
    for name, value in alone["retrieval"].items():
        assert two["retrieval"][name] == pytest.approx(value, abs=1e-6)


def test_validation_is_that_of_the_saved_weights(folder: Path) -> None:
    with (folder / "metrics.csv").open(newline="") as file:
        logged = [float(line["val/mAP"]) for line in csv.DictReader(file) if line["val/mAP"]]
    split = Split.load(folder / "split.csv")
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    module = load(folder / "checkpoints" / "last.ckpt")
    trainer.validate(module, ReIDDataModule(split, (64, 32), workers=0), verbose=False)
    assert trainer.callback_metrics["val/mAP"].item() == pytest.approx(logged[-1], abs=1e-6)


RANK = """
import sys, json, os, torch
import pytorch_lightning as pl
from camreid.data import OriginalSplit, ReIDDataModule, read_market1501
from tests.conftest import tiny_module

split = OriginalSplit(camera=None, val_fraction=0.3, seed=0)(read_market1501(sys.argv[1]))
data = ReIDDataModule(split, (64, 32), identities=3, instances=4, workers=0)
module = tiny_module(split.labels)
seen = []
real = module.training_step
def training_step(batch, batch_idx):
    seen.append(batch["pids"].tolist())
    return real(batch, batch_idx)
module.training_step = training_step
trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=1, logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    use_distributed_sampler=False, num_sanity_val_steps=0)
trainer.fit(module, data)
weights = sum(p.double().sum().item() for p in module.parameters())
metric = trainer.callback_metrics["val/mAP"].item()
with open(f"{sys.argv[2]}/{trainer.global_rank}.json", "w") as f:
    json.dump({"digest": split.digest, "batches": seen, "weights": weights, "mAP": metric,
        "pids": sorted(split.labels.pids)}, f)
"""


def test_each_rank_has_p_by_k_of_its_own_and_the_same_split(market: Path, tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text(RANK)
    root = Path(__file__).parents[2]
    command = [sys.executable, str(tmp_path / "rank.py"), str(market), str(tmp_path)]
    ran = subprocess.run(
        command, cwd=root, capture_output=True, text=True, check=False, env=_environment(root)
    )
    assert ran.returncode == 0, ran.stderr
    a, b = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert a["digest"] == b["digest"]
    assert a["weights"] == b["weights"]
    assert a["mAP"] == b["mAP"]
    assert len(a["batches"]) == len(b["batches"]) > 0
    assert a["batches"] != b["batches"]
    for batch in (*a["batches"], *b["batches"]):
        assert len(batch) == 12
        assert {batch.count(pid) for pid in batch} == {4}
    assert sorted({pid for batch in (*a["batches"], *b["batches"]) for pid in batch}) == a["pids"]


CAMERAS = """
import sys, torch
import pytorch_lightning as pl
from camreid.data import OriginalSplit, ReIDDataModule, read_market1501
from tests.conftest import CONFIG, tiny_module

split = OriginalSplit()(read_market1501(sys.argv[1]))
data = ReIDDataModule(
    split, (64, 32), identities=3, instances=4, workers=0, within_camera=True)
options = {"camera_norm": True, "camera_heads": True, "cameras": [1, 2, 3, 4, 5, 6]}
module = tiny_module(split.camera_labels, network={**CONFIG["network"], **options})
trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp_find_unused_parameters_true",
    max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0)
trainer.fit(module, data)
trainer.save_checkpoint(f"{sys.argv[2]}/a.ckpt")
torch.save(dict(module.model.named_parameters()), f"{sys.argv[2]}/{trainer.global_rank}.pt")
"""


def test_cameras_of_two_processes_are_one_model(market: Path, tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text(CAMERAS)
    root = Path(__file__).parents[2]
    command = [sys.executable, str(tmp_path / "rank.py"), str(market), str(tmp_path)]
    ran = subprocess.run(
        command, cwd=root, capture_output=True, text=True, check=False, env=_environment(root)
    )
    assert ran.returncode == 0, ran.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    network = load(tmp_path / "a.ckpt").model
    assert network.neck.camera_batches.sum() > 0
    assert all(value.isfinite().all() for value in network.state_dict().values())
    assert sorted(network.camera_labels) == [1, 2, 3, 4, 5, 6]


def _environment(root: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not re.match("LOCAL_RANK|RANK|WORLD_SIZE", k)}
    return {**kept, "PYTHONPATH": str(root)}


def test_the_error_of_rank_one_is_what_the_user_sees(market: Path, tmp_path: Path) -> None:
    shutil.copytree(market, tmp_path / "data")
    images = sorted((tmp_path / "data" / "query").glob("*.jpg"))
    images[1].write_bytes(b"broken")
    command = [
        sys.executable, "-m", "camreid.cli.train", "+split=original", "data.root=data", *TINY[:3],
        *TINY[4:], "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2",
        "trainer.max_epochs=1", "run_dir=run",
    ]  # fmt: skip
    ran = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert ran.returncode not in (0, None)
    assert images[1].name in ran.stderr
    assert (tmp_path / "run" / ERROR).read_text().strip() in ran.stderr
    assert ran.stderr.count("camreid-train: ") == 1
    assert "Traceback" not in ran.stderr
    assert "onnection" not in ran.stderr
