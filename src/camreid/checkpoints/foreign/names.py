"""FastReID's and torchreid's state dicts under camreid's names: facts of their files, no code."""

import re
from collections.abc import Mapping

from torch import Tensor

from camreid.models.mgn import PARTS
from camreid.models.resnet import plain_blocks

State = dict[str, Tensor]


def fastreid_names(state: Mapping[str, Tensor]) -> State:
    """A FastReID state dict of any release under the names of its last (v1.3).

    v1.0.0 had a `classifier` in each head, v0.1.1 called the neck `bnneck`; both saved the mean
    and standard deviation of the pixels.
    """
    renamed: State = {}
    for name, value in state.items():
        new = re.sub(r"(heads|_head)\.classifier\.weight$", r"\1.weight", name)
        new = re.sub(r"^heads\.bnneck\.", "heads.bottleneck.0.", new)
        new = re.sub(r"_head\.bnneck\.", "_head.bottleneck.1.", new)
        new = re.sub(r"_pool\.0\.p$", "_head.pool_layer.p", new)
        new = re.sub(r"_pool\.1\.weight$", "_head.bottleneck.0.weight", new)
        if new in state and new != name:
            continue  # hybrid zoo files hold both: the newer name wins
        renamed[new] = value
    return renamed


def needless(state: Mapping[str, Tensor], model: str) -> dict[str, str]:
    """Why some of a FastReID file's tensors are not needed, by name.

    Args:
        state: the file's tensors.
        model: the config that it is a model of.
    """
    why = {}
    for name, value in state.items():
        (new,) = fastreid_names({name: value})
        if new != name and new in state:
            why[name] = f"the file has it as {new} too"
        if name.endswith("classifier.t"):
            why[name] = "the running threshold of an ArcSoftmax that later releases do not have"
    if "heads.pool_layer.p" in state and model.startswith("bot"):
        why["heads.pool_layer.p"] = "the mean that BoT pools by has no exponent"
    return why


def from_fastreid(state: Mapping[str, Tensor]) -> State:
    """A FastReID state dict (v1.3 names) as that of a `Baseline` or an `MGN`.

    Rows keep their order; whose they are the file does not say.
    """
    pixels = {"pixel_mean": "pixel_norm.mean", "pixel_std": "pixel_norm.std"}
    state = {pixels.get(name, name): value for name, value in state.items()}
    if any(name.startswith("b1_head.") for name in state):
        return {_mgn_name(name): value for name, value in state.items()}
    non_local = any(name.startswith("backbone.NL_") for name in state)
    depth = {stage: _depth(state, stage) for stage in (2, 3)}
    return {
        _baseline_name(name, depth if non_local else {}): value for name, value in state.items()
    }


def _depth(state: Mapping[str, Tensor], stage: int) -> int:
    found = (re.match(rf"backbone\.layer{stage}\.(\d+)\.", name) for name in state)
    return 1 + max((int(match[1]) for match in found if match), default=0)


def _baseline_name(name: str, depth: Mapping[int, int]) -> str:
    for old, new in (
        ("heads.weight", "heads.identity.weight"),
        ("heads.pool_layer.p", "backbone.pool.p"),
        ("heads.bottleneck.0.", "neck."),
    ):
        if name.startswith(old):
            return new + name.removeprefix(old)
    non_local = re.match(r"backbone\.NL_(\d)\.(\d+)\.(.*)", name)
    if non_local and depth:
        stage, number = int(non_local[1]), int(non_local[2])
        block = plain_blocks(depth[stage], stage) + number
        return f"backbone.trunk.layer{stage}.{block}.1.{non_local[3]}"
    inside = re.match(r"backbone\.layer([23])\.(\d+)\.(.*)", name)
    if inside and depth:
        stage, block = int(inside[1]), int(inside[2])
        if block >= plain_blocks(depth[stage], stage):
            return f"backbone.trunk.layer{stage}.{block}.0.{inside[3]}"
    return re.sub(r"^backbone\.", "backbone.trunk.", name)


def _mgn_name(name: str) -> str:
    extra = re.match(r"(b\d+)_pool\.2\.(.*)", name)
    if extra:  # v0.1.1 alone has a norm between reduction and neck
        return f"norms.{extra[1]}.{extra[2]}"
    head = re.match(rf"({'|'.join(PARTS)})_head\.(.*)", name)
    if not head:
        return re.sub(r"^(b[123])\.", r"branches.\1.", re.sub(r"^backbone\.", "trunk.", name))
    part, rest = head[1], head[2]
    for old, new in (
        ("pool_layer.p", f"pools.{part}.p"),
        ("bottleneck.0.", f"reductions.{part}."),
        ("bottleneck.1.", f"necks.{part}."),
    ):
        if rest.startswith(old):
            return new + rest.removeprefix(old)
    return f"heads.{part}.{rest}"


def is_osnet(state: Mapping[str, Tensor]) -> bool:
    """Whether a torchreid state dict is that of an OSNet."""
    return any(name.removeprefix("module.") == "conv1.conv.weight" for name in state)


def from_torchreid(state: Mapping[str, Tensor]) -> State:
    """A torchreid state dict (OSNet or ResNet) as that of a `Baseline` without a neck."""
    osnet = is_osnet(state)
    renamed: State = {}
    for name, value in state.items():
        bare = name.removeprefix("module.")
        if bare.startswith("classifier."):
            new = bare.replace("classifier.", "heads.identity.")
        elif bare.startswith("fc.") and not osnet:
            new = bare.replace("fc.", "projection.")
        else:
            new = f"backbone.trunk.{bare}"
        renamed[new] = value
    return renamed
