"""Train one expert per camera, one training on each GPU or one after another on the CPU.

    python scripts/experts.py runs/experts
    python scripts/experts.py runs/experts --cameras 1 3 5 -- data.root=datasets seed=1
    python scripts/experts.py runs/experts --baselines

Expert N is `camreid-train +split=original split.camera=N run_dir=FOLDER/cN` with the options after
`--`; its output goes to FOLDER/cN.log. After Ctrl-C, type the same line again: a run with
metrics.json is finished and is skipped, one with checkpoints/last.ckpt is continued.

`--baselines` then trains joint models of all cameras, at as many optimisation steps as all experts
together: `joint`; and `joint-cN`, which is the joint model `start` fine-tuned on camera N for the
last 1 / (number of experts) of these steps, with the options after `--finetune`.
"""

import argparse
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

TRAIN = (sys.executable, "-m", "camreid.cli.train", "+split=original")
OF_THE_START = ("init", "model.unknown")  # beginnings of options that fine-tuning sets itself


class Trainings:
    """Trainings in one folder, on several devices at a time."""

    def __init__(self, folder: Path, devices: Sequence[str], lock: int) -> None:
        self.folder, self.lock = folder, lock
        self.devices: SimpleQueue[str] = SimpleQueue()
        for device in devices:
            self.devices.put(device)
        self.count = len(devices)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.is_stopped = False

    def run(self, options: dict[str, list[str]]) -> bool:
        """Train models by name with their options; whether all are finished."""
        with ThreadPoolExecutor(self.count) as pool:
            try:
                return all(list(pool.map(self._train, options, options.values())))
            except KeyboardInterrupt:
                self.is_stopped = True
                for process in self.processes:
                    if process.poll() is None:
                        process.send_signal(signal.SIGINT)
                raise

    def _train(self, name: str, options: list[str]) -> bool:
        run, log = self.folder / name, self.folder / f"{name}.log"
        if self.is_stopped:
            return False
        if (run / "metrics.json").is_file():
            print(f"{name} is finished", flush=True)
            return True
        device = self.devices.get()
        last = run / "checkpoints" / "last.ckpt"
        command = [*TRAIN, f"run_dir={run}", *options]
        if last.is_file():
            command.append(f"resume={last}")
        elif (run / ".hydra").is_dir():  # interrupted in its first epoch
            count = len(list(self.folder.glob(f"unfinished-{name}-*")))
            run.rename(self.folder / f"unfinished-{name}-{count}")
        environment = dict(os.environ)
        if device == "cpu":
            command += [] if any(o.startswith("trainer=") for o in options) else ["trainer=cpu"]
        else:
            environment["CUDA_VISIBLE_DEVICES"] = device
        print(f"{name} {'continues' if last.is_file() else 'starts'} on {device}", flush=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=environment,
                start_new_session=True, pass_fds=[self.lock],
            )  # fmt: skip
            self.processes.append(process)
            code = process.wait()
        self.devices.put(device)
        print(f"{name} {'is finished' if code == 0 else f'FAILED, see {log}'}", flush=True)
        return code == 0


def steps(run: Path) -> int:
    """Optimisation steps of a finished training."""
    import torch  # only for baselines

    last = run / "checkpoints" / "last.ckpt"
    return int(torch.load(last, map_location="cpu", weights_only=True, mmap=True)["global_step"])


def length(count: int) -> list[str]:
    """Options for a number of steps; an epoch has one step or more."""
    return [f"trainer.max_steps={count}", f"trainer.max_epochs={count}"]


def train_all(arguments: argparse.Namespace, trainings: Trainings) -> bool:
    """Train experts, then baselines; whether all are finished."""
    folder, cameras, options = arguments.folder, arguments.cameras, arguments.options
    if not trainings.run({f"c{c}": [*options, f"split.camera={c}"] for c in cameras}):
        return False
    if not arguments.baselines:
        return True
    total = sum(steps(folder / f"c{camera}") for camera in cameras)
    last = total // len(cameras)
    own = [o for o in options if not o.startswith("trainer.max_epochs=")]
    joint = {"joint": own + length(total), "start": own + length(total - last)}
    if not trainings.run(joint):
        return False
    start = f"init={folder / 'start' / 'checkpoints' / 'last.ckpt'}"
    tuned = [*(o for o in own if not o.startswith(OF_THE_START)), start, *length(last)]
    names = {f"joint-c{c}": [*tuned, f"split.camera={c}", *arguments.finetune] for c in cameras}
    return trainings.run(names)


def available_devices() -> list[str]:
    """The GPUs as CUDA_VISIBLE_DEVICES names them, or `cpu`."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return (visible.split(",") if visible else [str(n) for n in range(count)])[:count] or ["cpu"]


def read_arguments() -> argparse.Namespace:
    """What was typed; `options` are those after `--`."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("folder", type=Path, help="of the run folders c1, c2, ...")
    parser.add_argument("--cameras", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6])
    parser.add_argument("--baselines", action="store_true", help="train joint models, too")
    about = "options of joint-cN, such as +experiment=finetune"
    parser.add_argument("--finetune", nargs="+", default=[], metavar="OPTION", help=about)
    parser.add_argument("--devices", nargs="+", help="numbers of GPUs, or cpu; default: all GPUs")
    typed, options = sys.argv[1:], []
    if "--" in typed:
        typed, options = typed[: typed.index("--")], typed[typed.index("--") + 1 :]
    arguments = parser.parse_args(typed)
    own = ("split=", "+split=", "split.camera=", "run_dir=", "resume=")
    taken = [option for option in (*options, *arguments.finetune) if option.startswith(own)]
    if taken or len(set(arguments.cameras)) < len(arguments.cameras):
        parser.error(f"{taken[0]}: set by this script" if taken else "--cameras: one twice")
    arguments.options = options
    return arguments


def main() -> int:
    """Train; the exit code."""
    arguments = read_arguments()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:  # as nohup sets
            signal.signal(number, signal.default_int_handler)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with (arguments.folder / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"experts.py: another process trains in {arguments.folder}.")
        devices = arguments.devices or available_devices()
        try:
            return (
                0
                if train_all(arguments, Trainings(arguments.folder, devices, lock.fileno()))
                else 1
            )
        except KeyboardInterrupt:
            print("interrupted; the same command continues", flush=True)
            return 130


if __name__ == "__main__":
    sys.exit(main())
