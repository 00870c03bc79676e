"""The cameras of a model that tells them apart, read from the split."""

from dataclasses import replace

from omegaconf import DictConfig, OmegaConf, open_dict

from camreid.data import Split
from camreid.models.cameras import OPTIONS
from camreid.models.config import ModelConfig


def fill_cameras(config: DictConfig, model: ModelConfig, split: Split) -> ModelConfig:
    """The model with `model.network.cameras`, those of the train images where none are given.

    `config` is made to say so. A model without camera options stays as it is.
    """
    asked = any(model.network.get(option) for option in OPTIONS)
    if not asked or model.network.get("cameras") is not None:
        return model
    cameras = sorted({record.camera for record in split.train})
    model = replace(model, network={**model.network, "cameras": cameras})
    with open_dict(config):
        config.model = OmegaConf.create(model.primitives())
    return model
