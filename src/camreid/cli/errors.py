"""A user's mistake ends in one paragraph; a traceback is a bug."""

import logging
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from camreid.cli import CONF
from camreid.cli.folder import ERROR, discard, is_first
from camreid.errors import InputError

trusted: list[str] = []  # the network that the user names, for `cli.reading`
trainers: list[Any] = []  # other processes that they started end when this one fails


def launch(name: str, config_name: str, run: Callable[[DictConfig], None]) -> None:
    """Run a command through Hydra; a user's mistake ends in SystemExit with one paragraph.

    A run that fails before it has any result leaves no file behind.

    Args:
        name: of the command, for its messages.
        config_name: a file of `conf/`.
        run: the command.
    """

    def guarded(config: DictConfig) -> None:
        trainers.clear()
        trusted[:] = [str(OmegaConf.select(config, "model.network._target_"))]
        try:
            run(config)
        except Exception as error:
            _fail(name, error, config)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors
    with told(name):
        try:
            hydra.main(config_path=CONF, config_name=config_name, version_base="1.3")(guarded)()
        except (HydraException, OmegaConfBaseException) as error:
            _stop(name, _of_hydra(error))
        except ValueError as error:
            if "Config group override must be" not in str(error):
                raise
            _stop(name, "a group takes a name, such as model=small; ~GROUP (~logger) removes one.")


@contextmanager
def told(name: str) -> Iterator[None]:
    """Turn a user's mistake into SystemExit with one paragraph; a closed pipe ends quietly.

    Args:
        name: of the command, for its messages.
    """
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed by the caller
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _close_pipe()
    except Exception as error:
        message = _paragraph(error, None)
        if message is None:
            raise
        _stop(name, message)


def _close_pipe() -> NoReturn:
    """Exit as other programs do when the reader of their output is gone."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(128 + signal.SIGPIPE) from None


def _stop(name: str, message: str) -> NoReturn:
    logging.getLogger("camreid").info(message)
    print(f"{name}: {message}", file=sys.stderr)
    raise SystemExit(1) from None


def _fail(name: str, error: Exception, config: DictConfig) -> None:
    """End this process, with the error's paragraph if this process failed first."""
    if any(isinstance(cause, BrokenPipeError) for cause in _causes(error)):
        raise BrokenPipeError from None
    folder = Path(HydraConfig.get().runtime.output_dir)
    message = _paragraph(error, config)
    if _processes() == 1:
        if message is None:
            raise error
        discard(folder)
        _stop(name, message)
    if _is_first_to_fail(folder, error):
        if message is None:
            traceback.print_exception(error)
        else:
            print(f"{name}: {message}", file=sys.stderr)
        discard(folder)
    else:
        time.sleep(1)  # the first to fail may still print
    for trainer in trainers:
        if trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGKILL)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)  # a process that waits for the others in an exit handler would not end


def _processes() -> int:
    known = [int(os.environ.get(name) or 1) for name in ("WORLD_SIZE", "SLURM_NTASKS")]
    # a trainer that has not launched its processes is alone
    launched = [t for t in trainers if getattr(t.strategy.launcher, "procs", None)]
    return int(max([*known, *(trainer.world_size for trainer in launched)]))


def _is_first_to_fail(folder: Path, error: Exception) -> bool:
    """Whether no other process of this training failed before; the others lose their connection."""
    lost = re.search(r"gloo|NCCL|Connection (closed|reset)|[Bb]roken pipe", repr(error))
    deadline = time.monotonic() + (5 if lost and not isinstance(error, InputError) else 0)
    while time.monotonic() < deadline and not (folder / ERROR).exists():
        time.sleep(0.1)
    try:
        (folder / ERROR).open("x", encoding="utf-8").write(f"{error}\n")
    except FileExistsError:
        return False
    except OSError:
        return is_first()
    return True


def _paragraph(error: BaseException, config: DictConfig | None) -> str | None:
    """The message of the first mistake among an error and its causes; None for a bug."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, InputError):
            return _own_words(_with_remedy(cause, config))
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


def _with_remedy(error: InputError, config: DictConfig | None) -> str:
    """The message, and its remedy as overrides to type.

    >>> config = DictConfig({"split": {"seed": -1}, "data": {"root": "x", "workers": 2}, "seed": 0})
    >>> _with_remedy(InputError("no images.", root="datasets"), config)
    'no images. Type data.root=datasets.'
    >>> _with_remedy(InputError("seed=-1: expected 0 or more.", seed=1), config)
    'seed=-1: expected 0 or more. Type split.seed=1.'
    """
    if config is None or not error.remedy:
        return str(error)
    found = dict(_leaves(OmegaConf.to_container(config)))
    typed = []
    for name, value in error.remedy.items():
        keys = [key for key in found if key == name or key.endswith(f".{name}")]
        given = [key for key in keys if f"{name}={found[key]}" in error.message]
        key = min(given or keys or [name], key=lambda key: key.count("."))
        if value is None or isinstance(value, bool):
            value = {None: "null", True: "true", False: "false"}[value]
        value = str(value).replace("'", "").replace(", ", ",") if "[" in str(value) else value
        typed.append(f"{key}={value}")
    return f"{error.message} Type {' '.join(typed)}."


def _leaves(node: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted names and values of a config, groups included."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{prefix}{key}", value
            yield from _leaves(value, f"{prefix}{key}.")


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _own_words(message: str) -> str:
    """The message of an error in a loader process, without its traceback."""
    if "Original Traceback" not in message:
        return message
    return message.rsplit("Error: ", 1)[-1].strip()


def _of_hydra(error: Exception) -> str:
    """Hydra's message on the arguments, and what to type instead."""
    text = re.sub(r"Error in call to target '([\w.]+)':", r"\1:", str(error))
    text = " ".join(re.split(r"Config search path|full_key|To append", text)[0].split())
    key = re.search(r"Could not override '([\w.]+)'", text)
    if key:
        return f"there is no option {key[1]}.{_hint(key[1])} --cfg job prints those there are."
    if isinstance(error, hydra.errors.OverrideParseException):
        return (
            f"{text}. Values with = , spaces or brackets are typed in quotes of their own: "
            "'init=\"my run/x=1.ckpt\"'."
        )
    return f"{text}. --help lists the choices, --cfg job prints all options."


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
