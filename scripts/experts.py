"""Train one expert per camera, one on each GPU at a time, or one after another on the CPU.

    python scripts/experts.py runs/experts --cameras 1 3 5 -- data.root=datasets seed=1
    python scripts/experts.py runs/experts --baselines

Expert N is `camreid-train OPTIONS +split=original split.camera=N run_dir=FOLDER/cN`, with OPTIONS
after `--`; FOLDER/cN.log has its output. After an interruption, the same command continues: a run
with metrics.json is finished, and a run with checkpoints/last.ckpt is resumed. `--baselines` also
trains joint models of all cameras, with as many optimisation steps as all experts together. `joint`
is one model. `joint-cN` is fine-tuned on camera N for the last 1 / (number of experts) of these
steps, with the options after `--finetune`. It starts from the joint model `start`.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

TRAIN = (sys.executable, "-m", "camreid.cli.train")


def train(folder: Path, devices: list[str], runs: dict[str, list[str]]) -> None:
    """Train models by name with their options; SystemExit after a failure or an interruption."""
    names = iter(list(runs))  # shared by the devices
    processes: list[subprocess.Popen[bytes]] = []

    def train_on(device: str) -> None:
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "" if device == "cpu" else device}
        for name in names:
            run, log = folder / name, folder / f"{name}.log"
            if (run / "metrics.json").is_file():
                continue
            print(f"{name} trains on {device}, see {log}", flush=True)
            with log.open("ab") as output:
                options = {"stdout": output, "stderr": output, "env": environment}
                command = command_of(run, runs[name])
                process = subprocess.Popen(command, start_new_session=True, **options)
            processes.append(process)
            print(f"{name} {'FAILED' if process.wait() else 'is finished'}", flush=True)

    with ThreadPoolExecutor(len(devices)) as pool:
        try:
            list(pool.map(train_on, devices))
        except KeyboardInterrupt:
            list(names)  # nothing is left to start
            for process in processes:
                process.send_signal(signal.SIGINT)
            sys.exit(130)
    if any(process.returncode for process in processes):
        sys.exit(1)


def command_of(run: Path, options: list[str]) -> list[str]:
    """The command that starts or continues a run."""
    command = [*TRAIN, *options, "+split=original", f"run_dir={run}"]
    last = run / "checkpoints" / "last.ckpt"
    if last.is_file():
        return [*command, f"resume={last}"]
    if (run / ".hydra").is_dir():  # interrupted in its first epoch
        run.rename(run.with_name(f"unfinished-{run.name}-{int(time.time())}"))
    return command


def train_baselines(typed: argparse.Namespace, devices: list[str]) -> None:
    """Train the joint models, after all experts."""
    files = [typed.folder / f"c{c}" / "checkpoints" / "last.ckpt" for c in typed.cameras]
    read = (torch.load(f, map_location="cpu", weights_only=True, mmap=True) for f in files)
    total = sum(int(content["global_step"]) for content in read)
    last = total // len(typed.cameras)
    own = [*typed.options, "trainer.max_epochs=-1"]
    joint = {"joint": total, "start": total - last}
    train(typed.folder, devices, {k: [*own, f"trainer.max_steps={n}"] for k, n in joint.items()})
    init = f"init={typed.folder / 'start' / 'checkpoints' / 'last.ckpt'}"
    own += [init, "init_dataset=same", "model.unknown=skip", f"trainer.max_steps={last}"]
    tuned = {f"joint-c{c}": [*own, *typed.finetune, f"split.camera={c}"] for c in typed.cameras}
    train(typed.folder, devices, tuned)


def read_arguments() -> argparse.Namespace:
    """What was typed; `options` are those after `--`."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("folder", type=Path, help="parent of the run folders c1, c2, ...")
    parser.add_argument("--cameras", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6])
    parser.add_argument("--baselines", action="store_true", help="also train joint models")
    parser.add_argument("--finetune", nargs="+", default=[], help="options for joint-cN")
    parser.add_argument("--devices", nargs="+", help="numbers of GPUs, or cpu; default: all GPUs")
    words = [*sys.argv[1:], "--"]
    typed = parser.parse_args(words[: words.index("--")])
    typed.options = words[words.index("--") + 1 : -1]
    return typed


def available_devices() -> list[str]:
    """The GPUs as CUDA_VISIBLE_DEVICES names them, or `cpu`."""
    count, visible = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return (visible.split(",") if visible else [str(n) for n in range(count)])[:count] or ["cpu"]


def main() -> None:
    """Train experts, then baselines."""
    typed = read_arguments()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # also where the shell ignores SIGINT
    devices = typed.devices or available_devices()
    typed.folder.mkdir(parents=True, exist_ok=True)
    experts = {f"c{c}": [*typed.options, f"split.camera={c}"] for c in typed.cameras}
    train(typed.folder, devices, experts)
    if typed.baselines:
        train_baselines(typed, devices)


if __name__ == "__main__":
    main()
