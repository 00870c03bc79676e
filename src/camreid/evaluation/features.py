"""Features with their labels: what is ranked, kept in a file, or brought from another tool."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from camreid.errors import InputError
from camreid.evaluation.ranking import Exclusions
from camreid.files import write_whole

_NEEDED = ("features", "pids", "cameras")
_HELP = (
    "expected query_features (Q, D), query_pids (Q,), query_cameras (Q,), the same of gallery_, "
    "and optionally query_sequences and gallery_sequences"
)


@dataclass(frozen=True)
class Images:
    """The features and labels of some images.

    Attributes:
        features: (N, D), of any float type.
        pids: (N,) int64; -1 is junk, 0 a distractor.
        cameras: (N,) int64, of one base throughout.
        sequences: (N,) int64 recordings, -1 where unknown; None if none is known.
        paths: the files, in order; empty if they are not known.
    """

    features: Tensor
    pids: Tensor
    cameras: Tensor
    sequences: Tensor | None = None
    paths: tuple[str, ...] = ()

    def with_features(self, features: Tensor) -> "Images":
        """The same images with other features."""
        return replace(self, features=features)


@dataclass(frozen=True)
class FeatureTable:
    """The features of a test: query and gallery, and where they come from.

    Attributes:
        query: the queries.
        gallery: what they are ranked against.
        notes: origin, primitives by name, such as the identities that the weights have `seen`.
    """

    query: Images
    gallery: Images
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pids of query and gallery, then their cameras, in the order of `rank`."""
        q, g = self.query, self.gallery
        return q.pids, g.pids, q.cameras, g.cameras

    def normalized(self) -> "FeatureTable":
        """The same with features of unit length."""
        query, gallery = (
            part.with_features(F.normalize(part.features.float()))
            for part in (self.query, self.gallery)
        )
        notes = {**self.notes, "computed": {**self.notes.get("computed", {}), "normalize": True}}
        return FeatureTable(query, gallery, notes)

    def exclusions(self) -> Exclusions:
        """Arguments of `rank` that exclude a query's sequence, or its image where paths are equal.

        >>> images = Images(torch.eye(2), *torch.ones(2, 2).long(), paths=("a", "b"))
        >>> FeatureTable(images, images).exclusions()["gallery_index"]
        tensor([0, 1])
        """
        numbers: dict[tuple[str, int, int], int] = {}

        def index(images: Images) -> Tensor | None:
            keys = zip(images.paths, images.pids.tolist(), images.cameras.tolist(), strict=False)
            found = [numbers.setdefault(key, len(numbers)) for key in keys]
            return torch.tensor(found) if found else None

        return {
            "query_sequences": self.query.sequences,
            "gallery_sequences": self.gallery.sequences,
            "query_index": index(self.query),
            "gallery_index": index(self.gallery),
        }

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whole or not at all; paths and notes are its metadata."""
        tensors: dict[str, Tensor] = {}
        notes = dict(self.notes)
        for part, images in (("query", self.query), ("gallery", self.gallery)):
            columns = {f"{part}_{name}": column for name, column in vars(images).items()}
            notes[f"{part}_paths"] = list(columns.pop(f"{part}_paths"))
            tensors |= {name: x.contiguous() for name, x in columns.items() if x is not None}
        metadata = {key: json.dumps(value) for key, value in notes.items()}
        write_whole(path, lambda draft: save_file(tensors, draft, metadata))

    @classmethod
    def load(cls, path: str | Path) -> "FeatureTable":
        """Read a file of `save`, or one of another tool: safetensors or npz, without pickles.

        Raises:
            InputError: no such file, a broken one, or one without the tensors that are needed.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(
                f"there are no features at {path}: expected features.safetensors of a run, or an "
                f".npz of another tool; {_HELP}."
            )
        try:
            tensors, notes = (_read_npz if path.suffix == ".npz" else _read)(path)
            query, gallery = (_images(part, tensors, notes) for part in ("query", "gallery"))
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise InputError(
                f"{path} ({path.stat().st_size} bytes) cannot be read as features: "
                f"{type(error).__name__}: {error}; {_HELP}."
            ) from error
        return cls(query, gallery, notes)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        notes = {key: _json(value) for key, value in (file.metadata() or {}).items()}
        return {name: file.get_tensor(name) for name in file.keys()}, notes  # noqa: SIM118


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _read_npz(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    notes = {name: arrays.pop(name).tolist() for name in list(arrays) if name.endswith("_paths")}
    return {n: torch.from_numpy(a) for n, a in arrays.items() if a.dtype.kind in "fiu"}, notes


def _images(part: str, tensors: Mapping[str, Tensor], notes: dict[str, Any]) -> Images:
    """The images of one part; its paths are taken out of the notes."""
    missing = [f"{part}_{name}" for name in _NEEDED if f"{part}_{name}" not in tensors]
    if missing:
        raise KeyError(f"no {', '.join(missing)}")
    features = tensors[f"{part}_features"]
    if features.ndim != 2 or not features.is_floating_point():
        raise ValueError(f"{part}_features are {tuple(features.shape)} {features.dtype}")
    names = [name for name in ("pids", "cameras", "sequences") if f"{part}_{name}" in tensors]
    columns = {name: tensors[f"{part}_{name}"] for name in names}
    for name, column in columns.items():
        if column.is_floating_point() or column.shape != (len(features),):
            raise ValueError(
                f"{part}_{name} are {tuple(column.shape)} {column.dtype}: expected "
                f"({len(features)},) whole numbers"
            )
    paths = tuple(map(str, notes.pop(f"{part}_paths", ())))
    if len(paths) not in (0, len(features)):
        raise ValueError(f"{len(paths)} {part}_paths for {len(features)} {part}_features")
    return Images(features, **{name: c.long() for name, c in columns.items()}, paths=paths)
