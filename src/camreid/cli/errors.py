"""A user's mistake ends in one paragraph; a traceback is a bug."""

import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from camreid.cli import CONF
from camreid.errors import InputError


def launch(name: str, config_name: str, run: Callable[[DictConfig], None]) -> None:
    """Run a command through Hydra, with what the user got wrong told as SystemExit.

    A run that stops before it has measured or trained anything leaves no folder behind.

    Args:
        name: of the command, for its messages.
        config_name: a file of `conf/`.
        run: what the command does.
    """

    def told_run(config: DictConfig) -> None:
        try:
            run(config)
        except Exception as error:
            message = _paragraph(error)
            if message is None:
                raise
            _discard(Path(HydraConfig.get().runtime.output_dir), name)
            _stop(name, message)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors, for us to tell
    try:
        hydra.main(config_path=CONF, config_name=config_name, version_base="1.3")(told_run)()
    except (HydraException, OmegaConfBaseException) as error:
        _stop(name, _of_hydra(error))
    except ValueError as error:
        if "Config group override must be" not in str(error):
            raise
        _stop(name, "a group takes a name, such as model=small; ~GROUP (~logger) leaves one out.")


@contextmanager
def told(name: str) -> Iterator[None]:
    """What the user got wrong, told as SystemExit, in a command without Hydra.

    Args:
        name: of the command, for its messages.
    """
    try:
        yield
    except Exception as error:
        message = _paragraph(error)
        if message is None:
            raise
        _stop(name, message)


def _stop(name: str, message: str) -> None:
    logging.getLogger("camreid").info(message)
    if is_first():
        print(f"{name}: {message}", file=sys.stderr)
    raise SystemExit(1) from None


def _paragraph(error: BaseException) -> str | None:
    """The message of the first mistake among an error and its causes; None for a bug."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, InputError):
            return _own_words(str(cause))
    import torch  # only now: most mistakes are found before it is needed
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    for cause in causes:
        if isinstance(cause, MisconfigurationException):
            return f"the trainer refuses: {' '.join(str(cause).split())} Change trainer= options."
        if isinstance(cause, torch.OutOfMemoryError):
            return (
                "the device ran out of memory. Take fewer images at a time: lower data.identities "
                "or data.instances (training) or data.eval_batch_size, or type "
                "trainer.precision=bf16-mixed."
            )
    if isinstance(error, OmegaConfBaseException | HydraException):
        return _of_hydra(error)
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


def _of_hydra(error: Exception) -> str:
    """What Hydra has against the arguments, and what to type instead."""
    text = re.sub(r"Error in call to target '([\w.]+)':", r"\1:", str(error))
    said = " ".join(re.split(r"Config search path|full_key|To append", text)[0].split())
    key = re.search(r"Could not override '([\w.]+)'", said)
    if key:
        return f"there is no option {key[1]}.{_hint(key[1])} --cfg job prints those there are."
    if isinstance(error, hydra.errors.OverrideParseException):
        return (
            f"{said}. Values with = , spaces or brackets are typed in quotes of their own: "
            "'init=\"my run/x=1.ckpt\"'."
        )
    return f"{said}. --help lists the choices, --cfg job prints all options."


_CAMERA = ("norm", "embedding", "heads")  # without an import of torch


def _hint(key: str) -> str:
    if key == "split.camera":
        return " A camera is chosen with +split=original."
    if key.startswith("distill."):
        return " Teachers are chosen with +experiment=distill."
    last = key.rpartition(".")[2]
    if key in ("model.network.cameras", *(f"model.network.camera_{o}" for o in _CAMERA)):
        return " MGN has no camera options; choose another model, such as model=bot_r50."
    near = get_close_matches(last, sorted(_options(Path(CONF))), n=2)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def _options(folder: Path) -> set[str]:
    """The names of all options in the configs of a folder."""
    names: set[str] = set()

    def collect(node: object) -> None:
        if isinstance(node, dict):
            names.update(map(str, node))
            for value in node.values():
                collect(value)

    for path in folder.rglob("*.yaml"):
        collect(yaml.safe_load(path.read_text(encoding="utf-8")))
    return names


def is_first() -> bool:
    """Whether this is the one process that speaks and writes."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def _discard(folder: Path, name: str) -> None:
    """Take back what a run has written that never began: no other file, no checked head."""
    begun = (
        "checkpoints",
        "head_check.json",
        "metrics.json",
        "features.safetensors",
        "model.onnx",
        "features",
        "matrix.json",
    )
    if not is_first() or not folder.is_dir() or any((folder / b).exists() for b in begun):
        return
    shutil.rmtree(folder / ".hydra", ignore_errors=True)
    for own in (f"{name}.log", "config.yaml", "split.csv"):
        (folder / own).unlink(missing_ok=True)
    for empty in (folder, folder.parent):
        if not any(empty.iterdir()) and (empty == folder or empty.name == "runs"):
            empty.rmdir()
