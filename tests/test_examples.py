"""The scripts of examples/ run, and their parts are used from the command line by `_target_`."""

import re
import runpy
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from camreid.checkpoints import load, read_checkpoint
from camreid.errors import InputError
from tests.conftest import TINY, Ran

EXAMPLES = Path(__file__).parents[1] / "examples"
SPLIT = ("+split=resplit", "split.val_fraction=0")
Run = Callable[..., Ran]


@pytest.fixture(autouse=True)
def examples_in_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `PYTHONPATH=examples`."""
    monkeypatch.syspath_prepend(str(EXAMPLES))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples")


class Index:
    """`IndexFlatIP` of faiss 1.15, as the example calls it."""

    def __init__(self, dim: int) -> None:
        self.vectors = np.empty((0, dim), np.float32)

    def add(self, vectors: np.ndarray) -> None:
        assert (vectors.dtype, vectors.shape[1]) == (np.float32, self.vectors.shape[1])
        self.vectors = np.concatenate([self.vectors, vectors])

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores = queries @ self.vectors.T
        places = np.argsort(-scores, axis=1)[:, :k]
        return np.take_along_axis(scores, places, 1), places


class Sort:
    """`DeepSort` of deep-sort-realtime 1.3, as the example calls it: by cosine alone."""

    def __init__(self, embedder: None, n_init: int, max_cosine_distance: float) -> None:
        self.most, self.n_init, self.tracks = max_cosine_distance, n_init, []

    def update_tracks(self, detections: list[tuple], embeds: list[np.ndarray]) -> list:
        assert len(detections) == len(embeds)
        free = [*self.tracks]
        for ((_, _, width, height), _, _), embed in zip(detections, embeds, strict=True):
            assert min(width, height) > 0
            near = [t for t in free if 1 - t.feature @ embed <= self.most]
            if near:
                track = max(near, key=lambda t: t.feature @ embed)
                free.remove(track)
            else:
                self.tracks.append(track := SimpleNamespace(hits=0))
            track.feature, track.hits = embed, track.hits + 1
            track.is_confirmed = lambda track=track: track.hits >= self.n_init
        return self.tracks


STAND_INS = {"faiss_search": "faiss", "deep_sort": "deep_sort_realtime"}


def stand_in(package: str) -> tuple[str, ModuleType]:
    """A module with what the example calls, where the package is not installed."""
    name = {"deep_sort_realtime": "deep_sort_realtime.deepsort_tracker"}.get(package, package)
    module = ModuleType(name)
    module.IndexFlatIP, module.DeepSort = Index, Sort
    return name, module


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("custom_backbone", "MyNet (4, 32) (4, 3)"),
        ("custom_dataset", "(8, 3, 64, 32)"),
        ("custom_loss", "'center': (1.0, tensor("),
        ("deep_sort", "confirmed tracks: 2"),
        ("faiss_search", "closest: [4, 11] cosines: [1.0, 1.0]"),
        ("fastreid_batch", "row of 0704: 1"),
        ("lightning_script", "mAP 0."),
        ("mgn_branches", "b1: (2, 3)"),
        ("track_features", "track 3 is closest to track 1, cosine 1.00"),
    ],
)
def test_an_example_runs(
    name: str,
    shown: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    if name in STAND_INS and find_spec(STAND_INS[name]) is None:
        monkeypatch.setitem(sys.modules, *stand_in(STAND_INS[name]))
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert shown in capsys.readouterr().out


def test_every_example_is_tested() -> None:
    (marker,) = [m for m in test_an_example_runs.pytestmark if m.name == "parametrize"]
    assert {name for name, _ in marker.args[1]} == {p.stem for p in EXAMPLES.glob("*.py")}


@pytest.mark.slow
def test_all_parts_by_target_from_the_command_line(run: Run, market: Path) -> None:
    own = ("--config-dir", EXAMPLES / "conf", "model=mynet")
    data = (f"data.root={market}", "trainer=cpu", "data.workers=0", "data.identities=2")
    parts = (
        "model.loss.extra={_target_:custom_loss.CenterLoss,weight:0.1}",
        "data.augment._target_=custom_loss.Darker",
        "+data.augment.least=0.6",
        "data.sampler={_target_:custom_loss.OneCamera,camera:3}",
        "+callbacks.hello._target_=custom_loss.Hello",
        "trainer.max_steps=2",
        "trainer.enable_progress_bar=false",
        "test=false",
        "run_dir=r",
    )
    ran = run("camreid-train", *own, *SPLIT, *data, *parts)
    assert ran.code == 0, ran.err
    assert "Model  mynet" in ran.out
    assert "Hello: " in ran.out
    assert "train/center_loss" in Path("r/metrics.csv").read_text()
    checkpoint = Path("r/checkpoints/last.ckpt")
    with pytest.raises(InputError, match=r"trusted=\['custom_backbone.MyNet'\]"):
        load(checkpoint)
    module = load(checkpoint, trusted=["custom_backbone.MyNet"])
    assert module.model.widths == {"identity": 48}
    assert module.own_loss is None  # a class that a file names is not imported
    stored = torch.load(checkpoint, weights_only=True)["hyper_parameters"]["config"]["loss"]
    assert stored["extra"]["_target_"] == "custom_loss.CenterLoss"
    assert "extra" not in read_checkpoint(checkpoint, ["custom_backbone.MyNet"]).config.loss
    test = (f"checkpoint={checkpoint}", *SPLIT, *data)
    ran = run("camreid-evaluate", *test, "run_dir=s")
    assert ran.code == 1
    assert "++model.network._target_=custom_backbone.MyNet" in ran.err
    for folder, typed in (("t", own), ("u", ("++model.network._target_=custom_backbone.MyNet",))):
        ran = run("camreid-evaluate", *typed, *test, f"run_dir={folder}")
        assert ran.code == 0, ran.err


def test_a_dataset_by_its_own_reader(run: Run, market: Path) -> None:
    reader = "data.read._target_=custom_dataset.read_pairs"
    train = ("+split=original", f"data.root={market}", reader, "data.name=pairs", *TINY)
    ran = run("camreid-train", *train, "data.identities=2", "trainer.max_steps=1", "run_dir=r")
    assert ran.code == 0, ran.err
    assert read_checkpoint("r/checkpoints/last.ckpt").labels.pids[0] % 2 == 0


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("model.network._target_=torch.nn.Linear", "torch.nn.Linear is no camreid.models.ReIDNet"),
        ("model.network._target_=nowhere.Net", "No module named 'nowhere'.*PYTHONPATH"),
        ("model.network._target_=custom_backbone.MyNet +model.network.depth=3", "'depth'"),
        ("model.loss.extra={_target_:pathlib.Path.home}", "pathlib.Path.home is no"),
        ("model.loss.extra={weight:1}", "_target_=None"),
        ("model.loss.extra={_target_:custom_loss.CenterLoss,wait:1}", "'wait'"),
        ("data.augment._target_=camreid.data.Records", "Records is no"),
        ("data.sampler={_target_:custom_loss.Darker}", "Darker is no camreid.data.Identity"),
        ("data.sampler={_target_:custom_loss.OneCamera}", "'camera'"),
        ("+callbacks.mine._target_=custom_loss.Darker", "Darker is no .*Callback"),
    ],
)
def test_a_part_that_is_none_is_refused(typed: str, message: str, run: Run, market: Path) -> None:
    ran = run(
        "camreid-train",
        *SPLIT,
        f"data.root={market}",
        "model=small",
        "trainer=cpu",
        *typed.split(),
        "run_dir=r",
    )
    assert ran.code == 1, ran.out
    assert "\n" not in ran.err.strip()
    assert "Traceback" not in ran.err
    assert re.search(message, ran.err), ran.err


def test_no_part_is_imported_that_was_not_typed(run: Run, market: Path) -> None:
    sys.modules.pop("custom_loss", None)
    ran = run("camreid-train", *SPLIT, f"data.root={market}", *TINY, "data.identities=99")
    assert ran.code == 1
    assert "custom_loss" not in sys.modules
