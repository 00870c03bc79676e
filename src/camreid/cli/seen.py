"""Identities that checkpoints have seen, for a split that tests on others."""

from typing import Any

from omegaconf import ListConfig

from camreid.cli.experts import matching
from camreid.cli.reading import read_checkpoint
from camreid.errors import InputError


def seen_identities(value: Any) -> tuple[int, ...]:
    """The identities that any checkpoint of `split.exclude_seen` has seen, in numeric order.

    Args:
        value: None, the path of a checkpoint or a pattern of several, or a list of them.

    Raises:
        InputError: no path, no checkpoint, or one whose training identities are not all known.
    """
    paths = list(value) if isinstance(value, ListConfig | list | tuple) else [value]
    if value is None:
        return ()
    if not all(isinstance(path, str) and path for path in paths):
        raise InputError(
            f"split.exclude_seen={value}: expected checkpoints, such as "
            "split.exclude_seen=runs/RUN/checkpoints/best.ckpt or, of several, "
            "split.exclude_seen=[A.ckpt,B.ckpt]."
        )
    files = [path for name in paths for path in matching("split.exclude_seen", name)]
    return tuple(sorted(set().union(*map(_identities, files))))


def _identities(path: str) -> frozenset[int]:
    provenance = read_checkpoint(path).provenance
    if not provenance.seen or not provenance.complete:
        raise InputError(
            f"split.exclude_seen={path}: its training identities are not all known. Import it, or "
            "the checkpoint that it was started from, again with its label map (labels.root= "
            "labels.camera=), or leave it out of split.exclude_seen."
        )
    return provenance.seen
