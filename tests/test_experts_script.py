"""scripts/experts.py, with a command that trains nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from camreid.checkpoints import save
from camreid.labels import LabelMap
from tests.conftest import tiny_module

SCRIPT = Path(__file__).parents[1] / "scripts" / "experts.py"
FAKE = """
import json, os, pathlib, shutil, signal, sys, time

typed = dict(a.split("=", 1) for a in sys.argv[1:])
run = pathlib.Path(typed["run_dir"])
gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
what = {"typed": sys.argv[1:], "gpu": gpu, "start": time.time()}
(run / "checkpoints").mkdir(parents=True, exist_ok=bool(typed.get("resume")))
if typed.get("split.camera") == typed.get("fails", "none"):
    sys.exit("camreid-train: no train image is of that camera.")
if "waits" in typed:
    (run / "checkpoints" / "last.ckpt").touch()
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        sys.exit(130)
time.sleep(0.3)
(run / "checkpoints" / "last.ckpt").touch()
if "weights" in typed:
    shutil.copy(typed["weights"], run / "checkpoints" / "last.ckpt")
what["end"] = time.time()
(run / "metrics.json").write_text(json.dumps(what))
"""


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    fake = tmp_path / "fake.py"
    fake.write_text(FAKE)

    def begin(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(SCRIPT), "e", "--command", f"{sys.executable} {fake}"]
        return subprocess.Popen(
            [*command, *arguments],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"},
        )

    return begin


@pytest.fixture
def experts(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., tuple[int, str]]:
    def run(*arguments: str) -> tuple[int, str]:
        process = start(*arguments)
        out, _ = process.communicate(timeout=60)
        return process.returncode, out

    return run


def done(folder: Path, name: int | str) -> dict[str, object]:
    name = f"c{name}" if isinstance(name, int) else name
    return json.loads((folder / "e" / name / "metrics.json").read_text())


def overlap(first: dict[str, object], second: dict[str, object]) -> bool:
    return first["start"] < second["end"] and second["start"] < first["end"]


def test_the_cpu_trains_one_at_a_time(
    experts: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    code, out = experts("--cameras", "2", "5", "--devices", "cpu", "--", "seed=1", "model=small")
    assert code == 0, out
    two, five = done(tmp_path, 2), done(tmp_path, 5)
    assert two["typed"] == [
        "+split=original", "run_dir=e/c2", "seed=1", "model=small", "split.camera=2", "trainer=cpu"
    ]  # fmt: skip
    assert not overlap(two, five)
    assert out.count("\n") == 4
    assert "c5 done in" in out


def test_each_gpu_trains_one(experts: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    code, out = experts("--cameras", "1", "2", "3", "--devices", "0", "4", "--", "trainer=gpu")
    assert code == 0, out
    runs = [done(tmp_path, camera) for camera in (1, 2, 3)]
    assert [run["gpu"] for run in runs[:2]] == ["0", "4"]
    assert all("trainer=cpu" not in run["typed"] for run in runs)
    first, second, third = runs
    same = first if third["gpu"] == "0" else second
    assert not overlap(same, third)
    assert first["start"] < second["end"]


def test_what_is_done_is_skipped(experts: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    assert experts("--cameras", "1", "--devices", "cpu")[0] == 0
    before = done(tmp_path, 1)
    code, out = experts("--cameras", "1", "2", "--devices", "cpu")
    assert code == 0
    assert "c1 done before" in out
    assert done(tmp_path, 1) == before
    assert done(tmp_path, 2)


def test_a_failure_names_its_log_and_the_others_go_on(
    experts: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    code, out = experts("--cameras", "1", "2", "3", "--devices", "cpu", "--", "fails=2")
    assert code == 1
    assert "c2 FAILED with exit code 1, see e/c2.log: camreid-train: no train image" in out
    assert "1 of 3 failed; see e/c2.log" in out
    assert done(tmp_path, 3)
    # an empty folder of checkpoints is no run to continue
    code, out = experts("--cameras", "1", "2", "3", "--devices", "cpu")
    assert code == 0, out
    assert not any(str(option).startswith("resume=") for option in done(tmp_path, 2)["typed"])


def test_ctrl_c_leaves_what_can_be_continued(
    start: Callable[..., subprocess.Popen[str]],
    experts: Callable[..., tuple[int, str]],
    tmp_path: Path,
) -> None:
    process = start("--cameras", "1", "2", "--devices", "cpu", "--", "waits=yes")
    last = tmp_path / "e" / "c1" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 30
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "c1 interrupted; the same command goes on" in out
    assert not (tmp_path / "e" / "c2").exists()
    code, out = experts("--cameras", "1", "2", "--devices", "cpu")
    assert code == 0, out
    assert "c1 continued on cpu" in out
    assert "resume=e/c1/checkpoints/last.ckpt" in done(tmp_path, 1)["typed"]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A checkpoint that has seen 600 images."""
    module = tiny_module(LabelMap((2, 7)))
    module.images_seen = 600
    save(module, tmp_path / "weights.ckpt")
    return tmp_path / "weights.ckpt"


def test_controls_see_as_many_images_as_all_experts(
    experts: Callable[..., tuple[int, str]], tmp_path: Path, weights: Path
) -> None:
    typed = ["--cameras", "1", "2", "3", "--controls", "2", "--finetune", "lr=1", "--devices", "0"]
    code, out = experts(*typed, "--", f"weights={weights}", "trainer.max_epochs=9", "init=x.ckpt")
    assert code == 0, out
    own = [f"weights={weights}", "init=x.ckpt"]
    assert done(tmp_path, "joint")["typed"] == [
        "+split=original", "run_dir=e/joint", "budget=1800", *own
    ]  # fmt: skip
    assert done(tmp_path, "start")["typed"] == [
        "+split=original", "run_dir=e/start", "budget=1200", *own
    ]  # fmt: skip
    tuned = done(tmp_path, "joint-c2")
    assert tuned["typed"] == [
        "+split=original", "run_dir=e/joint-c2", "budget=600",
        "init=e/start/checkpoints/last.ckpt", own[0], "split.camera=2", "lr=1",
    ]  # fmt: skip
    assert tuned["start"] > done(tmp_path, "start")["end"]
    assert done(tmp_path, "joint")["start"] > done(tmp_path, 3)["end"]
    assert not (tmp_path / "e" / "joint-c1").exists()


def test_controls_need_every_expert(
    experts: Callable[..., tuple[int, str]], tmp_path: Path, weights: Path
) -> None:
    typed = ["--cameras", "1", "2", "--controls", "--devices", "cpu"]
    code, out = experts(*typed, "--", f"weights={weights}", "fails=2")
    assert code == 1
    for name in ("joint", "start", "joint-c1", "joint-c2"):
        assert f"{name} not started: " in out
        assert not (tmp_path / "e" / name).exists()
    assert done(tmp_path, 1)


def test_progress_reads_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    from progress import how_far

    assert how_far(tmp_path) == "starting"
    (tmp_path / "config.yaml").write_text("trainer:\n  max_epochs: 20\n")
    lines = ["epoch,lr,train/loss,val/mAP", ",1e-3,,", "0,,4.1,", "0,,,0.25", ",1e-3,,"]
    (tmp_path / "metrics.csv").write_text("\n".join(lines))
    assert how_far(tmp_path) == "epoch 1 of 20, val mAP 25.0 %"


@pytest.mark.parametrize(
    "typed",
    [
        ["--cameras", "1", "1"],
        ["--", "split.camera=2"],
        ["--", "budget=9"],
        ["--controls", "7"],
        ["--cameras", "1", "--controls"],
    ],
)
def test_what_makes_no_sense_is_refused(
    experts: Callable[..., tuple[int, str]], typed: list[str]
) -> None:
    assert experts(*typed)[0] == 2
