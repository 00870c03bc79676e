"""What a run starts from: the checkpoint of `init=`."""

from dataclasses import replace

from omegaconf import DictConfig

from camreid.checkpoints.io import Checkpoint
from camreid.cli.reading import read_checkpoint
from camreid.errors import InputError
from camreid.provenance import Provenance


def read_start(config: DictConfig) -> Checkpoint | None:
    """The checkpoint of `init=`, None without one.

    Identities of another dataset (`init_dataset=other`) leave its provenance: equal pids of two
    datasets are different identities.

    Raises:
        InputError: no checkpoint, or `init_dataset` does not go with the other options.
    """
    if config.init_dataset not in ("same", "other"):
        raise InputError(
            f"init_dataset={config.init_dataset}: type same if init= was trained on this dataset, "
            "or other if on another one."
        )
    other = config.init_dataset == "other"
    if other and config.init is None and not config.resume:
        raise InputError("init_dataset=other describes init=, and there is no init=.")
    if config.init is None:
        return None
    start = read_checkpoint(config.init)
    if not other:
        return start
    if config.model.unknown != "reinit":
        raise InputError(
            f"init_dataset=other: the rows of {config.init} are identities of another dataset, and "
            f"model.unknown={config.model.unknown} would train them as the identities of equal "
            "pids here. Type model.unknown=reinit."
        )
    return replace(start, provenance=Provenance(split=start.provenance.split))
