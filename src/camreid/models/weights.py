"""Weights that other programs wrote, fitted to a trunk."""

import io
import math
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, replace

from timm.layers.pos_embed import resample_abs_pos_embed
from torch import nn

from camreid.errors import InputError
from camreid.models.human import TRUNKS, timm_names
from camreid.models.reading import State, fits, preference, read_states, require_finite
from camreid.progress import note

_HEAD = "a head, such as a classifier of other classes"
_NEEDLESS = (  # what is not part of a trunk, by its name there, and why
    (r"(fc|classifier\w*|heads?|head_\w+|(mlp|dino|ibot|projection)_head)(\.|$)", _HEAD),
    (r"(projector|predictor|prototypes\w*|decoder\w*|neck|proj)(\.|$)", _HEAD),
    (r"queue(_ptr)?$|mask(ed)?_(token|embed)$|center$|local_cls_norm\.", "of the pretraining"),
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
    missing: tuple[str, ...]  # the trunk's that the file lacks
    needless: dict[str, str]  # why the trunk does not need a tensor, by the file's name
    left_over: tuple[str, ...]  # of the file, with the prefix but without a place in the trunk
    note: str  # on patches and positions
    outside: tuple[str, ...] = ()  # of the file, without the prefix
    others: tuple[str, ...] = ()  # places in the file with the same names

    @property
    def place(self) -> str:
        """Where in the file the tensors are, such as `teacher: backbone.*`."""
        return f"{self.container or 'the file'}: {self.prefix}*"

    def describe(self) -> str:
        """Coverage, the place, and what was not used."""
        total = len(self.tensors) + len(self.missing)
        rest = sorted({re.split(r"\.\d|\.", k)[0] for k in (*self.needless, *self.outside)})
        used = f"{len(self.tensors)} of {total} tensors of the trunk, from {self.place}"
        same = f"{', '.join(self.others)} has the same names" * bool(self.others)
        unused = f"not used: {', '.join(rest[:8])}" * bool(rest)
        return "; ".join(filter(None, (used, same, self.note, unused)))


def fit_trunk(states: Mapping[str, State], trunk: nn.Module) -> TrunkFit:
    """The part of a file that is a trunk: of the state dicts by container, one prefix.

    Names may have any prefix, such as MoCo's `encoder_q.`, and lack the non-local blocks, which
    start as an identity. Of equal places an average, such as `teacher`, is taken.
    """
    size = len(trunk.state_dict())
    places = [(box, prefix) for box, state in states.items() for prefix in _prefixes(state, size)]
    fits = [_fit(states[box], trunk, box, prefix) for box, prefix in places]

    def quality(fit: TrunkFit) -> tuple[int, ...]:
        own = sum(not k.endswith("num_batches_tracked") for k in fit.tensors)
        place = preference(f"{fit.container}.{fit.prefix}")
        rest = (-len(fit.left_over), -place, -len(fit.needless))
        return (own, *rest) if own else (0, -len(fit.prefix))

    best = max(fits, key=quality)
    taken = set(best.names.values())
    box = best.container
    apart = [f for f in fits if f.container != box or taken.isdisjoint(f.names.values())]
    equal = [f for f in apart if quality(f)[0] == quality(best)[0] > 0]
    double = tuple(f.prefix for f in equal if f.container == box)
    outside = [k for k in states[box] if not k.startswith(best.prefix)]
    why = {k: _reason(re.sub(r"^(module|model)\.", "", k)) for k in outside}
    why |= {k: "another encoder" for k in outside if double and k.startswith(double)}
    needless = best.needless | {k: reason for k, reason in why.items() if reason}
    unused = tuple(k for k, reason in why.items() if not reason)
    others = tuple(dict.fromkeys(f.place for f in equal))
    return replace(best, needless=needless, outside=unused, others=others)


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
    tensors, placed = State(), dict[str, str]()
    given = set(names.values())
    needed = [k for k, v in inner.items() if k.endswith(".qkv.bias") and v.any()]
    why = {k: _reason(k) or _TIMMS * (k not in needed) for k in inner if k not in given}
    for name, value in found.items():
        original = names.get(name, name)
        if name in expected and fits(value, expected[name]):
            tensors[name], placed[name] = value, prefix + original
        else:
            why[original] = "" if name in expected else _reason(name)
    optional = () if any(k.startswith("NL_") for k in tensors) else ("NL_",)
    missing = (k for k in expected if k not in tensors and not k.startswith(optional))
    lacks = tuple(k for k in missing if not k.endswith("num_batches_tracked"))
    needless = {prefix + k: reason for k, reason in why.items() if reason}
    left_over = tuple(prefix + k for k, reason in why.items() if not reason)
    return TrunkFit(tensors, placed, container, prefix, lacks, needless, left_over, note)


def _reason(name: str) -> str:
    return next((text for pattern, text in _NEEDLESS if re.match(pattern, name)), "")


def _converted(state: State, trunk: nn.Module) -> tuple[State, dict[str, str], str]:
    """Tensors with timm's names, the file's name of each, and a note on the positions."""
    tensors, names = timm_names(state)
    if tensors.keys() & {"class_embedding", "conv3.weight"}:  # CLIP's; timm knows both towers
        tensors = {f"visual.{k}": v for k, v in tensors.items()}
        names = {f"visual.{k}": name for k, name in names.items()}
    note = _resize_positions(tensors, trunk)
    convert = getattr(sys.modules[type(trunk).__module__], "checkpoint_filter_fn", None)
    found = dict(tensors)
    if convert is not None:  # some print, and fail on names that they do not know
        with suppress(Exception), redirect_stdout(io.StringIO()):
            found = dict(convert(dict(tensors), trunk))
    names_of_patches = "patch_embed.proj.weight", "visual.conv1.weight"
    patches = [x[k].shape[2:] for x in (tensors, found) for k in names_of_patches if k in x]
    if patches and () != patches[0] != patches[-1]:  # timm resizes these, too
        (a, b), (c, d) = patches[0], patches[-1]
        note = f"patches of {a}x{b} pixels resized to {c}x{d} {note}".strip()
    origin = {v.data_ptr(): names.get(k, k) for k, v in tensors.items() if v.numel()}
    moved = {k: origin.get(v.data_ptr()) for k, v in found.items() if tensors.get(k) is not v}
    own = {k: moved.get(k) or names.get(k, k) for k in found}
    return found, {k: name for k, name in own.items() if name in state}, note


def _resize_positions(tensors: State, trunk: nn.Module) -> str:
    """Resize position embeddings in place: timm's own conversion takes all maps as square."""
    grid = getattr(getattr(trunk, "patch_embed", None), "grid_size", None)
    own = getattr(trunk, "pos_embed", None)
    name = next((k for k in ("pos_embed", "visual.positional_embedding") if k in tensors), "")
    if grid is None or own is None or own.ndim != 3 or not name or "register_tokens" in tensors:
        return ""
    value, before = tensors[name], own.shape[1] - math.prod(grid)  # tokens before the map
    old = map_of(value.shape[-2] - before)
    if old is None or value.shape[-1] != own.shape[-1] or old == tuple(grid):
        return ""
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
    widths = [w for w in range(1, side + 1) if count % w == 0 and count <= 4 * w**2]
    apart = {(count // w, w): (round(abs(math.log2(count / w**2) - 1), 6), w) for w in widths}
    return min(apart, key=apart.__getitem__, default=None)


def load_trunk(trunk: nn.Module, path: str, allow_partial: bool = False) -> None:
    """Load a file and print what is used; `allow_partial` permits less than the whole trunk."""
    fit = fit_trunk(read_states(path, "weights"), trunk)
    if (fit.missing or fit.left_over) and not (allow_partial and fit.tensors):
        remedy = {"allow_partial": True} if fit.tensors else {}
        unfit = unmatched(fit.missing, fit.left_over)
        backbones = f"the backbone of this file, of timm or {', '.join(TRUNKS)}"
        raise InputError(f"weights={path}: {unfit}; {fit.describe()}. Set {backbones}.", **remedy)
    require_finite(f"weights={path}", fit.tensors)
    trunk.load_state_dict({**trunk.state_dict(), **fit.tensors})
    note(f"Trunk  {path}: {fit.describe()}")


def unmatched(missing: Sequence[str], left_over: Sequence[str]) -> str:
    """The number of tensors that do not fit, with examples."""
    lacks, more = (", ".join(names[:3])[:300] or "none" for names in (missing, left_over))
    counts = f"{len(missing)} of the model's tensors are missing ({lacks})"
    return f"{counts} and {len(left_over)} of the file's are left over ({more})"
