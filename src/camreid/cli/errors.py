"""A user's mistake ends in one paragraph; a traceback is a bug."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig


def one_paragraph(run: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """`run`, with what the user got wrong told as SystemExit.

    A run that stops before it has measured or trained anything leaves no folder behind.
    """

    def told(config: DictConfig) -> None:
        # Imported on a mistake only, and after Hydra's own work: they pull in torch.
        try:
            run(config)
        except Exception as error:
            message = _paragraph(error)
            if message is None:
                raise
            _discard(Path(HydraConfig.get().runtime.output_dir))
            if is_first():
                print(f"\n{HydraConfig.get().job.name}: {message}", file=sys.stderr)
            raise SystemExit(1) from None

    return told


def _paragraph(error: BaseException) -> str | None:
    """The message of the first mistake among an error and its causes; None for a bug."""
    import torch
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    from camreid.errors import InputError

    for cause in _causes(error):
        if isinstance(cause, InputError):
            return _own_words(str(cause))
        if isinstance(cause, MisconfigurationException):
            return f"the trainer refuses: {' '.join(str(cause).split())} Change trainer= options."
        if isinstance(cause, torch.OutOfMemoryError):
            return (
                "the device ran out of memory. Take fewer images at a time: lower data.identities "
                "or data.instances (training) or data.eval_batch_size, or type "
                "trainer.precision=bf16-mixed."
            )
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _own_words(message: str) -> str:
    """What was said in a loader process, without the traceback that it travelled in."""
    if "Original Traceback" not in message:
        return message
    return message.rsplit("Error: ", 1)[-1].strip()


def is_first() -> bool:
    """Whether this is the one process that speaks and writes."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def _discard(folder: Path) -> None:
    """Remove a run folder in which there is nothing but Hydra's own files and an empty log."""
    if not is_first() or not folder.is_dir():
        return
    left = [p for p in folder.iterdir() if p.name != ".hydra" and p.suffix != ".log"]
    if not left:
        shutil.rmtree(folder)
        for parent in folder.parents[:1]:
            if parent.name == "runs" and not any(parent.iterdir()):
                parent.rmdir()
