"""What a foreign file says of its architecture, and which of ours is most like it."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from torch import Tensor

from camreid.checkpoints.foreign.names import fastreid_names, from_fastreid, from_torchreid
from camreid.models.network import ReIDNetwork
from camreid.models.presets import build_on_meta, model_names, read_model
from camreid.models.weights import fit_trunk

Source = Literal["fastreid", "torchreid", "timm"]


def renamed(state: Mapping[str, Tensor], source: Source) -> dict[str, Tensor]:
    """A FastReID or torchreid state dict under camreid's names, in its order."""
    return from_torchreid(state) if source == "torchreid" else from_fastreid(fastreid_names(state))


def architecture_options(
    model: str, source: Source, state: Mapping[str, Tensor], padding: int
) -> dict[str, Any]:
    """What a FastReID or torchreid file says of its architecture beyond the config's name.

    Args:
        model: the config's name.
        source: whose file it is.
        state: its tensors under camreid's names.
        padding: of the max-pool.

    Returns:
        Options of `camreid.create_model`, of those that the model has.
    """
    said: dict[str, Any] = {}
    if source == "torchreid":
        said = {"neck": "none", "bias": "heads.identity.bias" in state}
        if "backbone.trunk.layer4.0.conv1.weight" in state:
            reduced = state.get("projection.0.weight")
            said["projection"] = None if reduced is None else len(reduced)
            said["last_stride"] = None if reduced is None else 1
    if any(".layer1." in name for name in state) or "trunk.0.weight" in state:
        said["stem_padding"] = padding
    if any(name.startswith("norms.") for name in state):
        said["extra_norm"] = True  # MGN of v0.1.1
    if model.startswith("agw") and "backbone.pool.p" in state:
        said["pool"] = "gem_learned"  # AGW of v0.1.1
    has = read_model(model).network
    network = {f"network__{key}": value for key, value in said.items() if key in has}
    return {**network, "interpolation": "bilinear" if source == "torchreid" else "bicubic"}


def closest(theirs: Mapping[str, Tensor], source: Source) -> str:
    """A sentence on the model and source that have most tensors in common with a file's.

    Args:
        theirs: the file's tensors.
        source: whose file it was taken for.
    """
    best: tuple[float, str, Source, tuple[str, ...]] = (0.0, "", source, ())
    for other in (source, *(s for s in get_args(Source) if s != source)):
        state = dict(theirs) if other == "timm" else renamed(theirs, other)
        own = {"torchreid": ("resnet", "osnet")}.get(other, ())
        for name in sorted(model_names(), key=lambda n: not n.startswith(own) if own else False):
            network = build_on_meta(name, bare=other == "torchreid")
            fits = _fitting(state, network, other)
            share = len(fits) / (len(state) + len(network.state_dict()) - len(fits))
            if share > best[0]:
                best = share, name, other, tuple(k for k in state if k not in fits)[:3]
        if best[0] > 0.95:
            break
    share, name, other, rest = best
    if share < 0.1:
        return "No model here is like it."
    others = f", without {', '.join(rest)}" if rest else ""
    return (
        f"The closest is model={name} source={other} ({share:.0%} of all tensors are "
        f"common{others})."
    )


def _fitting(state: Mapping[str, Tensor], network: ReIDNetwork, source: Source) -> set[str]:
    if source == "timm":
        trunk = getattr(getattr(network, "backbone", None), "trunk", None)
        return set() if trunk is None else set(fit_trunk(state, trunk).names.values())
    own = network.state_dict()
    head = ("heads.", "pixel_norm.")
    return {
        k for k, v in state.items() if k in own and (k.startswith(head) or own[k].shape == v.shape)
    }
