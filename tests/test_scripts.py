"""scripts/experts.py, with a command that trains nothing."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

SCRIPTS = Path(__file__).parents[1] / "scripts"
FAKE = """
import json, os, sys, time
from pathlib import Path
options = dict(o.lstrip("+").split("=", 1) for o in sys.argv[1:])
run = Path(options["run_dir"])
(run / ".hydra").mkdir(parents=True, exist_ok=True)
(run / "checkpoints").mkdir(exist_ok=True)
start = time.time()
if Path("waits-early").exists():
    time.sleep(60)
steps = int(options.get("trainer.max_steps", 300))
(run / "checkpoints" / "last.ckpt").touch()
if Path("steps").exists():
    import torch
    torch.save({"global_step": steps}, run / "checkpoints" / "last.ckpt")
if Path("waits").exists():
    time.sleep(60)
if "fails" in options and options["fails"] == options.get("split.camera"):
    sys.exit("camreid-train: no train images")
gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
content = {"typed": sys.argv[1:], "gpu": gpu, "start": start, "end": time.time()}
(run / "metrics.json").write_text(json.dumps(content))
"""
MAIN = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import experts
experts.TRAIN = (sys.executable, "fake.py")
sys.exit(experts.main())
"""


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start the script in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    Path("fake.py").write_text(FAKE)
    started = []

    def command(*typed: str) -> "subprocess.Popen[str]":
        line = [sys.executable, "-c", MAIN, str(SCRIPTS), "e", *typed]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen(line, **pipes))
        return started[-1]

    yield command
    for process in started:
        process.kill()
        process.communicate()


def end(process: "subprocess.Popen[str]") -> tuple[int, str]:
    out, _ = process.communicate(timeout=120)
    return process.returncode, out


def trained(name: str) -> dict[str, object]:
    return json.loads(Path("e", name, "metrics.json").read_text())


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)


@pytest.mark.slow
def test_one_training_at_a_time_on_each_device(start: Start) -> None:
    code, out = end(start("--cameras", "1", "2", "5", "--devices", "0", "4", "--", "seed=1"))
    assert code == 0, out
    runs = [trained(name) for name in ("c1", "c2", "c5")]
    assert {run["gpu"] for run in runs} == {"0", "4"}
    for camera, run in zip((1, 2, 5), runs, strict=True):
        assert {"seed=1", f"split.camera={camera}", f"run_dir=e/c{camera}"} <= {*run["typed"]}
    same = [run for run in runs if run["gpu"] == runs[2]["gpu"]]
    assert all(a["end"] <= b["start"] for a, b in itertools.pairwise(same))


@pytest.mark.slow
def test_finished_ones_are_skipped_and_failed_ones_continue(start: Start) -> None:
    typed = ("--cameras", "1", "2", "3", "--devices", "cpu")
    code, out = end(start(*typed, "--baselines", "--", "fails=2"))
    assert code == 1
    assert "e/c2.log" in out
    assert "no train images" in Path("e/c2.log").read_text()
    assert not Path("e/joint").exists()
    before = trained("c1"), trained("c3")
    assert end(start(*typed))[0] == 0
    assert (trained("c1"), trained("c3")) == before
    assert "resume=e/c2/checkpoints/last.ckpt" in trained("c2")["typed"]
    assert trained("c2")["gpu"] == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "marker"), [(signal.SIGINT, "waits"), (signal.SIGTERM, "waits-early")]
)
def test_interrupted_trainings_continue(number: signal.Signals, marker: str, start: Start) -> None:
    Path(marker).touch()
    typed = ("--cameras", "1", "2", "--devices", "cpu")
    process = start(*typed)
    wait_for(Path("e/c1/checkpoints", *(["last.ckpt"] if marker == "waits" else [])))
    os.kill(process.pid, number)
    assert end(process)[0] == 130
    assert not Path("e/c2").exists()
    Path(marker).unlink()
    assert end(start(*typed))[0] == 0
    resumed = "resume=e/c1/checkpoints/last.ckpt" in trained("c1")["typed"]
    assert resumed == (marker == "waits")
    assert len(list(Path("e").glob("unfinished-c1-*"))) == (marker == "waits-early")


@pytest.mark.slow
def test_baselines_have_the_steps_of_all_experts(start: Start) -> None:
    Path("steps").touch()
    typed = "--cameras 1 2 3 --baselines --finetune lr=1 --devices cpu -- init=x.ckpt"
    code, out = end(start(*typed.split(), "model.unknown=reinit", "trainer.max_epochs=9"))
    assert code == 0, out
    for name, count in {"joint": 900, "start": 600, "joint-c2": 300}.items():
        last = Path("e", name, "checkpoints", "last.ckpt")
        assert torch.load(last, weights_only=True)["global_step"] == count
    assert {"init=x.ckpt", "model.unknown=reinit"} <= {*trained("joint")["typed"]}
    last = dict(option.split("=", 1) for option in trained("joint-c2")["typed"])
    start_of = {"init": "e/start/checkpoints/last.ckpt", "split.camera": "2", "lr": "1"}
    expected = {**start_of, "model.unknown": "skip", "trainer.max_epochs": "-1"}
    assert {name: last[name] for name in expected} == expected
