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


def launch(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A Python process that starts a second one, without the ranks of this one."""
    kept = {k: v for k, v in os.environ.items() if not re.match("LOCAL_RANK|RANK|WORLD_SIZE", k)}
    path = f"{Path(__file__).parents[2]}{os.pathsep}{kept.get('PYTHONPATH', '')}"
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**kept, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )


TRAIN = (
    "-m", "camreid.cli.train", *(option for option in TINY if option != "trainer=cpu"),
    "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "run_dir=run",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(market: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a training on two processes."""
    folder = tmp_path_factory.mktemp("ddp")
    sizes = ("trainer.max_epochs=2", "data.instances=3", "data.eval_batch_size=7")
    ran = launch(*TRAIN, "+split=resplit", f"data.root={market}", *sizes, folder=folder)
    assert ran.returncode == 0, ran.stderr
    (folder / "out.txt").write_text(ran.stdout)
    return folder / "run"


def test_rank_zero_alone_prints_and_writes(folder: Path) -> None:
    out = (folder.parent / "out.txt").read_text()
    assert out.count("Head check (") == 1
    assert out.count("digest ") == 1
    assert {p.name for p in folder.parent.iterdir()} == {"run", "out.txt"}


def test_numbers_are_those_of_one_process(folder: Path) -> None:
    data = ReIDDataModule(Split.load(folder / "split.csv"), (64, 32), workers=0)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    with (folder / "metrics.csv").open(newline="") as file:
        logged = [float(line["val/mAP"]) for line in csv.DictReader(file) if line["val/mAP"]]
    trainer.validate(load(folder / "checkpoints" / "last.ckpt"), data, verbose=False)
    assert trainer.callback_metrics["val/mAP"].item() == pytest.approx(logged[-1], abs=1e-6)
    module = load(folder / "checkpoints" / "best.ckpt")
    trainer.test(module, data, verbose=False)
    alone = module.test_result.summary()
    two = json.loads((folder / "metrics.json").read_text())
    assert two["identity"]["coverage"] == alone["identity"]["coverage"]
    assert two["retrieval"] == pytest.approx(alone["retrieval"], abs=1e-6)


@pytest.fixture(scope="module")
def ranks(market: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What each of two processes has seen and learnt, with heads and norms of cameras."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "rank.py").write_text(RANK)
    ran = launch("rank.py", str(market), folder=folder)
    assert ran.returncode == 0, ran.stderr
    return folder


RANK = """
import sys, torch
import pytorch_lightning as pl
from camreid.data import OriginalSplit, ReIDDataModule, read_market1501
from tests.conftest import CONFIG, tiny_module

split = OriginalSplit(camera=None, val_fraction=0.3, seed=0)(read_market1501(sys.argv[1]))
options = {"camera_norm": True, "camera_heads": True, "cameras": [1, 2, 3, 4, 5, 6]}
for name, within, labels, network in (
    ("plain", False, split.labels, {}), ("cameras", True, split.camera_labels, options)
):
    data = ReIDDataModule(
        split, (64, 32), identities=3, instances=4, workers=0, within_camera=within)
    module = tiny_module(labels, network={**CONFIG["network"], **network})
    seen = []
    class Seen(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            seen.append(batch["pids"].tolist())
    trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp_find_unused_parameters_true",
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0,
        callbacks=[Seen()])
    trainer.fit(module, data)
    trainer.save_checkpoint(f"{name}.ckpt")
    torch.save({"digest": split.digest, "batches": seen, "mAP": trainer.callback_metrics["val/mAP"],
        "pids": list(split.labels.pids), "weights": dict(module.model.named_parameters())},
        f"{name}-{trainer.global_rank}.pt")
"""


@pytest.mark.parametrize("model", ["plain", "cameras"])
def test_two_processes_train_one_model(ranks: Path, model: str) -> None:
    a, b = (torch.load(ranks / f"{model}-{rank}.pt") for rank in (0, 1))
    assert (a["digest"], a["mAP"]) == (b["digest"], b["mAP"])
    assert all(torch.equal(value, b["weights"][key]) for key, value in a["weights"].items())
    network = load(ranks / f"{model}.ckpt").model
    assert all(value.isfinite().all() for value in network.state_dict().values())
    if model == "cameras":
        assert network.neck.camera_batches.sum() > 0
        assert sorted(network.camera_labels) == [1, 2, 3, 4, 5, 6]


def test_each_rank_has_p_by_k_of_its_own(ranks: Path) -> None:
    a, b = (torch.load(ranks / f"plain-{rank}.pt") for rank in (0, 1))
    assert len(a["batches"]) == len(b["batches"]) > 0
    assert a["batches"] != b["batches"]
    for batch in (*a["batches"], *b["batches"]):
        assert len(batch) == 12
        assert {batch.count(pid) for pid in batch} == {4}
    assert {pid for batch in (*a["batches"], *b["batches"]) for pid in batch} == set(a["pids"])


def test_the_error_of_rank_one_is_what_the_user_sees(market: Path, tmp_path: Path) -> None:
    shutil.copytree(market, tmp_path / "data")
    images = sorted((tmp_path / "data" / "query").glob("*.jpg"))
    images[1].write_bytes(b"broken")
    typed = ("+split=original", "data.root=data", "data.cache=none", "trainer.max_epochs=1")
    ran = launch(*TRAIN, *typed, folder=tmp_path)
    assert ran.returncode not in (0, None)
    assert images[1].name in ran.stderr
    assert (tmp_path / "run" / ERROR).read_text().strip() in ran.stderr
    assert ran.stderr.count("camreid-train: ") == 1
    assert "Traceback" not in ran.stderr
    assert "onnection" not in ran.stderr
