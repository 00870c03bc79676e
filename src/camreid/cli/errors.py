"""A user's mistake ends in one paragraph; a traceback is a bug."""

import errno
import json
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from camreid import __version__
from camreid.cli import stopped
from camreid.cli.folder import ERROR, created, discard, locked, release, sweeps
from camreid.cli.streams import close_streams, open_streams
from camreid.errors import ImageError, InputError
from camreid.files import CONF, write_text
from camreid.progress import printable

trusted: list[str] = []  # the network class that the user typed, for `cli.checkpoints`
_OF_HYDRA = (HydraException, OmegaConfBaseException)
_CHOOSE = {"split": "+split=original or +split=resplit", "distill": "+experiment=distill"}
_SPACE = "Free some space there or in /dev/shm, or type another run_dir=; resume= uses last.ckpt."
_FILES = "Too many files or processes. Type data.workers=0, or raise ulimit -n and ulimit -u."
_MEMORY = "Type data.workers=0, or lower data.identities, data.instances or data.eval_batch_size."
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _SPACE),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE, errno.EAGAIN), _FILES),
    **dict.fromkeys((errno.EACCES, errno.EROFS), "Change its rights, or name another place."),
    errno.ENOMEM: _MEMORY,
    errno.ENOENT: "It was there before: was the run folder or the dataset moved?",
}
_SIGNS = {  # in the messages of libraries
    r"too many open files|ancdata|start new thread|temporarily unavailable": _FILES,
    r"bus error|shared memory|</torch_": "/dev/shm is too small: enlarge it, or data.workers=0.",
    r"surrogates not": "The name of a file is not UTF-8. camreid-data check names it; rename it.",
    r"DataLoader worker": f"A loader process was killed, often for lack of memory. {_MEMORY}",
    r"MemoryError|allocate|out of memory|failed to map": _MEMORY,
    r"connection (closed|reset) by|gloo|nccl": "Another process of this training has ended.",
}


def launch(name: str, config_name: str, run: Callable[[DictConfig], Any]) -> None:
    """Run a command; if it fails before it has a result, it leaves no file behind."""

    def guarded(config: DictConfig) -> Any:
        trusted[:] = [str(OmegaConf.select(config, "model.network._target_"))]
        try:
            return run(config)
        except BaseException as error:
            if stopped or not isinstance(error, Exception):  # C code makes any error of a signal
                discard(Path(HydraConfig.get().runtime.output_dir))
                raise (KeyboardInterrupt if stopped else error) from None
            message, job = paragraph(error, config), HydraConfig.get()
            if message is None:
                traceback.print_exception(error)
                message = f"unexpected {type(error).__name__}, see its traceback above."
            elif job.mode != RunMode.MULTIRUN:
                discard(Path(job.runtime.output_dir))
            if job.mode != RunMode.MULTIRUN:
                stop(name, message)
            write_text(Path(job.runtime.output_dir, ERROR), f"{message}\n")
            with suppress(SystemExit):  # the other jobs go on
                stop(f"{name}, job {job.job.num}", message)
            raise InputError(f"job {job.job.num} failed: {message}") from None

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors
    logging.raiseExceptions = False  # a log on a full disk ends without a traceback
    with one_paragraph(name):
        try:
            main = hydra.main(config_path=str(CONF), config_name=config_name, version_base="1.3")
            main(guarded)()
        except (*_OF_HYDRA, ValueError) as error:
            stop(name, str(error) if isinstance(error, InputError) else _of_hydra(error))
        except OSError as error:
            for folder in [*locked, *created[:1]]:  # Hydra has forgotten it
                discard(folder)
            found = f"{error.strerror}{f': {error.filename}'[-300:] * bool(error.filename)}"
            stop(name, f"run_dir= cannot be written: {found}. Type another run_dir=.")
        finally:
            release()
            _show_sweep()


def _show_sweep() -> None:
    if sweeps and any((folder := sweeps.pop()).rglob(".hydra/overrides.yaml")):
        from camreid.cli.sweep import sweep_table  # torch only now: --help is quick

        sweep_table(folder).show()


@contextmanager
def one_paragraph(name: str) -> Iterator[None]:
    """Turn a user's mistake, a signal or lost output into SystemExit."""
    open_streams()
    try:
        try:
            if "--version" in sys.argv:
                print(f"camreid {__version__}")
                raise SystemExit(0)
            yield
        finally:
            close_streams(name)
    except BaseException as error:
        # Lightning makes an exit of an interrupt
        if stopped or KeyboardInterrupt in map(type, (error, error.__context__)):
            with suppress(OSError):  # a terminal may be gone
                print(f"{name}: interrupted.", file=sys.stderr)
            raise SystemExit(128 + (stopped or [signal.SIGINT])[0]) from None
        if isinstance(error, (InputError, *_OF_HYDRA)) or "group override" in str(error):
            stop(name, str(error) if isinstance(error, InputError) else _of_hydra(error))
        if message := isinstance(error, Exception) and fault(error):
            stop(name, message)
        raise


def stop(name: str, message: str) -> NoReturn:
    """Print a message as one paragraph, keep it in the log, and exit."""
    message = printable(" ".join(message.splitlines()))[:5000]
    logging.getLogger("camreid").info(message)
    print(f"{name}: {message}", file=sys.stderr)
    if sys.unraisablehook is sys.__unraisablehook__:  # pytest has its own
        sys.unraisablehook = bool  # of loaders that never started
    raise SystemExit(1) from None


def paragraph(error: BaseException | None, config: DictConfig) -> str | None:
    """The message of the first mistake among an error and its causes; None for a bug."""
    first = error
    while error is not None:
        if isinstance(error, KeyboardInterrupt):  # what failed had been interrupted
            raise KeyboardInterrupt from None
        if isinstance(error, InputError):
            return _with_remedy(error, config)
        if isinstance(error, ModuleNotFoundError):
            return f"a package is missing: {error}. Install it, or leave out what needs it."
        if type(error).__name__ == "MisconfigurationException":  # of Lightning
            reason = " ".join(str(error).split())
            return f"the trainer refuses its options: {reason} Without a GPU, type trainer=cpu."
        if message := fault(error):
            return message
        error = error.__cause__ or error.__context__
    return _of_hydra(first) if isinstance(first, _OF_HYDRA) else None


def fault(error: BaseException) -> str | None:
    """The sentence of an error of the system or of its limits; None for another error."""
    text = f"{type(error).__name__}: {error}".strip()
    text = text.splitlines()[-1] if "Original Traceback" in text else text  # of a loader process
    text = " ".join(text.split())[:300]
    if isinstance(error, OSError) and error.errno is not None:
        found = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return f"{found}. {_REMEDIES.get(error.errno, 'Name another place.')}"
    signs = [words for sign, words in _SIGNS.items() if re.search(sign, text, re.I)]
    return f"{signs[0]} ({text})" if signs else None


def _with_remedy(error: InputError, config: DictConfig) -> str:
    """The message, and its remedy as overrides: of equal keys, the one that the message names."""
    text = error.message
    if "Original Traceback" in text:  # of a loader process
        text = text.rsplit("Error: ", 1)[-1].strip()
    if isinstance(error, ImageError) and "data" in config and HydraConfig.initialized():
        text += " With data.on_bad_image=skip, a command leaves out such images and counts them."
    found = dict(leaves(OmegaConf.to_container(config)))
    typed = []
    for argument, value in error.remedy.items():
        name = argument.replace("__", ".")
        keys = [key for key in found if f".{key}".endswith(f".{name}")]
        given = [key for key in keys if f"{name}={found[key]}" in text]
        key = min(given or keys or [name], key=lambda key: key.count("."))
        typed.append(override(key, value))
    return f"{text} Type {' '.join(typed)}." if typed else text


def override(name: str, value: object) -> str:
    """An option and its value as they are typed."""
    shown = value if isinstance(value, str | Path) else json.dumps(value, separators=(",", ":"))
    return f"{name}={shown}"


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted names and values of a config, groups included."""
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}", value
        yield from leaves(value, f"{prefix}{key}.")


def hint(name: str, names: Iterable[str]) -> str:
    """Options of the command with the same or nearly the same name, those of the group first."""
    group, _, key = name.rpartition(".")
    keys = {n: n.rpartition(".")[2] for n in names if not re.match(r"hydra\b|(.*\.)?_", n)}
    beside = [n for n in keys if n.rpartition(".")[0] == group] or [n for n in keys if "." not in n]
    near = [key] if key in keys.values() else get_close_matches(key, {*keys.values()})
    found = [name for name in beside if keys[name] in near]
    found = found or [name for name in keys if keys[name] in near]
    return f"Did you mean {' or '.join(found)}?" if found else f"There are {', '.join(beside)}."


def _of_hydra(error: BaseException) -> str:
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        choices = ", ".join(n for n in error.options if not n.startswith("_"))
        return f"there is no {group}={name}. Choose {group}= from {choices}."
    cause: Any = error.__cause__
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.full_key:
        name, group = cause.full_key, cause.full_key.partition(".")[0]
        if cause.parent_node:
            remedy = hint(name, dict(leaves(OmegaConf.to_container(cause.parent_node._get_root()))))
        else:
            remedy = f"Type {_CHOOSE.get(group, f'+{group}=NAME')} with it."
        return f"there is no option {name}. {remedy}"
    text = str(error).partition("Config search path")[0].partition("full_key")[0]
    if "group override" in text:  # Hydra names no option
        text = f"{' '.join(a for a in sys.argv if re.search('=(null)?$', a))}: {text}"
    remedy = "--help lists the choices, --cfg job prints all options."
    if isinstance(error, OverrideParseException):
        remedy = "Quote values with = , spaces or brackets twice: 'init=\"my run/x=1.ckpt\"'."
    return f"{' '.join(text.split()).rstrip('.')}. {remedy}"
