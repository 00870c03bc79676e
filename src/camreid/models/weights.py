"""Weights that other programs wrote, fitted to a trunk."""

import io
import math
import re
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass

from timm.layers.pos_embed import resample_abs_pos_embed
from torch import nn

from camreid.errors import InputError
from camreid.models.human import timm_names
from camreid.models.reading import State, preference, read_states
from camreid.models.resnet import NonLocal

# what is not part of a trunk, by its name there, and why
_NEEDLESS = (
    (
        r"(fc|classifier\w*|heads?|head_\w+|mlp_head|dino_head|ibot_head|projector|projection_head|"
        r"predictor|decoder\w*|neck|proj)(\.|$)",
        "a classifier of other classes",
    ),
    (r"queue(_ptr)?$|mask_token$|center$|.*local_cls_norm\.", "of the pretraining alone"),
    (r".*(relative_position_index|attn_mask|periods|bias_mask)$", "computed, not learnt"),
    (r"semantic_embed_[wb]\.", "part of the merges, or behind the last stage"),
    (r"norm[012]\.", "a norm of an earlier stage"),
    (r"part_token\d$|part\d_pos$|cls_pos$", "a part token of PASS, or within the positions"),
)
_TIMMS = "left out by timm's own conversion"


@dataclass(frozen=True)
class TrunkFit:
    """The tensors of a file that are a trunk's, and what becomes of the others."""

    tensors: State  # by the trunk's names, of its shapes
    names: dict[str, str]  # the file's name by the trunk's
    container: str  # of the file, "" for a bare state dict
    prefix: str  # of the names in it
    needless: dict[str, str]  # why the trunk does not need a tensor, by the file's name
    left_over: tuple[str, ...]  # beside the trunk's, without a place in the trunk
    missing: tuple[str, ...]  # the trunk's that the file lacks
    note: str  # on the positions
    outside: tuple[str, ...] = ()  # names without the prefix
    others: tuple[str, ...] = ()  # places in the file with the same names

    @property
    def place(self) -> str:
        """Where in the file the tensors are, such as `teacher: backbone.*`."""
        return f"{self.container or 'the file'}: {self.prefix}*"

    def describe(self) -> str:
        """Coverage, the place, and what was not used."""
        total = len(self.tensors) + len(self.missing)
        parts = [f"{len(self.tensors)} of {total} tensors of the trunk, from {self.place}"]
        parts += [f"{', '.join(self.others)} has the same names"] if self.others else []
        rest = sorted({re.split(r"\.\d|\.", k)[0] for k in (*self.needless, *self.outside)})
        parts += [self.note] if self.note else []
        return "; ".join([*parts, *([f"not used: {', '.join(rest[:8])}"] if rest else [])])


def fit_trunk(states: Mapping[str, State], trunk: nn.Module) -> TrunkFit:
    """The part of a file that is a trunk: of the state dicts by container, one prefix.

    The file's names may have any prefix, as in LUPerson's and MoCo's files (`encoder_q.`), and lack
    the non-local blocks, which start as an identity. timm converts other programs' names, and
    resizes positions. Of equal places an average such as `teacher` is taken, see `CONTAINERS`.
    """
    size = len(trunk.state_dict())
    places = [(box, prefix) for box, state in states.items() for prefix in _prefixes(state, size)]
    fits = [_fit(states[box], trunk, box, prefix) for box, prefix in places]

    def quality(fit: TrunkFit) -> tuple[int, int, int]:
        own = [k for k in fit.tensors if not k.endswith("num_batches_tracked")]
        return len(own), -len(fit.left_over), -preference(f"{fit.container}.{fit.prefix}")

    best = max(fits, key=quality)
    rivals = [f for f in fits if f is not best and quality(f)[0] == quality(best)[0] > 0]
    rivals = [f for f in rivals if f.container != best.container or not _overlap(f, best)]
    doubles = [f.prefix for f in rivals if f.container == best.container]
    outside = [k for k in states[best.container] if not k.startswith(best.prefix)]
    needless = {k: _reason(re.sub(r"^(module|model)\.", "", k)) for k in outside}
    needless |= {k: "another encoder" for p in doubles for k in outside if k.startswith(p)}
    known = {k: reason for k, reason in needless.items() if reason}
    return TrunkFit(
        **{
            **vars(best),
            "needless": best.needless | known,
            "outside": tuple(k for k in outside if k not in known),
            "others": tuple(dict.fromkeys(f.place for f in rivals)),
        }
    )


def _overlap(one: TrunkFit, other: TrunkFit) -> bool:
    return not set(one.names.values()).isdisjoint(other.names.values())


def _prefixes(state: State, size: int) -> list[str]:
    """What may stand before the names of a trunk of `size` tensors; "" first."""
    counts: Counter[str] = Counter()
    for name in state:
        parts = name.split(".")[:-1]
        counts.update(".".join([*parts[:n], ""]) for n in range(1, min(6, len(parts) + 1)))
    return ["", *(prefix for prefix, count in counts.items() if 4 * count >= size)]


def _fit(state: State, trunk: nn.Module, container: str, prefix: str) -> TrunkFit:
    inner = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    found, names, note = _converted(inner, trunk)
    expected = trunk.state_dict()
    blocks = [n.removesuffix(".1") for n, m in trunk.named_modules() if isinstance(m, NonLocal)]
    moved = [(k, block) for k in expected for block in blocks if k.startswith(f"{block}.0.")]
    behind = {k.replace(f"{block}.0.", f"{block}.", 1): k for k, block in moved}
    tensors: State = {}
    placed: dict[str, str] = {}
    needless, left_over = _unused(inner, set(names.values()))
    for name, value in found.items():
        own, original = behind.get(name, name), names.get(name, name)
        reason = "" if own in expected else _reason(name)
        if own in expected and expected[own].shape == value.shape:
            tensors[own], placed[own] = value, prefix + original
        elif reason:
            needless[original] = reason
        else:
            left_over.append(original)
    fresh = tuple(f"{block}.1." for block in blocks)
    optional = () if any(k.startswith(fresh) for k in tensors) else fresh
    missing = (k for k in expected if k not in tensors and not k.startswith(optional))
    missing = (k for k in missing if not k.endswith("num_batches_tracked"))
    needless = {prefix + k: reason for k, reason in needless.items()}
    rest = (needless, tuple(prefix + k for k in left_over), tuple(missing), note)
    return TrunkFit(tensors, placed, container, prefix, *rest)


def _unused(state: State, used: set[str]) -> tuple[dict[str, str], list[str]]:
    """Why tensors are not needed that the conversion left out, and those that are missed."""
    needless, missed = {}, []
    for name in state.keys() - used:
        if not _reason(name) and name.endswith(".bias") and state[name].any():
            missed.append(name)  # a bias of zeros does nothing
        else:
            needless[name] = _reason(name) or _TIMMS
    return needless, missed


def _reason(name: str) -> str:
    return next((text for pattern, text in _NEEDLESS if re.match(pattern, name)), "")


def _converted(state: State, trunk: nn.Module) -> tuple[State, dict[str, str], str]:
    """Tensors with timm's names, the file's name of each, and a note on the positions."""
    tensors, names = timm_names(state)
    if "class_embedding" in tensors:  # CLIP's; timm knows them as parts of both towers
        tensors = {f"visual.{k}": v for k, v in tensors.items()}
        names = {f"visual.{k}": name for k, name in names.items()}
    note = _resize_positions(tensors, trunk)
    convert = getattr(sys.modules[type(trunk).__module__], "checkpoint_filter_fn", None)
    found = dict(tensors)
    if convert is not None:  # some print, and fail on names that they do not know
        with suppress(Exception), redirect_stdout(io.StringIO()):
            found = dict(convert(dict(tensors), trunk))
    origin = {v.data_ptr(): names.get(k, k) for k, v in tensors.items() if v.numel()}
    own = {
        k: names.get(k, k) if tensors.get(k) is v else origin.get(v.data_ptr(), names.get(k, k))
        for k, v in found.items()
    }
    return found, {k: name for k, name in own.items() if name in state}, note


def _resize_positions(tensors: State, trunk: nn.Module) -> str:
    """Resize positions of maps that are not square, in place; timm takes all maps as square."""
    grid = getattr(getattr(trunk, "patch_embed", None), "grid_size", None)
    own = getattr(trunk, "pos_embed", None)
    name = next((k for k in ("pos_embed", "visual.positional_embedding") if k in tensors), "")
    if grid is None or own is None or own.ndim != 3 or not name or "register_tokens" in tensors:
        return ""
    value, before = tensors[name], own.shape[1] - math.prod(grid)  # tokens before the map
    old = map_of(value.shape[-2] - before)
    if old is None or value.shape[-1] != own.shape[-1] or old == tuple(grid):
        return ""
    if old[0] != old[1]:
        batched = value if value.ndim == 3 else value[None]
        sized = resample_abs_pos_embed(batched, list(grid), list(old), num_prefix_tokens=before)
        tensors[name] = sized if value.ndim == 3 else sized[0]
    return f"positions of {old[0]}x{old[1]} patches resized to {grid[0]}x{grid[1]}"


def map_of(count: int) -> tuple[int, int] | None:
    """Rows and columns of a map with `count` positions: square, else as close to 2:1 as possible.

    >>> map_of(196), map_of(128), map_of(192), map_of(210), map_of(127)
    ((14, 14), (16, 8), (24, 8), (21, 10), None)
    """
    side = math.isqrt(max(count, 0))
    if side * side == count > 0:
        return side, side
    pairs = [(count // width, width) for width in range(1, side + 1) if count % width == 0]
    pairs = [(height, width) for height, width in pairs if height <= 4 * width]
    return min(
        pairs, key=lambda p: (round(abs(math.log2(p[0] / p[1]) - 1), 6), -p[0]), default=None
    )


def load_trunk(trunk: nn.Module, path: str, allow_partial: bool = False) -> str:
    """Load a file of backbone weights; coverage and what was not used, as a line.

    A classifier and a second encoder in it are left out. InputError for less than the whole trunk,
    unless `allow_partial`.
    """
    fit = fit_trunk(read_states(path, "weights"), trunk)
    if (fit.missing or fit.left_over) and not (allow_partial and fit.tensors):
        remedy = {"allow_partial": True} if fit.tensors else {}
        raise InputError(
            f"weights={path} does not fit the backbone: {len(fit.missing)} keys are missing "
            f"({', '.join(fit.missing[:3]) or 'none'}) and {len(fit.left_over)} are left over or "
            f"of another shape ({', '.join(fit.left_over[:3]) or 'none'}); {fit.describe()}. "
            f"Choose the backbone they were made for{advice(fit)}.",
            **remedy,
        )
    trunk.load_state_dict({**trunk.state_dict(), **fit.tensors})
    return f"{path}: {fit.describe()}"


def advice(fit: TrunkFit) -> str:
    """The backbone that left-over names belong to, where they show it."""
    names = " ".join(fit.left_over)
    if any(part in names for part in ("semantic_embed_", ".downsample.", ".w_msa.")):
        return ", such as backbone=solider_swin_tiny, solider_swin_small or solider_swin_base"
    if "patch_embed.conv." in names:
        return ", such as backbone=ics_vit_small or ics_vit_base"
    return ""
