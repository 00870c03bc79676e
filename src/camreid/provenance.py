"""What a checkpoint was trained on: split, identities, parents."""

import math
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from datetime import datetime
from importlib.metadata import version
from operator import index
from pathlib import Path
from types import UnionType
from typing import Any, Self, get_args, get_origin, get_type_hints

from camreid import __version__
from camreid.errors import InputError

Primitive = str | int | float | bool | None
_WORDS = {  # of the options of a split
    "train_fraction": "* of the identities",
    "val_fraction": "* held out for validation",
    "excluded": "* seen identities not tested",
}
BROKEN = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_USUAL = {"val_fraction": 0, "by": "identity", "pool": "all"}  # without words
PIDS, CAMERAS = 10**9, 10**6  # numbers of each dataset, where there are several


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on, by name."""
    own = {"python": platform.python_version(), "camreid": __version__}
    return own | {p: version(p) for p in ("torch", "torchvision", "pytorch-lightning", "timm")}


def source() -> dict[str, str | None]:
    """The command of this process, and the commit of camreid if it runs from its repository."""
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    here = Path(__file__)
    git = ("git", "-C", str(here.parent), "rev-parse", "HEAD", f"HEAD:./{here.name}")
    try:
        found = subprocess.run(git, capture_output=True, text=True)
    except FileNotFoundError:
        return {"command": command, "commit": None}
    return {"command": command, "commit": None if found.returncode else found.stdout.split()[0]}


def origin() -> dict[str, Any]:
    """For a file of numbers: command, commit, date, versions."""
    date = datetime.now().astimezone().isoformat(" ", "minutes")
    return {**source(), "date": date, "versions": versions()}


class Record:
    """A dataclass of text, numbers and other records that checkpoints and run folders keep."""

    def to_json(self) -> dict[str, Any]:
        """Nested primitives, for `from_json`."""
        return dict(plain(asdict(self)))  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """InputError for what `to_json` did not write."""
        try:
            read: Self = _read(cls, content)
        except BROKEN as error:
            raise InputError(f"the record {cls.__name__} is broken ({error!r}).") from error
        return read


def plain(value: Any) -> Any:
    """Nested dicts and lists, with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple | frozenset):
        return [plain(part) for part in (sorted(value) if isinstance(value, frozenset) else value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read(kind: Any, value: Any) -> Any:
    """What `plain` gave as a `kind`: the type of a record or of its fields."""
    inner, origin = get_args(kind), get_origin(kind)
    if kind == Primitive:
        return value if isinstance(value, Primitive) else str(value)
    if isinstance(kind, UnionType):
        return None if value is None else _read(inner[0], value)
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{name: _read(hints[name], part) for name, part in value.items()})
    if kind is int:
        if abs(number := index(value)) >= 2**63:
            raise ValueError("a number beyond 64 bits")
        return number
    if kind in (str, bool, float):
        return math.nan if kind is float and value is None else kind(value)
    if origin in (dict, Mapping):
        return {str(name): _read(inner[1], part) for name, part in value.items()}
    return origin(_read(inner[0], part) for part in value) if origin else value


@dataclass(frozen=True)
class SplitRecord(Record):
    """How a split was made."""

    kind: str  # original, resplit, manifest or custom
    options: Mapping[str, Primitive] = field(default_factory=dict)  # of the strategy
    digest: str | None = None  # of the content, if known

    @property
    def camera(self) -> int | None:
        """The one camera of the train images, 1-based; None for several."""
        camera = self.options.get("camera")
        return camera if isinstance(camera, int) else None

    @property
    def overrides(self) -> str | None:
        """Overrides that make the split again; None if they cannot."""
        if self.kind not in ("original", "resplit") or "excluded" in self.options:
            return None
        options = (f"split.{k}={v}" for k, v in self.options.items() if v is not None)
        return shlex.join([f"+split={self.kind}", *options])

    @property
    def brief(self) -> str:
        """Kind and camera in words."""
        kind = {"resplit": "re-split", "original": "original split"}.get(self.kind, self.kind)
        return kind if self.camera is None else f"{kind}, camera {self.camera}"

    def __str__(self) -> str:
        parts = [self.brief]
        for key, value in self.options.items():
            if value is not None and key != "camera" and _USUAL.get(key) != value:
                text = f"{100 * value:g} %" if isinstance(value, float) else str(value)
                words = _WORDS.get(key, f"{key} *").replace("*", text)
                if self.options.get("by") == "image":
                    words = words.replace("identities", "images of each identity")
                parts.append(words.replace("50 % of", "half of"))
        return ", ".join([*parts, *([f"digest {self.digest}"] if self.digest else [])])


@dataclass(frozen=True)
class Dataset(Record):
    """A dataset, and the numbers of its named identities and cameras."""

    name: str  # `data.name`
    identities: Mapping[str, int] = field(default_factory=dict)  # empty: they are numbers
    cameras: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Parent:
    """A checkpoint that these weights were made from."""

    path: str  # as it was typed
    role: str  # init, teacher or average
    split: SplitRecord | None = None  # that it was trained on, if known


@dataclass(frozen=True)
class Provenance(Record):
    """What weights were trained on.

    >>> p = Provenance(identities=frozenset({3}), val_identities=frozenset({5}))
    >>> sorted(p.seen), Provenance.from_json(p.to_json()) == p
    ([3, 5], True)
    """

    split: SplitRecord | None = None  # the last one, if known
    identities: frozenset[int] = frozenset()  # trained on, also by the parents
    complete: bool = True  # whether that is all of them; False after an import without labels
    val_identities: frozenset[int] = frozenset()  # that a checkpoint was chosen on
    parents: tuple[Parent, ...] = ()
    inherited: Mapping[str, tuple[int, ...]] | None = None  # by head, rows of the starting weights
    datasets: tuple[Dataset, ...] = ()  # that the identities are of; empty if unknown

    @property
    def seen(self) -> frozenset[int]:
        """Identities that the weights were trained or chosen on."""
        return self.identities | self.val_identities

    @property
    def camera(self) -> int | None:
        """The one camera of the last training, 1-based; None for several, or if it is unknown."""
        return self.split.camera if self.split else None

    def after(self, role: str, parents: "Mapping[str, Provenance]") -> "Provenance":
        """This record with that of the parents, given by path."""
        records = parents.values()
        return replace(
            self,
            identities=self.identities.union(*(p.identities for p in records)),
            complete=self.complete and all(p.complete for p in records),
            val_identities=self.val_identities.union(*(p.val_identities for p in records)),
            parents=(*self.parents, *(Parent(k, role, p.split) for k, p in parents.items())),
            datasets=max((self.datasets, *(p.datasets for p in records)), key=len),
        )
