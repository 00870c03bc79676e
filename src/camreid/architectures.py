"""What a foreign file says of its architecture, and which of ours is most like it."""

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from camreid.foreign import is_osnet
from camreid.model.network import ReIDNetwork
from camreid.model.weights import fit_trunk

Source = Literal["fastreid", "torchreid", "timm"]


def architecture_options(
    model: str,
    source: Source,
    theirs: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    padding: int,
) -> dict[str, Any]:
    """What a FastReID or torchreid file says of its architecture beyond the config's name.

    Args:
        model: the config's name.
        source: whose file it is.
        theirs: the file's tensors.
        state: the same under camreid's names.
        padding: of the max-pool.

    Returns:
        Options of `camreid.create_model`.
    """
    options: dict[str, Any] = {}
    if source == "torchreid":
        bias = "heads.identity.bias" in state
        options = {"network__neck": "none", "network__bias": bias}
        if not is_osnet(theirs) and not model.startswith("vit"):
            reduced = state.get("projection.0.weight")
            options["network__projection"] = None if reduced is None else len(reduced)
            options["network__last_stride"] = None if reduced is None else 1
    if model.startswith(("vit", "osnet")):
        return options
    options["network__stem_padding"] = padding
    if any(name.startswith("norms.") for name in state):
        options["network__extra_norm"] = True  # MGN of v0.1.1
    if model.startswith("agw") and "backbone.pool.p" in state:
        options["network__pool"] = "gem_learned"  # AGW of v0.1.1
    return options


def closest(state: Mapping[str, Tensor], source: Source) -> str:
    """A sentence on the model of `conf/model/` that has most tensors in common with a file's.

    Args:
        state: tensors under camreid's names; those of a trunk under any.
        source: whose file it is.
    """
    from camreid.cli.compose import build_on_meta, model_names

    best, fitting = "", 0.0
    rest: tuple[str, ...] = ()
    for name in model_names():
        network = build_on_meta(name, bare=source == "torchreid")
        fits = _fitting(state, network, source)
        whole = len(state) + len(network.state_dict()) - len(fits)
        if len(fits) / whole > fitting:
            best, fitting = name, len(fits) / whole
            rest = tuple(k for k in state if k not in fits)[:3]
    if fitting < 0.1:
        return "No model here is like it."
    others = f", without {', '.join(rest)}" if rest else ""
    return f"The closest model is {best} ({fitting:.0%} of all tensors are common{others})."


def _fitting(state: Mapping[str, Tensor], network: ReIDNetwork, source: Source) -> set[str]:
    if source == "timm":
        trunk = getattr(getattr(network, "backbone", None), "trunk", None)
        return set() if trunk is None else set(fit_trunk(state, trunk).names.values())
    own = network.state_dict()
    head = ("heads.", "pixel_norm.")
    return {
        k for k, v in state.items() if k in own and (k.startswith(head) or own[k].shape == v.shape)
    }
