"""One expert for each camera: trains them on the devices at hand, and goes on where it stopped.

    python scripts/experts.py runs/experts
    python scripts/experts.py runs/experts --cameras 1 3 5 -- data.root=datasets seed=1
    python scripts/experts.py runs/experts --controls
    camreid-matrix experts='runs/experts/c*/checkpoints/best.ckpt' \
        controls='runs/experts/joint*/checkpoints/best.ckpt' +split=original

Expert N is trained by `camreid-train +split=original split.camera=N run_dir=FOLDER/cN` with the
options after `--`, one process on each GPU, or one after another on the CPU. Those that have their
metrics.json are done; those that have a last.ckpt are continued from it, so type the same line
again after Ctrl-C. More epochs may be asked for then; of what was trained with other options it is
said which. What each prints is in FOLDER/cN.log.

`--controls` trains what the experts are to be held against, each on as many images as all experts
were trained on together (an `init=` that they share not counted): `joint`, one model of all
cameras; and `joint-cN`, a joint model (`start`) fine-tuned on camera N for its share of the images,
1 / (number of experts). `--controls 3` fine-tunes on camera 3 alone; options of the fine-tuning go
after `--finetune`. They cost up to 2.8 times what six experts cost.
"""

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from locking import Lock
from queueing import Queue, Task

from camreid.errors import InputError


def experts_of(cameras: Sequence[int]) -> list[Task]:
    """An expert of each camera."""
    return [Task(f"c{camera}", (f"split.camera={camera}",)) for camera in cameras]


def controls_of(cameras: Sequence[int], experts: int, finetune: Sequence[str]) -> list[Task]:
    """The joint model, and joint models fine-tuned on these cameras, at equal images seen."""
    last = 1 / experts
    start = [Task("start", share=1 - last)] if cameras else []
    tuned = [
        Task(f"joint-c{camera}", (f"split.camera={camera}", *finetune), last, "start")
        for camera in cameras
    ]
    return [Task("joint", share=1.0), *start, *tuned]


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
    about = "cameras to fine-tune a joint model on, all by default"
    parser.add_argument("--controls", type=int, nargs="*", metavar="N", help=about)
    about = "options of the fine-tuning, such as experiment=finetune"
    parser.add_argument("--finetune", nargs="+", default=[], metavar="OPTION", help=about)
    parser.add_argument("--devices", nargs="+", help="numbers of GPUs, or cpu; all by default")
    parser.add_argument("--command", help="that trains a model; camreid-train by default")
    typed, overrides = sys.argv[1:], []
    if "--" in typed:
        place = typed.index("--")
        typed, overrides = typed[:place], typed[place + 1 :]
    arguments = parser.parse_args(typed)
    arguments.overrides = overrides
    _check(parser, arguments)
    return arguments


def _check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    cameras, controls = arguments.cameras, arguments.controls
    if len(set(cameras)) < len(cameras):
        parser.error(f"--cameras {cameras} names one twice")
    if controls == []:
        arguments.controls = cameras
    if set(controls or ()) - set(cameras) or (controls is not None and len(cameras) < 2):
        parser.error(f"--controls {controls}: type some of --cameras {cameras}, two or more")
    own = ("split=", "+split=", "split.camera=", "run_dir=", "resume=", "budget=")
    taken = [o for o in (*arguments.overrides, *arguments.finetune) if o.startswith(own)]
    if taken:
        parser.error(f"{taken[0]} is for this program to type; use FOLDER and --cameras")


def main() -> int:
    arguments = read_arguments()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    own = [sys.executable, "-m", "camreid.cli.train"]
    command = shlex.split(arguments.command) if arguments.command else own
    tasks = experts = experts_of(arguments.cameras)
    if arguments.controls is not None:
        controls = controls_of(arguments.controls, len(experts), arguments.finetune)
        tasks = [*experts, *controls]
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup sets
            signal.signal(number, signal.default_int_handler)
    with Lock(arguments.folder) as lock:
        queue = Queue(arguments.folder, command, arguments.overrides, experts, lock)
        try:
            queue.run(tasks, arguments.devices or devices_at_hand())
        except KeyboardInterrupt:
            return 130
        except InputError as error:
            print(f"experts.py: {error}", flush=True)
            return 1
        finally:
            queue.stop()
    if queue.failed:
        logs = [str(queue.log(name)) for name in queue.failed if queue.log(name).is_file()]
        see = f"; see {', '.join(logs)}" if logs else ""
        print(f"{len(queue.failed)} of {len(tasks)} failed{see}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
