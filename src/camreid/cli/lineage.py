"""Which images weights were trained on, from what their runs and those before them have kept."""

from pathlib import Path

from omegaconf import DictConfig

from camreid.checkpoints.io import Checkpoint
from camreid.cli.reading import read_checkpoint
from camreid.data import Split
from camreid.errors import InputError


def image_leak(split: Split, checkpoint: str | None) -> dict[str, int] | None:
    """How many images of a test were trained on, by folder and file name.

    Args:
        split: of the test.
        checkpoint: the tested weights.

    Returns:
        `query`, `query_trained`, `gallery` and `gallery_trained`; None if it is not known.
    """
    trained = None if checkpoint is None else trained_images(checkpoint)
    if trained is None:
        return None
    parts = {"query": split.query, "gallery": split.gallery}
    counts = {part: len(records) for part, records in parts.items()}
    for part, records in parts.items():
        counts[f"{part}_trained"] = sum(record.name in trained for record in records)
    return counts


def trained_images(checkpoint: str | Path) -> frozenset[str] | None:
    """The train images of a checkpoint's run, of those it started from and of its teachers' runs.

    Read from the `split.csv` of each run folder, if its digest is the one in the checkpoint.

    Args:
        checkpoint: a camreid checkpoint.

    Returns:
        Folder and file names; None if a run folder of theirs is gone or was never one, or if one is
        its own ancestor.
    """
    return _trained(Path(checkpoint).resolve(), {}, ())


def _trained(
    path: Path, known: dict[Path, frozenset[str]], descendants: tuple[Path, ...]
) -> frozenset[str] | None:
    """Those of a checkpoint and its ancestors; `known` are those that were looked up already."""
    if path in descendants:
        return None
    if path not in known:
        own, parents = _train_images(path)
        if own is None:
            return None
        for parent in parents:
            names = _trained(Path(parent).resolve(), known, (*descendants, path))
            if names is None:
                return None
            own |= names
        known[path] = own
    return known[path]


def _train_images(path: Path) -> tuple[frozenset[str] | None, tuple[str, ...]]:
    """The train images of the run of a checkpoint, what it started from and who taught it."""
    manifest = path.parent.parent / "split.csv"
    if not path.is_file() or path.parent.name != "checkpoints" or not manifest.is_file():
        return None, ()
    try:
        notes = read_checkpoint(path).notes
        split = Split.load(manifest, present=False)
    except InputError:
        return None, ()
    if notes.get("split", {}).get("digest") != split.digest or "parents" not in notes:
        return None, ()
    return frozenset(record.name for record in split.train), tuple(notes["parents"])


def parents(config: DictConfig, resumed: Checkpoint | None) -> dict[str, list[str]]:
    """For a run's checkpoints: the weights that it started from and that taught it.

    Args:
        config: of the run.
        resumed: what is continued, whose parents its own are; a checkpoint that does not say them
            leaves them unknown.
    """
    if resumed is not None:
        return {key: value for key, value in resumed.notes.items() if key == "parents"}
    started = [] if config.init is None or config.init_people == "other" else [config.init]
    teachers = [] if config.distill is None else config.distill.teachers
    return {"parents": [str(Path(path).resolve()) for path in (*started, *teachers)]}
