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

_PARTS = ("query", "gallery")
_NEEDED = ("features", "pids", "cameras")
_HELP = (
    "expected query_features (Q, D), query_pids (Q,), query_cameras (Q,), the same of gallery_, "
    "and maybe query_sequences and gallery_sequences"
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

    def normalized(self) -> "FeatureTable":
        """The same with features of unit length."""
        query, gallery = (
            part.with_features(F.normalize(part.features.float()))
            for part in (self.query, self.gallery)
        )
        notes = {**self.notes, "computed": {**self.notes.get("computed", {}), "normalize": True}}
        return FeatureTable(query, gallery, notes)

    def exclusions(self) -> dict[str, Tensor | None]:
        """Arguments of `rank` that exclude a query's sequence, or its image where paths are equal.

        >>> images = Images(torch.eye(2), *torch.ones(2, 2).long(), paths=("a", "b"))
        >>> FeatureTable(images, images).exclusions()["gallery_index"]
        tensor([0, 1])
        """
        numbers: dict[tuple[str, int, int], int] = {}
        found: dict[str, Tensor | None] = {}
        for part in _PARTS:
            images: Images = getattr(self, part)
            keys = zip(images.paths, images.pids.tolist(), images.cameras.tolist(), strict=False)
            index = [numbers.setdefault(key, len(numbers)) for key in keys]
            found[f"{part}_sequences"] = images.sequences
            found[f"{part}_index"] = torch.tensor(index) if index else None
        return found

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whole or not at all; paths and notes are its metadata."""
        tensors = {
            f"{part}_{name}": value.contiguous()
            for part in _PARTS
            for name in (*_NEEDED, "sequences")
            if (value := getattr(getattr(self, part), name)) is not None
        }
        notes = {f"{part}_paths": list(getattr(self, part).paths) for part in _PARTS}
        metadata = {key: json.dumps(value) for key, value in {**notes, **self.notes}.items()}
        path = Path(path)
        draft = path.with_name(f"{path.name}.part")
        save_file(tensors, draft, metadata)
        draft.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> "FeatureTable":
        """Read a file of `save`, or one of another tool: safetensors or npz, without pickles.

        Raises:
            InputError: no such file, a broken one, or one without the tensors that are needed.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(
                f"no features at {path}; type features=runs/RUN/features.safetensors, or an .npz "
                f"of your own: {_HELP}."
            )
        try:
            tensors, notes = _read_npz(path) if path.suffix == ".npz" else _read(path)
        except (SafetensorError, OSError, ValueError, KeyError, EOFError) as error:
            raise InputError(
                f"{path} ({path.stat().st_size} bytes) can't be read as features "
                f"({type(error).__name__}): it is no safetensors or npz file of numbers, or it is "
                f"cut short; {_HELP}."
            ) from error
        missing = [f"{p}_{n}" for p in _PARTS for n in _NEEDED if f"{p}_{n}" not in tensors]
        if missing:
            raise InputError(f"{path} lacks {', '.join(missing)}; {_HELP}.")
        parts = {part: _images(path, part, tensors, notes) for part in _PARTS}
        return cls(parts["query"], parts["gallery"], notes)


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


def _images(path: Path, part: str, tensors: Mapping[str, Tensor], notes: dict[str, Any]) -> Images:
    features = tensors[f"{part}_features"]
    named = notes.pop(f"{part}_paths", [])
    if not isinstance(named, list):
        raise InputError(f"{part}_paths of {path} are {type(named).__name__}: expected a list.")
    paths = tuple(map(str, named))
    if features.ndim != 2 or not features.is_floating_point():
        raise InputError(
            f"{part}_features of {path} are {tuple(features.shape)} {features.dtype}: expected "
            "(N, D) floating-point numbers."
        )
    names = ("pids", "cameras", "sequences")
    columns = {n: tensors[f"{part}_{n}"] for n in names if f"{part}_{n}" in tensors}
    for name, column in columns.items():
        if column.is_floating_point() or column.shape != (len(features),):
            raise InputError(
                f"{part}_{name} of {path} are {tuple(column.shape)} {column.dtype}: expected "
                f"({len(features)},) whole numbers, one for each of the {part}_features."
            )
    if paths and len(paths) != len(features):
        raise InputError(
            f"{path} names {len(paths)} {part}_paths for {len(features)} {part}_features; expected "
            "as many, or none."
        )
    return Images(features, **{n: c.long() for n, c in columns.items()}, paths=paths)
