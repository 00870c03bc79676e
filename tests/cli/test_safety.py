"""Unsafe checkpoints: their code does not run, no file of the user is touched."""

import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import TINY, Ran

Run = Callable[..., Ran]
LAST = Path("r/checkpoints/last.ckpt")
SPLIT = ("+split=resplit", "split.val_fraction=0.2")


@pytest.fixture
def train(run: Run, market: Path) -> Run:
    return partial(run, "camreid-train", f"data.root={market}", *TINY, *SPLIT)


@pytest.fixture
def content(train: Run) -> dict[str, Any]:
    """Of a run of one epoch in r/, without its checksum."""
    ran = train("trainer.max_epochs=1", "test=false", "run_dir=r")
    assert ran.code == 0, ran.err
    content = torch.load(LAST, weights_only=True)
    del content["loops"]["digest"]
    return content


@pytest.mark.slow
def test_paths_in_callback_states_are_not_followed(
    train: Run, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", fail)
    monkeypatch.setattr("urllib.request.urlopen", fail)
    outside = Path("mine.ckpt").resolve()
    outside.touch()
    for state in content["callbacks"].values():
        if "best_model_path" in state:
            state.update(
                best_model_path="http://example.org/evil.ckpt",
                best_k_models={str(outside): torch.tensor(-1.0)},
                kth_best_model_path=str(outside),
                kth_value=torch.tensor(-1.0),
                last_model_path=str(outside),
                dirpath=str(outside.parent),
            )
    torch.save(content, "given.ckpt")
    ran = train("resume=given.ckpt", "run_dir=s", "trainer.max_epochs=2")
    assert ran.code == 0, ran.err
    assert outside.is_file()
    assert Path("s/checkpoints/best.ckpt").is_file()
    assert "s/checkpoints/best.ckpt" in Path("s/metrics.json").read_text()


@pytest.mark.slow
def test_no_command_imports_a_class_that_a_file_names(
    train: Run, run: Run, market: Path, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("unsafe.py").write_text("open('sprung', 'w').close()\n")
    monkeypatch.syspath_prepend(Path.cwd())
    content["hyper_parameters"]["config"]["network"]["_target_"] = "unsafe.Network"
    torch.save(content, "given.ckpt")
    more = (f"data.root={market}", "trainer=cpu", "run_dir=s")
    for ran in (
        train("resume=given.ckpt", "run_dir=s", "trainer.max_epochs=2"),
        train("init=given.ckpt", "run_dir=s", "trainer.max_epochs=1"),
        run("camreid-evaluate", "checkpoint=given.ckpt", *SPLIT, *more),
        run("camreid-matrix", "experts=[given.ckpt]", *SPLIT, *more),
        run("camreid-export", "checkpoint=given.ckpt", "run_dir=s"),
        train("split.exclude_seen=given.ckpt", "run_dir=s"),
    ):
        assert ran.code == 1, ran.out
        assert "unsafe.Network" in ran.err
        assert "\n" not in ran.err.strip()
        assert not Path("s").exists()
    assert not Path("sprung").exists()
    assert "unsafe" not in sys.modules
    Path("unsafe.py").write_text("from camreid.models import Baseline as Network\n")
    named = "++model.network._target_=unsafe.Network"
    ran = run("camreid-evaluate", "checkpoint=given.ckpt", named, *SPLIT, *more, "data.workers=0")
    assert ran.code == 0, ran.err


@pytest.mark.slow
def test_a_training_state_that_does_not_fit_ends_in_one_paragraph(
    train: Run, content: dict[str, Any]
) -> None:
    for key, value in (
        ("loops", {"fit_loop": {"epoch_progress": 3}}),
        ("optimizer_states", []),
        ("optimizer_states", [{"state": {}, "param_groups": []}]),
        ("lr_schedulers", "text"),
        ("callbacks", []),
    ):
        torch.save({**content, key: value}, "given.ckpt")
        ran = train("resume=given.ckpt", "run_dir=s", "trainer.max_epochs=2", "test=false")
        assert ran.code == 1, ran.out
        assert "Traceback" not in ran.err
        assert len(ran.err.strip().splitlines()) == 1
