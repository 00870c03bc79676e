"""What a run folder says of the training in it: what it was told, and how far it came."""

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Literal

import yaml

EPOCHS = "trainer.max_epochs"
TESTS = ("metrics.json", "test/metrics.json")  # of camreid-train, and of the command typed later
# where and how fast a model is trained, not what becomes of it
_NO_MATTER = {
    "run_dir",
    "resume",
    "test",
    "trainer",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.enable_progress_bar",
    "data.workers",
}


# new, to be continued, to be continued beyond its test, done, trained only, or told something else
Standing = Literal["new", "begun", "more", "done", "untested", "other"]


def options(typed: Iterable[str]) -> dict[str, str]:
    """Those that say what is trained, by name."""
    pairs = (option.lstrip("+").partition("=")[::2] for option in typed)
    return {name: value for name, value in pairs if name not in _NO_MATTER}


def told(run: Path) -> dict[str, str] | None:
    """The options that a run was last started with; None if its folder does not say."""
    try:
        typed = yaml.safe_load((run / ".hydra" / "overrides.yaml").read_text(encoding="utf-8"))
        return options(typed)
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError):
        return None


def difference(then: dict[str, str], now: dict[str, str]) -> str:
    """In what options differ, in words; empty if they do not.

    >>> difference({"seed": "1", "lr": "2"}, {"seed": "3", "lr": "2"})
    'it was told seed=1, and now seed=3'
    """
    names = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
    if not names:
        return ""
    was, is_ = (
        " ".join(f"{name}={of[name]}" if name in of else f"no {name}" for name in names)
        for of in (then, now)
    )
    return f"it was told {was}, and now {is_}"


def is_tested(run: Path) -> bool:
    """Whether a metrics.json is there and whole, and of the whole training.

    Its own comes at the end, and is older than last.ckpt only where that was continued since; a
    test of any moment may have been typed later.
    """
    own, later = (run / name for name in TESTS)
    last = run / "checkpoints" / "last.ckpt"
    if _is_json(own) and not (last.is_file() and last.stat().st_mtime > own.stat().st_mtime):
        return True  # early stopping leaves epochs out
    return (_is_json(own) or _is_json(later)) and _is_whole(last)


def _is_whole(last: Path) -> bool:
    """Whether a training has all its epochs, as far as its checkpoint says."""
    from camreid.errors import InputError

    try:
        behind, asked = epochs_of(last)
    except InputError:
        return True
    return behind >= asked


def _is_json(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        return False


def standing(
    run: Path, typed: Iterable[str], no_matter: Collection[str] = ()
) -> tuple[Standing, str]:
    """How far a training is, as it would be asked for now.

    Args:
        run: its folder.
        typed: the options that it would have.
        no_matter: names of those that may differ.

    Returns:
        It, and what differs if it is `other`.
    """
    last = run / "checkpoints" / "last.ckpt"
    tested = is_tested(run)
    if not tested and not last.is_file():
        return "new", ""
    now = {name: value for name, value in options(typed).items() if name not in no_matter}
    then = told(run)
    then = now if then is None else {k: v for k, v in then.items() if k not in no_matter}
    was, epochs = then.get(EPOCHS), now.get(EPOCHS)
    rest = [{k: v for k, v in of.items() if k != EPOCHS} for of in (then, now)]
    differs = difference(*rest)
    if differs:
        return "other", differs
    if was == epochs and tested:
        return "done", ""
    if epochs is None and was is not None and was.isdecimal():
        return "other", difference(then, now)
    return _by_epochs(last, epochs, tested)


def _by_epochs(last: Path, typed: str | None, tested: bool) -> tuple[Standing, str]:
    """How far a training is that differs in epochs alone, if at all."""
    from camreid.errors import InputError

    if typed is not None and not typed.isdecimal():
        return "begun", ""  # camreid-train will say why
    try:
        behind, asked = epochs_of(last)
    except InputError:
        return "begun", ""  # here, too
    wanted = asked if typed is None else int(typed)
    if wanted < asked:
        return "other", f"it was told to train {asked} epochs, and now {wanted}"
    if wanted > asked:
        return ("more" if tested else "begun"), ""
    return ("done" if tested else "untested" if behind >= wanted else "begun"), ""


def epochs_of(last: Path) -> tuple[int, int]:
    """How many epochs a checkpoint has behind it, and how many its run was to have.

    Raises:
        InputError: it is none, or does not say.
    """
    from camreid.checkpoints.io import read_checkpoint  # torch only where there is one
    from camreid.errors import InputError

    checkpoint = read_checkpoint(last)
    try:
        asked = int(yaml.safe_load(checkpoint.notes["config"])["trainer"]["max_epochs"])
    except (KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{last} does not say how many epochs its run was to have.") from error
    return checkpoint.epochs, asked


def images_trained(last: Path) -> int:
    """Images that a checkpoint was trained on in its own run.

    Raises:
        InputError: it is none, or does not say.
    """
    from camreid.checkpoints.io import read_checkpoint
    from camreid.errors import InputError

    images = read_checkpoint(last).images_trained
    if not images:
        raise InputError(
            f"{last} does not say how many images it was trained on, which is the measure of the "
            f"controls. Remove {last.parents[1]}, and it is trained anew."
        )
    return images
