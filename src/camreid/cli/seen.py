"""Whom checkpoints have seen, for a split that tests on others."""

from typing import Any

from omegaconf import ListConfig

from camreid.cli.experts import matching
from camreid.cli.reading import read_checkpoint
from camreid.errors import InputError


def seen_people(value: Any) -> tuple[int, ...]:
    """The people whom any of the checkpoints of `split.exclude_seen` has seen, in numeric order.

    Args:
        value: None, the path of a checkpoint or a pattern of several, or a list of them.

    Raises:
        InputError: no path, no checkpoint, or one that does not say whom it has seen.
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
    return tuple(sorted(set().union(*map(_people, files))))


def _people(path: str) -> set[int]:
    checkpoint = read_checkpoint(path)
    found = {pid for pid in checkpoint.seen if pid > 0}
    if not found or not checkpoint.seen_complete:
        raise InputError(
            f"split.exclude_seen={path} does not say whom its weights have seen, so nobody can be "
            "kept out of the test for it. Import it, or what it was started from, again with its "
            "label map (labels.root= labels.camera=), or leave it out of split.exclude_seen."
        )
    return found
