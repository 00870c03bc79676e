"""The checkpoints that a command names: `checkpoint=`, `init=`, `split.exclude_seen=`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from camreid.checkpoints import io
from camreid.checkpoints.renumbering import renumber
from camreid.cli.errors import trusted
from camreid.cli.options import matching
from camreid.errors import InputError
from camreid.provenance import Dataset, Provenance


def read_checkpoint(path: str | Path, datasets: Sequence[Dataset] = ()) -> io.Checkpoint:
    """A checkpoint in the numbers of the data that it is used with, if they are given.

    Its network is one of camreid's, or the one that this command names.
    """
    try:
        return renumber(io.read_checkpoint(path, trusted), datasets)
    except io.UntrustedNetwork as error:
        typed = f"Type ++model.network._target_={error.target}."
        raise InputError(f"{error.message} {typed}") from error


def read_start(config: DictConfig, datasets: Sequence[Dataset]) -> io.Checkpoint | None:
    """The checkpoint of `init=`, None without one."""
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
    seen: set[int] = set()
    for path in matching("split.exclude_seen", given or []):
        provenance = read_checkpoint(path, datasets).provenance
        if not provenance.seen or not provenance.complete:
            raise InputError(
                f"exclude_seen={path}: not all of its training identities are known, so no test is "
                "known to be unseen. Import it, or its starting weights, with labels.root= and "
                "labels.camera=, or leave it out."
            )
        seen |= provenance.seen
    return tuple(sorted(seen))
