"""Fixtures: a small rendered dataset, a small network, and the commands run in this process."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from camreid.checkpoints import Checkpoint, read_checkpoint, save
from camreid.data import Records, SyntheticMarket, read_market1501
from camreid.labels import LabelMap
from camreid.provenance import SplitRecord
from camreid.training import ReIDModule

# each worker of pytest has a core; also for the processes that tests start
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

SHARED = Path(__file__).resolve().parents[2] / "shared"
GOLDEN = Path(__file__).parent / "golden"
CONFIG = {
    "name": "tiny",
    "image_size": [64, 32],
    "unknown": "skip",
    "pixels": "raw",
    "network": {"_target_": "camreid.models.Baseline", "backbone": "test_resnet", "last_stride": 1},
    "loss": {
        "identity_weight": 1.0,
        "smoothing": 0.1,
        "triplet_weight": 1.0,
        "triplet_margin": 0.3,
    },
    "optimizer": {"name": "adam", "lr": 3.5e-4, "weight_decay": 5e-4},
    "schedule": {"warmup": 0.1, "warmup_factor": 0.1, "decay": "cosine"},
}
# the same network for the commands
TINY = (
    "model=small",
    "model.network.backbone=test_resnet",
    "model.image_size=[64,32]",
    "trainer=cpu",
    "trainer.enable_progress_bar=false",
    "data.workers=0",
    "data.identities=4",
)


def saved(module: ReIDModule, path: Path) -> Checkpoint:
    """The module as a checkpoint."""
    save(module, path)
    return read_checkpoint(path)


def tiny_module(labels: LabelMap, **options: object) -> ReIDModule:
    """A module of the small network; options replace those of the config."""
    torch.manual_seed(0)
    return ReIDModule({**CONFIG, **options}, labels)


@pytest.fixture(scope="session")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered dataset of 24 identities."""
    render = SyntheticMarket(people=24, images_per_person=8, distractors=6, junk=4)
    return render.render(tmp_path_factory.mktemp("datasets"))


@pytest.fixture(scope="session")
def records(market: Path) -> Records:
    return read_market1501(market)


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., pl.Trainer]:
    """A quiet trainer on the CPU."""

    def build(**options: object) -> pl.Trainer:
        quiet = {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
            "num_sanity_val_steps": 0,
            "default_root_dir": str(tmp_path),
        }
        return pl.Trainer(**{**quiet, **options})

    return build


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Callable[..., Ran]]:
    """Run a command, such as `camreid-train`, in this process, in a folder of its own."""

    def command(name: str, *arguments: object) -> Ran:
        from camreid.cli import _entry, compare, data, report

        commands = {"import": _entry.import_weights, "report": report.main, "compare": compare.main}
        commands["data"] = data.main
        short = name.removeprefix("camreid-")
        main = commands.get(short) or getattr(_entry, short)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
            if isinstance(stop.code, str):
                print(stop.code, file=sys.stderr)
        _close_logs()
        streams = capsys.readouterr()
        return Ran(code, streams.out, streams.err)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    yield command
    _close_logs()


def _close_logs() -> None:
    """Hydra sets up the root logger and leaves its file open."""
    for handler in logging.getLogger().handlers[:]:
        if not type(handler).__module__.startswith("_pytest"):
            handler.close()
            logging.getLogger().removeHandler(handler)


def trained(module: ReIDModule, camera: int | None = None, pids: object = None) -> ReIDModule:
    """The module with the provenance of a training on its own or the given identities."""
    identities = frozenset(p for p in (module.labels.pids if pids is None else pids) if p > 0)
    split = None if camera is None else SplitRecord("original", {"camera": camera})
    module.provenance = replace(module.provenance, split=split, identities=identities)
    return module
