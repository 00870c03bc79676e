"""What a checkpoint was trained on: split, identities, parents."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from camreid.errors import InputError

Primitive = str | int | float | bool | None


@dataclass(frozen=True)
class SplitRecord:
    """How a split was made.

    Attributes:
        kind: `original`, `resplit`, `manifest` or `custom`.
        options: of the strategy, such as `camera`, `seed` and `val_fraction`.
        digest: of the content; None if it is unknown.
    """

    kind: str
    options: Mapping[str, Primitive] = field(default_factory=dict)
    digest: str | None = None

    @property
    def camera(self) -> int | None:
        """The one camera of the train images, 1-based; None for several."""
        camera = self.options.get("camera")
        return camera if isinstance(camera, int) else None

    @property
    def overrides(self) -> str | None:
        """Overrides of the command line that make the split again; None if they cannot.

        >>> SplitRecord("original", {"camera": 3, "seed": 0}).overrides
        '+split=original split.camera=3 split.seed=0'
        """
        if self.kind not in ("original", "resplit") or "excluded" in self.options:
            return None
        options = (f"split.{k}={v}" for k, v in self.options.items() if v is not None)
        return " ".join([f"+split={self.kind}", *options])

    def __str__(self) -> str:
        """The kind and the options that are set.

        >>> str(SplitRecord("original", {"camera": 3, "seed": 0}, "ab12"))
        'original, camera=3, seed=0, digest ab12'
        """
        set_options = [f"{k}={v}" for k, v in self.options.items() if v is not None]
        digest = [f"digest {self.digest}"] if self.digest else []
        return ", ".join([self.kind, *set_options, *digest])

    def to_json(self) -> dict[str, Any]:
        """Nested primitives."""
        return {"kind": self.kind, "options": dict(self.options), "digest": self.digest}

    @classmethod
    def from_json(cls, content: Any) -> "SplitRecord":
        """From what `to_json` gave; InputError for anything else."""
        content = _mapping(content, "split record")
        options = _mapping(content.get("options", {}), "split options")
        if not all(isinstance(v, str | int | float | bool | None) for v in options.values()):
            raise InputError("a split record holds options that are not plain values.")
        kind, digest = content.get("kind"), content.get("digest")
        if not isinstance(kind, str) or not isinstance(digest, str | None):
            raise InputError(f"a split record has kind={kind!r} and digest={digest!r}.")
        return cls(kind, options, digest)


@dataclass(frozen=True)
class Parent:
    """A checkpoint that these weights were made from.

    Attributes:
        path: of its file, as it was typed.
        role: `init`, `teacher` or `average`.
        split: what it was trained on; None if it is unknown.
    """

    path: str
    role: str
    split: SplitRecord | None = None


@dataclass(frozen=True)
class Provenance:
    """What weights were trained on.

    Attributes:
        split: that they were trained on last; None for fresh weights, or if it is unknown.
        identities: training identities, those of the parents included.
        complete: whether `identities` are all; not so after an import without labels.
        val_identities: identities that a checkpoint was chosen on.
        parents: checkpoints that the weights were made from.
        inherited: by head, the identities with a row that came with the starting weights; None
            for a fresh start.

    >>> p = Provenance(identities=frozenset({3}), val_identities=frozenset({5}))
    >>> sorted(p.seen), Provenance.from_json(p.to_json()) == p
    ([3, 5], True)
    """

    split: SplitRecord | None = None
    identities: frozenset[int] = frozenset()
    complete: bool = True
    val_identities: frozenset[int] = frozenset()
    parents: tuple[Parent, ...] = ()
    inherited: Mapping[str, tuple[int, ...]] | None = None

    @property
    def seen(self) -> frozenset[int]:
        """Identities that the weights were trained or chosen on."""
        return self.identities | self.val_identities

    def after(self, role: str, parents: "Mapping[str, Provenance]") -> "Provenance":
        """This record with the identities of parents, whose records are given by path.

        >>> Provenance().after("init", {"a": Provenance(identities=frozenset({3}))}).seen
        frozenset({3})
        """
        theirs = parents.values()
        return replace(
            self,
            identities=self.identities.union(*(p.identities for p in theirs)),
            complete=self.complete and all(p.complete for p in theirs),
            val_identities=self.val_identities.union(*(p.val_identities for p in theirs)),
            parents=(*self.parents, *(Parent(k, role, p.split) for k, p in parents.items())),
        )

    def to_json(self) -> dict[str, Any]:
        """Nested primitives."""
        parents = [
            {"path": p.path, "role": p.role, "split": p.split and p.split.to_json()}
            for p in self.parents
        ]
        heads = self.inherited
        return {
            "split": self.split and self.split.to_json(),
            "identities": sorted(self.identities),
            "complete": self.complete,
            "val_identities": sorted(self.val_identities),
            "parents": parents,
            "inherited": None if heads is None else {k: list(v) for k, v in heads.items()},
        }

    @classmethod
    def from_json(cls, content: Any) -> "Provenance":
        """From what `to_json` gave; InputError for anything else."""
        content = _mapping(content, "provenance record")
        if not isinstance(content.get("complete"), bool):
            raise InputError("a provenance record does not say whether it is complete.")
        heads = content.get("inherited")
        return cls(
            split=_split(content.get("split")),
            identities=frozenset(_pids(content.get("identities"))),
            complete=content["complete"],
            val_identities=frozenset(_pids(content.get("val_identities"))),
            parents=tuple(_parent(p) for p in content.get("parents") or ()),
            inherited=None
            if heads is None
            else {str(k): _pids(v) for k, v in _mapping(heads, "inherited rows").items()},
        )


def _mapping(content: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(content, Mapping):
        raise InputError(f"a {name} is a {type(content).__name__}, not a mapping.")
    return content


def _split(content: Any) -> SplitRecord | None:
    return None if content is None else SplitRecord.from_json(content)


def _pids(content: Any) -> tuple[int, ...]:
    if not isinstance(content, list | tuple) or not all(type(pid) is int for pid in content):
        raise InputError("a provenance record holds identities that are not whole numbers.")
    return tuple(content)


def _parent(content: Any) -> Parent:
    content = _mapping(content, "parent record")
    return Parent(str(content.get("path")), str(content.get("role")), _split(content.get("split")))
