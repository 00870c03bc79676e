"""The scripts of examples/ run, and their parts are used from the command line by `_target_`."""

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from camreid.checkpoints import load, read_checkpoint
from camreid.checkpoints.io import UntrustedNetwork
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


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("custom_backbone", "MyNet (4, 32) (4, 3)"),
        ("custom_dataset", "(8, 3, 64, 32)"),
        ("custom_loss", "'center': (1.0, tensor("),
        ("fastreid_batch", "row of 0704: 1"),
        ("lightning_script", "mAP 0."),
        ("mgn_branches", "b1: (2, 3)"),
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
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert shown in capsys.readouterr().out


def test_every_example_is_tested() -> None:
    (marker,) = [m for m in test_an_example_runs.pytestmark if m.name == "parametrize"]
    assert {name for name, _ in marker.args[1]} == {p.stem for p in EXAMPLES.glob("*.py")}


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
    with pytest.raises(UntrustedNetwork, match=r"trusted=\['custom_backbone.MyNet'\]"):
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
