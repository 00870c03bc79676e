"""One expert for each camera: trains them on the devices at hand, and goes on where it stopped.

    python scripts/experts.py runs/experts
    python scripts/experts.py runs/experts --cameras 1 3 5 -- data.root=datasets seed=1
    camreid-matrix experts='runs/experts/*/checkpoints/best.ckpt' +split=original

Expert N is trained by `camreid-train +split=original split.camera=N run_dir=FOLDER/cN` with the
options after `--`, one process on each GPU, or one after another on the CPU. Those that have their
metrics.json are done; those that have a last.ckpt are continued from it, so type the same line
again after Ctrl-C. What each prints is in FOLDER/cN.log.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

POLL = 0.2  # seconds between looks at the processes


@dataclass
class Job:
    """An expert in training."""

    camera: int
    device: str
    process: subprocess.Popen[bytes]
    started: float


class Queue:
    """Experts that wait, train, are done or have failed.

    Args:
        folder: of their run folders and logs.
        command: that trains one.
        overrides: for each.
    """

    def __init__(self, folder: Path, command: Sequence[str], overrides: Sequence[str]) -> None:
        self.folder, self.command, self.overrides = folder, list(command), list(overrides)
        self.running: list[Job] = []
        self.failed: list[int] = []

    def run(self, cameras: Sequence[int], devices: Sequence[str]) -> None:
        """Train the experts that are not done, one at a time on each device."""
        waiting = deque(camera for camera in cameras if not self.is_done(camera))
        free = list(devices)
        while waiting or self.running:
            while waiting and free:
                self.running.append(self.start(waiting.popleft(), free.pop(0)))
            time.sleep(POLL)
            for job in [job for job in self.running if job.process.poll() is not None]:
                self.running.remove(job)
                free.append(job.device)
                self.finish(job)

    def is_done(self, camera: int) -> bool:
        """Whether an expert has nothing left to train; says so."""
        run = self.folder / f"c{camera}"
        if (run / "metrics.json").is_file():
            say(camera, f"done before: {run / 'metrics.json'}")
            return True
        if self.is_trained(run / "checkpoints" / "last.ckpt"):
            best = run / "checkpoints" / "best.ckpt"
            say(camera, f"trained before, its test cut short: camreid-evaluate checkpoint={best}")
            return True
        return False

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
        asked = yaml.safe_load(checkpoint.notes["config"])["trainer"]["max_epochs"]
        for option in self.overrides:
            if option.startswith("trainer.max_epochs="):
                asked = int(option.partition("=")[2])
        return bool(checkpoint.epochs >= asked)

    def start(self, camera: int, device: str) -> Job:
        """Train an expert, or go on with it."""
        run = self.folder / f"c{camera}"
        last = run / "checkpoints" / "last.ckpt"
        typed = ["+split=original", f"split.camera={camera}", f"run_dir={run}", *self.overrides]
        if last.is_file():
            typed.append(f"resume={last}")
        elif last.parent.is_dir() and not any(last.parent.iterdir()):
            last.parent.rmdir()  # stopped in its first epoch: camreid-train takes it for a run
        environment = dict(os.environ)
        if device != "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = device
        elif not any(option.startswith("trainer=") for option in self.overrides):
            typed.append("trainer=cpu")
        with self.log(camera).open("ab") as log:
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
        say(camera, f"{how} on {device if device == 'cpu' else f'GPU {device}'}")
        return Job(camera, device, process, time.monotonic())

    def finish(self, job: Job) -> None:
        """Say how an expert ended."""
        minutes = (time.monotonic() - job.started) / 60
        if job.process.returncode == 0:
            say(job.camera, f"done in {minutes:.1f} min: {self.folder / f'c{job.camera}'}")
            return
        self.failed.append(job.camera)
        log = self.log(job.camera)
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        said = f": {lines[-1]}" if lines else ""
        say(job.camera, f"FAILED with exit code {job.process.returncode}, see {log}{said}")

    def stop(self) -> None:
        """Let the processes end at once, with what they have saved."""
        for job in self.running:
            job.process.send_signal(signal.SIGINT)
        for job in self.running:
            try:
                job.process.wait()
            except KeyboardInterrupt:  # once more
                job.process.kill()
            say(job.camera, "interrupted; the same command goes on with it")

    def log(self, camera: int) -> Path:
        """What an expert prints."""
        return self.folder / f"c{camera}.log"


def say(camera: int, text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} c{camera} {text}", flush=True)


def devices_at_hand() -> list[str]:
    """The GPUs as CUDA_VISIBLE_DEVICES names them, or `cpu`."""
    import torch  # only where no --devices were typed

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    named = visible.split(",") if visible else map(str, range(torch.cuda.device_count()))
    return list(named)[: torch.cuda.device_count()] or ["cpu"]


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of the run folders, c1 and on")
    parser.add_argument("--cameras", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6])
    parser.add_argument("--devices", nargs="+", help="numbers of GPUs, or cpu; all by default")
    parser.add_argument("--command", help="that trains an expert; camreid-train by default")
    typed, overrides = sys.argv[1:], []
    if "--" in typed:
        place = typed.index("--")
        typed, overrides = typed[:place], typed[place + 1 :]
    arguments = parser.parse_args(typed)
    if len(set(arguments.cameras)) < len(arguments.cameras):
        parser.error(f"--cameras {arguments.cameras} names one twice")
    own = ("split=", "+split=", "split.camera=", "run_dir=", "resume=")
    taken = [option for option in overrides if option.startswith(own)]
    if taken:
        parser.error(f"{taken[0]} is for this program to type; use FOLDER and --cameras")
    arguments.overrides = overrides
    return arguments


def main() -> int:
    arguments = read_arguments()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    own = [sys.executable, "-m", "camreid.cli.train"]
    command = shlex.split(arguments.command) if arguments.command else own
    queue = Queue(arguments.folder, command, arguments.overrides)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        queue.run(arguments.cameras, arguments.devices or devices_at_hand())
    except KeyboardInterrupt:
        queue.stop()
        return 130
    if queue.failed:
        logs = ", ".join(str(queue.log(camera)) for camera in queue.failed)
        print(f"{len(queue.failed)} of {len(arguments.cameras)} failed; see {logs}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
