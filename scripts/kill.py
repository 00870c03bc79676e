"""Kill a training at random moments, resume it each time, and compare it with one that ran through.

    python scripts/kill.py --moments 20

A third of the moments are in the second after a checkpoint was written, the others are anywhere,
also in the start, in the writing of the cache and of the manifest, and in the test at the end.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

OPTIONS = (
    "+split=resplit", "split.val_fraction=0.2", "model=small", "model.network.backbone=test_resnet",
    "model.image_size=[64,32]", "trainer=cpu", "trainer.enable_progress_bar=false",
    "trainer.max_epochs=6", "trainer.threads=1", "data.identities=4", "data.workers=1",
    "data=synthetic", "data.render.people=24", "data.root=data", "data.cache_dir=cache",
    "callbacks=ema", "callbacks.last.every_n_train_steps=1",
)  # fmt: skip


def start(folder: Path, *options: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "camreid.cli.train", *OPTIONS, *options]
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)


def content(run: Path) -> dict[str, object]:
    read = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    names = ("state_dict", "current_model_state", "averaging_state", "optimizer_states")
    return {name: read[name] for name in (*names, "epoch", "global_step")}


def equal(first: object, second: object) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[k], second[k]) for k in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second


def kill(folder: Path, chance: random.Random, longest: float) -> int | None:
    """Start or resume the run, and kill it at a random moment; its exit code if it has ended."""
    last = folder / "part" / "checkpoints" / "last.ckpt"
    before = last.stat().st_mtime_ns if last.exists() else 0
    process = start(folder, "resume=part/checkpoints/last.ckpt" if before else "run_dir=part")
    begin, after_write = time.monotonic(), chance.random() < 1 / 3
    moment = chance.random() * (1 if after_write else longest)
    while process.poll() is None and time.monotonic() - begin < moment:
        if after_write and not (last.exists() and last.stat().st_mtime_ns != before):
            begin = time.monotonic()
        time.sleep(0.01)
    ended = process.poll()
    if ended is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    drafts = [str(p.relative_to(folder)) for p in folder.rglob("*.part")]
    where = f"{moment:.1f} s after {'a checkpoint' if after_write else 'the start'}"
    print(f"{where}, exit {ended}, epoch {finished(last)}, drafts {drafts}", flush=True)
    if not last.exists() and (folder / "part").exists():  # there is nothing to resume
        (folder / "part").rename(folder / f"part-{time.monotonic_ns()}")
    return ended


def finished(last: Path) -> int | None:
    return torch.load(last, weights_only=True)["epoch"] + 1 if last.exists() else None


def check(folder: Path) -> None:
    """Let the run end, if it has not, and compare it with the whole one."""
    part = folder / "part"
    last = part / "checkpoints" / "last.ckpt"
    if finished(last) != finished(folder / "whole" / "checkpoints" / "last.ckpt"):
        how = f"resume={last}" if last.exists() else "run_dir=part"
        if start(folder, how).wait():
            raise SystemExit((folder / "log.txt").read_text()[-3000:])
    if not equal(content(folder / "whole"), content(part)):
        raise SystemExit("the weights differ from those of the whole run")
    print("equal to the bit", flush=True)
    part.rename(folder / f"part-{time.monotonic_ns()}")


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as name:
        folder, begin = Path(name), time.monotonic()
        if start(folder, "run_dir=whole").wait():
            raise SystemExit((folder / "log.txt").read_text())
        longest = time.monotonic() - begin
        for _ in range(given.moments):
            if kill(folder, chance, longest) is not None:
                check(folder)  # and begin anew
        check(folder)


if __name__ == "__main__":
    main()
