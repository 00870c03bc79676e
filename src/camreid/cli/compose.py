"""Models by the name of their config."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from camreid.cli import CONF
from camreid.errors import InputError
from camreid.labels import LabelMap
from camreid.models.config import ModelConfig
from camreid.models.network import ReIDNetwork, build_network
from camreid.training.module import ReIDModule


def create_model(name: str, labels: LabelMap | Sequence[int], **options: object) -> ReIDModule:
    """A model of `conf/model/` with fresh weights, nothing fetched.

    Args:
        name: a file of `conf/model/`, such as `bot_r50`.
        labels: the people of its heads, in row order.
        options: what differs from the file, nested ones with dots replaced by `__`:
            `network__backbone="resnet18"`.

    Raises:
        InputError: no such model or option.

    >>> module = create_model("small", labels=[2, 7, 10])
    >>> module.model.heads["identity"].weight.shape[0]
    3
    """
    return ReIDModule(read_model(name, **options).without_weights(), labels)


def model_names() -> list[str]:
    """The files of `conf/model/`."""
    return sorted(p.stem for p in Path(CONF, "model").glob("*.yaml"))


def build_on_meta(name: str, bare: bool = False) -> ReIDNetwork:
    """The network of a file of `conf/model/` without memory for its tensors, for their names.

    Args:
        name: of the file.
        bare: without a neck and with biases, as torchreid's models are.
    """
    config = read_model(name)
    network = dict(config.network)
    if bare and "neck" in network:
        network.update(neck="none", bias=True)
    with torch.device("meta"):
        return build_network(
            ModelConfig.without_weights(replace(config, network=network)).network,
            LabelMap((1, 2)),
            config.image_size,
            config.pixels,
        )


def read_model(name: str, **options: object) -> ModelConfig:
    """A file of `conf/model/`; `name` and `options` are as for `create_model`."""
    if name not in model_names():
        raise InputError(f"there is no model {name!r}; choose one of {', '.join(model_names())}.")
    config = _compose(f"model/{name}").model
    for key, value in options.items():
        dotted = key.replace("__", ".")
        if OmegaConf.select(config, dotted, default=_NONE) is _NONE:
            raise InputError(f"model {name!r} has no option {dotted}; see conf/model/{name}.yaml.")
        OmegaConf.update(config, dotted, value)
    return ModelConfig.read(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]


def _compose(name: str) -> DictConfig:
    """A config of ours, within whatever Hydra program this may be called from."""
    surrounding = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(CONF, version_base="1.3"):
            return compose(name)
    finally:
        GlobalHydra.instance().hydra = surrounding


_NONE = object()
