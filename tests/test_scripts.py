"""scripts/experts.py, with a command that trains nothing."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from camreid.checkpoints.io import save
from camreid.labels import LabelMap
from tests.conftest import TINY, Ran, tiny_module

SCRIPT = Path(__file__).parents[1] / "scripts" / "experts.py"
FAKE = """
import json, os, pathlib, shutil, signal, sys, time

typed = dict(a.split("=", 1) for a in sys.argv[1:])
run = pathlib.Path(typed["run_dir"])
gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
what = {"typed": sys.argv[1:], "gpu": gpu, "start": time.time()}
(run / ".hydra").mkdir(parents=True, exist_ok=True)
(run / ".hydra" / "overrides.yaml").write_text(json.dumps(sys.argv[1:]))
(run / "checkpoints").mkdir(parents=True, exist_ok=bool(typed.get("resume")))
if typed.get("split.camera") == typed.get("fails", "none"):
    sys.exit("camreid-train: no train image is of that camera.")
if os.path.exists("waits"):
    (run / "checkpoints" / "last.ckpt").touch()
    try:
        (run / "waiting").touch()
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


def default_interrupt() -> None:
    """Where the tests run in the background, a shell has them ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    fake = tmp_path / "fake.py"
    fake.write_text(FAKE)

    def begin(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(SCRIPT), "e", "--command", f"{sys.executable} {fake}"]
        return subprocess.Popen(
            [*command, *arguments],
            preexec_fn=default_interrupt,
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
        "run_dir=e/c2", "+split=original", "seed=1", "model=small", "split.camera=2", "trainer=cpu"
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
    code, out = experts("--cameras", "2", "--devices", "cpu")
    assert code == 0, out
    assert not any(str(option).startswith("resume=") for option in done(tmp_path, 2)["typed"])


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)  # and for what comes after it


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_ctrl_c_leaves_what_can_be_continued(
    start: Callable[..., subprocess.Popen[str]],
    experts: Callable[..., tuple[int, str]],
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    (tmp_path / "waits").touch()
    process = start("--cameras", "1", "2", "--devices", "cpu")
    wait_for(tmp_path / "e" / "c1" / "checkpoints" / "last.ckpt")
    process.send_signal(number)
    out, _ = process.communicate(timeout=180)
    assert process.returncode == 130
    assert "c1 interrupted; the same command goes on" in out
    assert not (tmp_path / "e" / "c2").exists()
    (tmp_path / "waits").unlink()
    code, out = experts("--cameras", "1", "2", "--devices", "cpu")
    assert code == 0, out
    assert "c1 continued on cpu" in out
    assert "resume=e/c1/checkpoints/last.ckpt" in done(tmp_path, 1)["typed"]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A checkpoint that was trained on 600 images, from weights of an unknown past."""
    module = tiny_module(LabelMap((2, 7)))
    module.images_seen, module.images_trained = None, 600
    save(module, tmp_path / "weights.ckpt", {"config": "trainer: {max_epochs: 3}"})
    return tmp_path / "weights.ckpt"


def test_controls_see_as_many_images_as_all_experts(
    experts: Callable[..., tuple[int, str]], tmp_path: Path, weights: Path
) -> None:
    typed = ["--cameras", "1", "2", "3", "--controls", "2", "--finetune", "lr=1", "--devices", "0"]
    code, out = experts(*typed, "--", f"weights={weights}", "trainer.max_epochs=9", "init=x.ckpt")
    assert code == 0, out
    own = [f"weights={weights}", "init=x.ckpt"]
    assert done(tmp_path, "joint")["typed"] == [
        "run_dir=e/joint", "+split=original", "budget=1800", *own
    ]  # fmt: skip
    assert done(tmp_path, "start")["typed"] == [
        "run_dir=e/start", "+split=original", "budget=1200", *own
    ]  # fmt: skip
    tuned = done(tmp_path, "joint-c2")
    assert tuned["typed"] == [
        "run_dir=e/joint-c2", "+split=original", "budget=600",
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
    for half in ("trainer:\n  max_ep", "trainer", "", "trainer: {max_epochs"):
        (tmp_path / "config.yaml").write_text(half)
        assert how_far(tmp_path) == "starting"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--cameras", "1", "1"], "--cameras [1, 1] names one twice"),
        (["--", "split.camera=2"], "split.camera=2 is for this program to type"),
        (["--", "budget=9"], "budget=9 is for this program to type"),
        (["--controls", "7"], "--controls [7]: type some of --cameras [1, 2, 3, 4, 5, 6]"),
        (["--cameras", "1", "--controls"], "type some of --cameras [1], two or more"),
    ],
)
def test_what_makes_no_sense_is_refused(
    experts: Callable[..., tuple[int, str]], tmp_path: Path, typed: list[str], said: str
) -> None:
    code, out = experts(*typed)
    assert code == 2
    assert said in " ".join(out.split())
    assert not (tmp_path / "e").exists()


def test_what_was_trained_with_other_options_is_said(
    experts: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    typed = ["--cameras", "1", "--devices", "cpu", "--"]
    assert experts(*typed, "seed=1", "data.workers=2")[0] == 0
    before = done(tmp_path, 1)
    code, out = experts(*typed, "seed=2", "init=a.ckpt")
    assert code == 1
    assert "c1 not as asked: it was told no init seed=1, and now init=a.ckpt seed=2. Type" in out
    assert experts(*typed, "seed=1", "trainer=gpu", "test=false")[0] == 0
    assert done(tmp_path, 1) == before


def test_more_epochs_go_on_and_fewer_do_not(
    experts: Callable[..., tuple[int, str]], tmp_path: Path, weights: Path
) -> None:
    typed = ["--cameras", "1", "--devices", "cpu", "--", f"weights={weights}"]
    assert experts(*typed, "trainer.max_epochs=3")[0] == 0
    code, out = experts(*typed, "trainer.max_epochs=2")
    assert code == 1
    assert "it was told to train 3 epochs, and now 2" in out
    code, out = experts(*typed)
    assert "it was told trainer.max_epochs=3, and now no trainer.max_epochs" in out
    code, out = experts(*typed, "trainer.max_epochs=4")
    assert code == 0, out
    assert "resume=e/c1/checkpoints/last.ckpt" in done(tmp_path, 1)["typed"]
    (tmp_path / "e" / "c1" / "metrics.json").unlink()
    code, out = experts(*typed, "trainer.max_epochs=abc")  # for camreid-train to refuse
    assert "Traceback" not in out
    assert "c1 continued" in out


def trained(path: Path, behind: int, asked: int) -> Path:
    """A checkpoint of a run that was to have some epochs, with some behind it."""
    save(tiny_module(LabelMap((2, 7))), path, {"config": f"trainer: {{max_epochs: {asked}}}"})
    content = torch.load(path, weights_only=False)
    torch.save({**content, "epoch": behind - 1}, path)
    return path


def test_tests_of_fewer_epochs_are_set_aside_as_each_training_starts(
    start: Callable[..., subprocess.Popen[str]],
    experts: Callable[..., tuple[int, str]],
    tmp_path: Path,
) -> None:
    whole = trained(tmp_path / "whole.ckpt", 3, asked=3)
    typed = ["--cameras", "1", "2", "--devices", "cpu", "--", f"weights={whole}"]
    assert experts(*typed, "trainer.max_epochs=3")[0] == 0
    first, second = tmp_path / "e" / "c1", tmp_path / "e" / "c2"
    for run in (first, second):
        (run / "test").mkdir()
        (run / "test" / "metrics.json").write_text("{}")
    (tmp_path / "waits").touch()
    process = start(*typed, "trainer.max_epochs=5")
    wait_for(first / "waiting")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=180)
    assert [path.relative_to(first) for path in sorted(first.rglob("metrics*.json"))] == [
        Path("metrics.before.json"), Path("test", "metrics.before.json")
    ]  # fmt: skip
    assert "c2 done before" in experts(*typed, "trainer.max_epochs=3")[1]  # was not started
    trained(first / "checkpoints" / "last.ckpt", 4, asked=5)
    (tmp_path / "waits").unlink()
    code, out = experts(*typed, "trainer.max_epochs=5")
    assert code == 0, out
    assert "c1 continued" in out
    assert "c2 continued" in out


@pytest.mark.parametrize(
    ("behind", "named", "age", "expected"),
    [
        (3, "metrics.json", -1, True),
        (3, "test/metrics.json", -1, True),
        (3, "metrics.json", 1, True),  # as copying may leave it
        (2, "metrics.json", -1, True),  # stopped early
        (2, "metrics.json", 1, False),  # continued by hand
        (2, "test/metrics.json", -1, False),  # of what was interrupted
        (2, "test/metrics.json", 1, False),
    ],
)
def test_a_test_counts_if_it_is_of_the_whole_training(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    behind: int,
    named: str,
    age: int,
    expected: bool,
) -> None:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    from finished import is_tested

    last = trained(tmp_path / "checkpoints" / "last.ckpt", behind, asked=3)
    (tmp_path / named).parent.mkdir(exist_ok=True)
    (tmp_path / named).write_text("{}")
    then = last.stat().st_mtime - age  # seconds before the checkpoint
    os.utime(tmp_path / named, (then, then))
    assert is_tested(tmp_path) == expected


def test_what_the_experts_do_with_unknown_people_is_not_for_fine_tuned_controls(
    experts: Callable[..., tuple[int, str]], tmp_path: Path, weights: Path
) -> None:
    typed = ["--cameras", "1", "2", "--controls", "1", "--devices", "cpu"]
    own = ["--", f"weights={weights}", "init=x.ckpt", "model.unknown=reinit"]
    assert experts(*typed, *own)[0] == 0
    for name in ("c1", "joint", "start"):
        assert "model.unknown=reinit" in done(tmp_path, name)["typed"]
    assert not any("model.unknown" in o for o in done(tmp_path, "joint-c1")["typed"])
    shutil.rmtree(tmp_path / "e" / "joint-c1")
    assert experts(*typed, "--finetune", "model.unknown=extend", *own)[0] == 0
    assert "model.unknown=extend" in done(tmp_path, "joint-c1")["typed"]


def test_controls_of_other_budgets_are_said(
    experts: Callable[..., tuple[int, str]], tmp_path: Path, weights: Path
) -> None:
    typed = ["--cameras", "1", "2", "--controls", "1", "--devices", "cpu", "--"]
    assert experts(*typed, f"weights={weights}")[0] == 0
    module = tiny_module(LabelMap((2, 7)))
    module.images_trained = 800
    save(module, tmp_path / "e" / "c2" / "checkpoints" / "last.ckpt")
    code, out = experts(*typed, f"weights={weights}")
    assert code == 1
    assert "joint not as asked: it was told budget=1200, and now budget=1400" in out
    assert "joint-c1 not started: start failed" in out


def test_half_written_metrics_are_not_done(
    experts: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    typed = ["--cameras", "1", "--devices", "cpu"]
    assert experts(*typed)[0] == 0
    (tmp_path / "e" / "c1" / "metrics.json").write_text('{"mAP": 0.')
    code, out = experts(*typed)
    assert code == 0, out
    assert "c1 continued" in out
    assert done(tmp_path, 1)


def test_a_killed_program_does_not_leave_a_folder_to_two(
    start: Callable[..., subprocess.Popen[str]],
    experts: Callable[..., tuple[int, str]],
    tmp_path: Path,
) -> None:
    (tmp_path / "waits").touch()
    typed = ["--cameras", "1", "--devices", "cpu"]
    process = start(*typed)
    wait_for(tmp_path / "e" / "c1" / "checkpoints" / "last.ckpt")
    code, out = experts(*typed)
    assert (code, out.count("\n")) == (1, 1)
    assert f"e is still running (pid {process.pid}, " in out
    process.kill()
    process.wait()
    code, out = experts(*typed)
    assert code == 1
    orphan = int(out.partition("(pid ")[2].partition(")")[0])
    assert orphan != process.pid
    os.kill(orphan, signal.SIGKILL)
    assert process.stdout is not None
    process.stdout.close()
    (tmp_path / "waits").unlink()
    deadline = time.monotonic() + 10
    while experts(*typed)[0] and time.monotonic() < deadline:
        time.sleep(0.1)
    assert done(tmp_path, 1)


def test_experts_without_a_count_end_in_one_paragraph(
    experts: Callable[..., tuple[int, str]], tmp_path: Path, weights: Path
) -> None:
    typed = ["--cameras", "1", "2", "--controls", "--devices", "cpu", "--", f"weights={weights}"]
    assert experts(*typed[:3], *typed[4:])[0] == 0
    last = tmp_path / "e" / "c2" / "checkpoints" / "last.ckpt"
    last.unlink()
    code, out = experts(*typed)
    assert code == 1
    assert "Traceback" not in out
    assert "experts.py: no checkpoint at e/c2/checkpoints/last.ckpt" in out
    save(tiny_module(LabelMap((2, 7))), last)
    code, out = experts(*typed)
    assert code == 1
    assert "does not say how many images it was trained on" in out


def test_what_is_trained_but_not_tested_is_told_how(
    experts: Callable[..., tuple[int, str]], run: Callable[..., Ran], tmp_path: Path, market: Path
) -> None:
    options = [f"data.root={market}", *TINY, "trainer.max_epochs=1"]
    typed = ("+split=original", *options, "split.camera=1", "test=false", "run_dir=e/c1")
    assert run("camreid-train", *typed).code == 0
    code, out = experts("--cameras", "1", "--", *options)
    assert code == 0, out
    assert "c1 trained before, not tested: camreid-evaluate" in out
    command = out.splitlines()[0].partition("not tested: ")[2]
    ran = run(*shlex.split(command))
    assert ran.code == 0, ran.err
    assert (tmp_path / "e" / "c1" / "test" / "metrics.json").is_file()
    assert "c1 done before" in experts("--cameras", "1", "--", *options)[1]


def test_trainings_stop_where_interrupts_are_ignored(tmp_path: Path) -> None:
    fake = tmp_path / "fake.py"
    fake.write_text(FAKE)
    (tmp_path / "waits").touch()
    command = [sys.executable, str(SCRIPT), "e", "--command", f"{sys.executable} {fake}"]
    process = subprocess.Popen(
        [*command, "--cameras", "1", "--devices", "cpu"],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    wait_for(tmp_path / "e" / "c1" / "checkpoints" / "last.ckpt")
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "c1 interrupted" in out
