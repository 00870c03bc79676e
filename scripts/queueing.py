"""Trainings that wait for each other and for a device, one process each."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from progress import Lines

POLL = 0.2  # seconds between looks at the processes
EPOCHS = "trainer.max_epochs="


@dataclass(frozen=True)
class Task:
    """A model to be trained.

    Attributes:
        name: of its run folder.
        typed: options of its own.
        share: of the images that all experts have seen, to be trained on; None for epochs.
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


class Queue:
    """Models that wait, train, are done or have failed.

    Args:
        folder: of their run folders and logs.
        command: that trains one.
        overrides: for each.
        experts: how many images they have seen together is the controls' measure.
    """

    def __init__(
        self, folder: Path, command: Sequence[str], overrides: Sequence[str], experts: list[Task]
    ) -> None:
        self.folder, self.command, self.overrides = folder, list(command), list(overrides)
        self.experts = [task.name for task in experts]
        self.running: list[Job] = []
        self.done: set[str] = set()
        self.failed: list[str] = []
        self.lines = Lines(folder)

    def run(self, tasks: Sequence[Task], devices: Sequence[str]) -> None:
        """Train what is not done, one at a time on each device."""
        waiting = [task for task in tasks if not self.is_done(task)]
        free = list(devices)
        with self.lines:
            while waiting or self.running:
                for task in [task for task in waiting if self.is_hopeless(task)]:
                    waiting.remove(task)
                for task in [task for task in waiting if self.is_ready(task)][: len(free)]:
                    waiting.remove(task)
                    self.running.append(self.start(task, free.pop(0)))
                time.sleep(POLL)
                self.lines.look([job.task.name for job in self.running])
                for job in [job for job in self.running if job.process.poll() is not None]:
                    self.running.remove(job)
                    free.append(job.device)
                    self.finish(job)

    def is_done(self, task: Task) -> bool:
        """Whether a model has nothing left to train; says so."""
        run = self.folder / task.name
        if (run / "metrics.json").is_file():
            self.lines.say(task.name, f"done before: {run / 'metrics.json'}")
        elif self.is_trained(run / "checkpoints" / "last.ckpt"):
            best = run / "checkpoints" / "best.ckpt"
            self.lines.say(
                task.name, f"trained before, not tested: camreid-evaluate checkpoint={best}"
            )
        else:
            return False
        self.done.add(task.name)
        return True

    def is_trained(self, last: Path) -> bool:
        """Whether a checkpoint has all the epochs that are asked for."""
        if not last.is_file():
            return False
        from camreid.checkpoints import read_checkpoint  # torch only where there is one
        from camreid.errors import InputError

        try:
            checkpoint = read_checkpoint(last)
        except InputError:
            return False  # camreid-train will say why
        asked = yaml.safe_load(checkpoint.notes["config"])
        epochs = asked["trainer"]["max_epochs"]
        for option in self.overrides:
            if option.startswith(EPOCHS) and asked.get("budget") is None:
                epochs = int(option.partition("=")[2])
        return bool(checkpoint.epochs >= epochs)

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
        """A share of the images that the experts have seen in all."""
        from camreid.checkpoints import read_checkpoint

        checkpoints = [self.folder / name / "checkpoints" / "last.ckpt" for name in self.experts]
        return round(share * sum(read_checkpoint(path).images_seen or 0 for path in checkpoints))

    def start(self, task: Task, device: str) -> Job:
        """Train a model, or go on with it."""
        run = self.folder / task.name
        last = run / "checkpoints" / "last.ckpt"
        overrides = self.overrides
        typed = ["+split=original", f"run_dir={run}"]
        if task.share is not None:
            overrides = [option for option in overrides if not option.startswith(EPOCHS)]
            typed.append(f"budget={self.budget(task.share)}")
        if task.start:
            typed.append(f"init={self.folder / task.start / 'checkpoints' / 'last.ckpt'}")
            overrides = [option for option in overrides if not option.startswith("init=")]
        typed += [*overrides, *task.typed]
        if last.is_file():
            typed.append(f"resume={last}")
        elif last.parent.is_dir() and not any(last.parent.iterdir()):
            last.parent.rmdir()  # stopped in its first epoch: camreid-train takes it for a run
        environment = dict(os.environ)
        if device != "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = device
        elif not any(option.startswith("trainer=") for option in self.overrides):
            typed.append("trainer=cpu")
        with self.log(task.name).open("ab") as log:
            # a session of its own, so that Ctrl-C reaches it once, through this program
            process = subprocess.Popen(
                [*self.command, *typed],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        how = "continued" if last.is_file() else "started"
        self.lines.say(task.name, f"{how} on {device if device == 'cpu' else f'GPU {device}'}")
        return Job(task, device, process, time.monotonic())

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
            self.lines.say(job.task.name, "interrupted; the same command goes on with it")

    def log(self, name: str) -> Path:
        """What a training prints."""
        return self.folder / f"{name}.log"
