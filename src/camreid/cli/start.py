"""What a run starts from: the checkpoint of `init=`."""

from dataclasses import replace

from omegaconf import DictConfig

from camreid.checkpoints.io import Checkpoint
from camreid.cli.expert_notes import check_images
from camreid.cli.experts import split_of
from camreid.cli.reading import read_checkpoint
from camreid.errors import InputError


def read_start(config: DictConfig) -> Checkpoint | None:
    """The checkpoint of `init=`, None without one.

    Of people of another dataset (`init_people=other`) it says nothing: their numbers are other
    people's here, so they are nobody whom this run's weights have seen.

    Raises:
        InputError: no checkpoint, or `init_people` does not go with the other options.
    """
    if config.init_people not in ("same", "other"):
        raise InputError(
            f"init_people={config.init_people}: type same, if init= was trained on people of this "
            "dataset, or other, if on those of another one."
        )
    other = config.init_people == "other"
    if other and config.init is None and not config.resume:
        raise InputError("init_people=other says whose people init= knows, and there is no init=.")
    if config.init is None:
        return None
    start = read_checkpoint(config.init)
    if not other:
        return start
    if config.model.unknown != "reinit":
        raise InputError(
            f"init_people=other: the rows of {config.init} are people of another dataset, and with "
            f"model.unknown={config.model.unknown} those of equal numbers would be taken for "
            "people of this one. Type model.unknown=reinit."
        )
    return replace(start, seen=frozenset(), seen_complete=True)


def check_start(config: DictConfig, start: Checkpoint | None, root: str) -> list[str]:
    """Whether `init=` seems to be of another dataset, without being said to be.

    Args:
        config: of the command.
        start: what it starts from, None for nothing.
        root: of the dataset.

    Returns:
        What there is to say.
    """
    if start is None or config.init_people == "other":
        return []
    told = check_images({config.init: split_of(start.notes)}, root)
    return [f"{note} If so, type init_people=other model.unknown=reinit." for note in told]
