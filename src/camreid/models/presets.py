"""The models of `conf/model/`, read without Hydra."""

import re
from collections.abc import Collection, Mapping
from dataclasses import fields
from functools import reduce
from typing import Any

import yaml

from camreid.errors import InputError
from camreid.files import CONF
from camreid.models.backbone import RESNET, is_resnet
from camreid.models.baseline import BaselineOptions
from camreid.models.config import ModelConfig
from camreid.models.mgn import MGNOptions
from camreid.models.network import NETWORKS, ReIDNetwork
from camreid.parts import applying


def model_names() -> list[str]:
    """The files of `conf/model/`, except bases such as `_training`."""
    return sorted(p.stem for p in (CONF / "model").glob("[!_]*.yaml"))


def read_model(name: str, **options: object) -> ModelConfig:
    """The config of a file of `conf/model/` with other `options`; `__` stands for a dot.

    >>> read_model("small", network__pool="avg").network["pool"]
    'avg'
    """
    if name not in model_names():
        raise InputError(f"there is no model {name!r}; choose one of {', '.join(model_names())}.")
    config = _compose(name)
    for key, value in options.items():
        *parents, last = key.split("__")
        node: Any = config
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last not in node:
            raise InputError(f"model {name!r} has no option {'.'.join([*parents, last])}.")
        node[last] = value
    return settle(config, {key.replace("__", ".") for key in options})


def settle(config: Mapping[str, Any], typed: Collection[str]) -> ModelConfig:
    """The config of a file with the options that a user `typed`, such as `network.backbone`.

    Other options that the network or backbone does not have are left out. The model is named after
    a typed network, or a typed backbone, which replaces `r50` in a name such as `bot_r50`.
    """
    chosen = {key.removeprefix("network.") for key in typed}
    given = {"_target_": NETWORKS[0], **(config.get("network") or {})}
    usual = {field.name for kind in (BaselineOptions, MGNOptions) for field in fields(kind)}
    network = applying(given, usual - chosen, ReIDNetwork)
    name, backbone = str(config.get("name")), str(network.get("backbone"))
    if any(network.get(k, v) != v for k, v in RESNET.items()) and not is_resnet(backbone):
        network |= {k: v for k, v in RESNET.items() if k in network and k not in chosen}
        name = name.removesuffix("_ibn")
    if "name" not in typed and "_target_" in chosen:
        name = network["_target_"].rpartition(".")[2]
    elif "name" not in typed and "backbone" in chosen:
        short = backbone.partition(".")[0]
        name = re.sub(r"(?<=_)r\d+", short, name) if re.search(r"_r\d+", name) else short
    return ModelConfig.read({**config, "network": network, "name": name})


def _compose(name: str) -> dict[str, Any]:
    """A file merged over those of its `defaults:` list."""
    own = yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text(encoding="utf-8"))
    parents = own.pop("defaults", ["_self_"])
    return reduce(_merge, (own if parent == "_self_" else _compose(parent) for parent in parents))


def _merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    nested = [k for k in first.keys() & second if isinstance(first[k], dict)]
    both = {k: _merge(first[k], second[k]) for k in nested if isinstance(second[k], dict)}
    return {**first, **second, **both}
