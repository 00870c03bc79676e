"""The checkpoints that a command names: `checkpoint=`, `init=`, `split.exclude_seen=`."""

import glob
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig

from camreid.checkpoints import io
from camreid.checkpoints.renumbering import renumber
from camreid.cli.errors import trusted
from camreid.errors import InputError
from camreid.provenance import Dataset, Provenance


def read_checkpoint(path: str | Path, datasets: Sequence[Dataset] = ()) -> io.Checkpoint:
    """A checkpoint in the numbers of the data that it is used with, if they are given.

    Its network is one of camreid's, or the one that this command names.
    """
    try:
        return renumber(io.read_checkpoint(path, trusted), datasets)
    except io.UntrustedNetwork as error:
        raise InputError(f"{error} Type ++model.network._target_={error.target}.") from error


def matching(option: str, name: str) -> list[str]:
    """The files that a path or pattern names, in order; a path need not exist."""
    if Path(name).exists() or not glob.has_magic(name):
        return [name]
    found = sorted(glob.glob(name))
    if not found:
        raise InputError(
            f"no file matches {option}='{name}'; type {option}=[A.ckpt,B.ckpt] or a pattern."
        )
    return found


def read_start(config: DictConfig, datasets: Sequence[Dataset]) -> io.Checkpoint | None:
    """The checkpoint of `init=`, None without one."""
    if config.init_dataset not in ("same", "other"):
        raise InputError(f"init_dataset={config.init_dataset}: expected same or other.")
    if config.init_dataset == "same":
        return read_checkpoint(config.init, datasets) if config.init else None
    if not config.init:
        raise InputError("init_dataset=other needs init=, but there is no init=.")
    start = read_checkpoint(config.init)
    if config.model.unknown != "reinit":
        raise InputError(
            f"the rows of {config.init} are identities of another dataset, but "
            f"unknown={config.model.unknown} trains them with this dataset.",
            unknown="reinit",
        )
    # equal pids of two datasets are different identities
    return replace(start, provenance=Provenance(split=start.provenance.split))


def seen_identities(given: Any, datasets: Sequence[Dataset]) -> tuple[int, ...]:
    """The training identities of the checkpoints of `split.exclude_seen`, in numeric order."""
    names = given if isinstance(given, ListConfig | list) else [given]
    seen: set[int] = set()
    for path in [p for n in names if n is not None for p in matching("split.exclude_seen", str(n))]:
        provenance = read_checkpoint(path, datasets).provenance
        if not provenance.seen or not provenance.complete:
            raise InputError(
                f"exclude_seen={path}: not all of its training identities are known. Import it, or "
                "its starting weights, with labels.root= and labels.camera=, or leave it out."
            )
        seen |= provenance.seen
    return tuple(sorted(seen))
