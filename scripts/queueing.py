"""Trainings that wait for each other and for a device, one process each."""

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finished import EPOCHS, TESTS, images_trained, is_tested, standing
from locking import Lock
from progress import Lines

POLL = 0.2  # seconds between looks at the processes


@dataclass(frozen=True)
class Task:
    """A model to be trained.

    Attributes:
        name: of its run folder.
        typed: options of its own.
        share: of the images that all experts are trained on; None for a number of epochs.
        start: name of the task that it starts from.
    """

    name: str
    typed: tuple[str, ...] = ()
    share: float | None = None
    start: str | None = None


@dataclass
class Job:
    """A task in training."""

    task: Task
    device: str
    process: subprocess.Popen[bytes]
    started: float


def _heed_interrupts() -> None:
    """Have a training stop on SIGINT where this program ignores it, as after `&` in a script."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Queue:
    """Models that wait, train, are done or have failed.

    Args:
        folder: of their run folders and logs.
        command: that trains one.
        overrides: for each.
        experts: how many images they are trained on together is the controls' measure.
        lock: of the folder, which each training holds, too.
    """

    def __init__(
        self,
        folder: Path,
        command: Sequence[str],
        overrides: Sequence[str],
        experts: list[Task],
        lock: Lock,
    ) -> None:
        self.lock = lock
        self.folder, self.command, self.overrides = folder, list(command), list(overrides)
        self.experts = [task.name for task in experts]
        self.running: list[Job] = []
        self.done: set[str] = set()
        self.failed: list[str] = []
        self.outgrown: set[str] = set()  # whose tests are of fewer epochs than they will have
        self.lines = Lines(folder)

    def run(self, tasks: Sequence[Task], devices: Sequence[str]) -> None:
        """Train what is not done, one at a time on each device."""
        waiting, free = list(tasks), list(devices)
        looked_at: set[Task] = set()
        with self.lines:
            while waiting or self.running:
                for task in [task for task in waiting if self.is_hopeless(task)]:
                    waiting.remove(task)
                ready = [task for task in waiting if self.is_ready(task)]
                for task in [task for task in ready if task not in looked_at]:
                    looked_at.add(task)
                    if self.is_settled(task):
                        waiting.remove(task)
                        ready.remove(task)
                for task in ready[: len(free)]:
                    waiting.remove(task)
                    self.running.append(self.start(task, free.pop(0)))
                if self.running:
                    time.sleep(POLL)
                self.lines.look([job.task.name for job in self.running])
                for job in [job for job in self.running if job.process.poll() is not None]:
                    self.running.remove(job)
                    free.append(job.device)
                    self.finish(job)

    def is_settled(self, task: Task) -> bool:
        """Whether a model is trained, or can't be in this folder; says so."""
        run = self.folder / task.name
        ignored = ("init",) if task.start else ()  # which is of this folder, however that is typed
        how, differs = standing(run, self.options(task), ignored)
        if how == "more" or (how == "begun" and not is_tested(run)):
            self.outgrown.add(task.name)
        if how in ("new", "begun", "more"):
            return False
        if how == "other":
            remedy = f"Type another FOLDER, or remove {run}"
            self.lines.say(task.name, f"not as asked: {differs}. {remedy}")
            self.failed.append(task.name)
            return True
        untested = f"trained before, not tested: {self.test_of(task)}"
        self.lines.say(task.name, f"done before: {run}" if how == "done" else untested)
        self.done.add(task.name)
        return True

    def test_of(self, task: Task) -> str:
        """The command that tests a model that was trained without."""
        shared = re.compile(r"\+*(split|data|evaluation|trainer)[.=]")  # with camreid-train
        typed = [option for option in self.options(task) if shared.match(option)]
        run = self.folder / task.name
        best = f"checkpoint={run / 'checkpoints' / 'best.ckpt'}"
        return shlex.join(["camreid-evaluate", best, *typed, f"run_dir={run / 'test'}"])

    def needs(self, task: Task) -> set[str]:
        """What must be done before a task."""
        experts = set() if task.share is None else set(self.experts)
        return experts | ({task.start} if task.start else set())

    def is_ready(self, task: Task) -> bool:
        """Whether all that a task needs is done."""
        return self.needs(task) <= self.done

    def is_hopeless(self, task: Task) -> bool:
        """Whether something that a task needs has failed; says so."""
        lacking = sorted(self.needs(task) & set(self.failed))
        if lacking:
            self.lines.say(task.name, f"not started: {', '.join(lacking)} failed")
            self.failed.append(task.name)
        return bool(lacking)

    def budget(self, share: float) -> int:
        """A share of the images that the experts were trained on in all, without their start."""
        checkpoints = [self.folder / name / "checkpoints" / "last.ckpt" for name in self.experts]
        return round(share * sum(images_trained(path) for path in checkpoints))

    def options(self, task: Task) -> list[str]:
        """What is typed for a task, but for its folder, its device and what it goes on from."""
        overrides = self.overrides
        typed = ["+split=original"]
        if task.share is not None:
            overrides = [option for option in overrides if not option.startswith(f"{EPOCHS}=")]
            typed.append(f"budget={self.budget(task.share)}")
        if task.start:
            typed.append(f"init={self.folder / task.start / 'checkpoints' / 'last.ckpt'}")
            # of the experts' start, whose rows are not these
            own = ("init=", "init_people=", "model.unknown=")
            overrides = [o for o in overrides if not o.lstrip("+").startswith(own)]
        return [*typed, *overrides, *task.typed]

    def start(self, task: Task, device: str) -> Job:
        """Train a model, or go on with it."""
        run = self.folder / task.name
        last = run / "checkpoints" / "last.ckpt"
        typed = [f"run_dir={run}", *self.options(task)]
        if last.is_file():
            typed.append(f"resume={last}")
        elif last.parent.is_dir() and not any(last.parent.iterdir()):
            last.parent.rmdir()  # stopped in its first epoch: camreid-train takes it for a run
        environment = dict(os.environ)
        if device != "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = device
        elif not any(option.startswith("trainer=") for option in self.overrides):
            typed.append("trainer=cpu")
        if task.name in self.outgrown:
            self.set_tests_aside(run)
        with self.log(task.name).open("ab") as log:
            # a session of its own, so that Ctrl-C reaches it once, through this program
            process = subprocess.Popen(
                [*self.command, *typed],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                preexec_fn=_heed_interrupts,
                pass_fds=(self.lock.fileno(),),
            )
        self.lock.add(process.pid)
        how = "continued" if last.is_file() else "started"
        self.lines.say(task.name, f"{how} on {device if device == 'cpu' else f'GPU {device}'}")
        return Job(task, device, process, time.monotonic())

    def set_tests_aside(self, run: Path) -> None:
        """Rename what says how good a model was, as that is not how good it will be."""
        for path in (run / name for name in TESTS):
            if path.is_file():
                path.replace(path.with_name("metrics.before.json"))

    def finish(self, job: Job) -> None:
        """Say how a training ended."""
        name, minutes = job.task.name, (time.monotonic() - job.started) / 60
        if job.process.returncode == 0:
            self.done.add(name)
            self.lines.say(name, f"done in {minutes:.1f} min: {self.folder / name}")
            return
        self.failed.append(name)
        log = self.log(name)
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        said = f": {lines[-1]}" if lines else ""
        self.lines.say(name, f"FAILED with exit code {job.process.returncode}, see {log}{said}")

    def stop(self) -> None:
        """Let the processes end at once, with what they have saved."""
        for job in self.running:
            job.process.send_signal(signal.SIGINT)
        for job in self.running:
            try:
                job.process.wait()
            except KeyboardInterrupt:  # once more
                job.process.kill()
        for job in self.running:
            self.lines.say(job.task.name, "interrupted; the same command goes on with it")

    def log(self, name: str) -> Path:
        """What a training prints."""
        return self.folder / f"{name}.log"
