"""What a checkpoint was trained on: split, identities, parents."""

import platform
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from operator import index
from typing import Any

from camreid import __version__
from camreid.errors import InputError

Primitive = str | int | float | bool | None
_WORDS = {  # of the options of a split
    "train_fraction": "* of the identities",
    "val_fraction": "* held out for validation",
    "excluded": "* seen identities not tested",
}
_USUAL = {"val_fraction": 0, "by": "identity", "pool": "all"}  # without words
PIDS, CAMERAS = 10**9, 10**6  # numbers of each dataset, where there are several
_NOT_A_RECORD = (TypeError, KeyError, AttributeError, ValueError)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on, by name."""
    packages = ("torch", "torchvision", "pytorch-lightning", "timm")
    own = {"python": platform.python_version(), "camreid": __version__}
    return {**own, **{name: version(name) for name in packages}}


@dataclass(frozen=True)
class SplitRecord:
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

    def to_json(self) -> dict[str, Any]:
        """Nested primitives, for `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Any) -> "SplitRecord":
        """InputError for what `to_json` did not write."""
        try:
            kind, options, digest = content["kind"], content["options"].items(), content["digest"]
        except _NOT_A_RECORD as error:
            raise InputError(f"the record of a split is broken ({error!r}).") from error
        plain = {str(k): v if isinstance(v, Primitive) else str(v) for k, v in options}
        return cls(str(kind), plain, None if digest is None else str(digest))


@dataclass(frozen=True)
class Dataset:
    """A dataset, and the numbers of its named identities and cameras."""

    name: str  # `data.name`
    identities: Mapping[str, int] = field(default_factory=dict)  # empty: they are numbers
    cameras: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_json(cls, content: Any) -> "Dataset":
        """From what `asdict` gave; an error such as KeyError for other content."""
        names, cameras = (
            {str(name): index(number) for name, number in content[key].items()}
            for key in ("identities", "cameras")
        )
        return cls(str(content["name"]), names, cameras)


@dataclass(frozen=True)
class Parent:
    """A checkpoint that these weights were made from."""

    path: str  # as it was typed
    role: str  # init, teacher or average
    split: SplitRecord | None = None  # that it was trained on, if known


@dataclass(frozen=True)
class Provenance:
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

    def to_json(self) -> dict[str, Any]:
        """Nested primitives."""
        sets = {name: sorted(getattr(self, name)) for name in ("identities", "val_identities")}
        return {**asdict(self), **sets}

    @classmethod
    def from_json(cls, content: Any) -> "Provenance":
        """InputError for what `to_json` did not write."""
        try:
            parents = [(p["path"], p["role"], p["split"]) for p in content["parents"]]
            heads = content["inherited"]
            return cls(
                _split(content["split"]),
                frozenset(_pids(content["identities"])),
                content["complete"] is True,
                frozenset(_pids(content["val_identities"])),
                tuple(Parent(str(path), str(role), _split(split)) for path, role, split in parents),
                None if heads is None else {str(k): _pids(v) for k, v in heads.items()},
                tuple(map(Dataset.from_json, content.get("datasets", ()))),
            )
        except _NOT_A_RECORD as error:
            raise InputError(f"the record of identities is broken ({error!r}).") from error


def _split(content: Any) -> SplitRecord | None:
    return None if content is None else SplitRecord.from_json(content)


def _pids(content: Iterable[Any]) -> tuple[int, ...]:
    pids = tuple(map(index, content))
    if any(abs(pid) >= 2**63 for pid in pids):
        raise ValueError("pids beyond 64 bits")
    return pids
