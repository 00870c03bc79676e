"""Features with their labels: what is ranked, kept in a file, or brought from another tool."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from camreid.errors import InputError
from camreid.files import read_plain, write_whole

_HELP = "expected safetensors or npz of features (N, D), pids, cameras and optionally sequences"
_HELP += " (N,), with query_ and gallery_ before each name"


@dataclass(frozen=True)
class Images:
    """The features of some images, (N, D) on any device, and their labels, (N,) int64 each."""

    features: Tensor  # of any float type
    pids: Tensor  # -1 is junk, 0 a distractor
    cameras: Tensor  # of one base throughout
    sequences: Tensor | None = None  # recordings, -1 where unknown
    paths: tuple[str, ...] = ()  # the files, in order; empty if they are not known
    index: Tensor | None = None  # numbers by which a query image is found in the gallery

    def __post_init__(self) -> None:
        shapes = {name: tuple(x.shape) for name, x in self.tensors.items()}
        columns = [shape for name, shape in shapes.items() if name != "features"]
        if set(columns) != {shapes["features"][:1]} or len(self.paths) not in (0, len(self.pids)):
            found = f"{shapes} and {len(self.paths)} paths"
            raise InputError(f"{found}: expected (N, D) features, N of each label.")

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Features and labels by name, without those that are not known."""
        return {name: x for name, x in vars(self).items() if isinstance(x, Tensor)}

    def with_features(self, features: Tensor) -> "Images":
        """The same images with other features."""
        return replace(self, features=features)


@dataclass(frozen=True)
class FeatureTable:
    """Query and gallery of a test, with notes on their origin, such as the `seen` identities."""

    query: Images
    gallery: Images
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tensors(self) -> dict[str, Any]:
        """`query_features`, `gallery_pids` and so on: the arguments of `rank`."""
        parts = {"query": self.query, "gallery": self.gallery}
        return {f"{part}_{n}": x for part in parts for n, x in parts[part].tensors.items()}

    def normalized(self) -> "FeatureTable":
        """The same with features of unit length."""
        parts = (self.query, self.gallery)
        query, gallery = (p.with_features(F.normalize(p.features.float())) for p in parts)
        notes = {**self.notes, "computed": {**self.notes.get("computed", {}), "normalize": True}}
        return FeatureTable(query, gallery, notes)

    def numbered(self) -> "FeatureTable":
        """The same with one `index` for equal paths, where paths are known.

        >>> images = Images(torch.eye(2), *torch.ones(2, 2).long(), paths=("a", "b"))
        >>> FeatureTable(images, images).numbered().gallery.index
        tensor([0, 1])
        """
        numbers: dict[tuple[str, int, int], int] = {}

        def indexed(images: Images) -> Images:
            keys = zip(images.paths, images.pids.tolist(), images.cameras.tolist(), strict=False)
            found = [numbers.setdefault(key, len(numbers)) for key in keys]
            return replace(images, index=torch.tensor(found)) if found else images

        return replace(self, query=indexed(self.query), gallery=indexed(self.gallery))

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whole or not at all; paths and notes are its metadata."""
        tensors = {name: x.contiguous() for name, x in self.tensors.items()}
        paths = {"query_paths": self.query.paths, "gallery_paths": self.gallery.paths}
        metadata = {key: json.dumps(value) for key, value in {**self.notes, **paths}.items()}
        metadata["digest"] = digest_of(tensors, metadata)
        write_whole(path, lambda draft: save_file(tensors, draft, metadata))

    @classmethod
    def load(cls, path: str | Path) -> "FeatureTable":
        """Read safetensors or npz, without pickles; InputError where that is not possible."""
        path = Path(path)
        if not path.is_file():
            raise InputError(f"there are no features at {path}: {_HELP}.")
        try:
            tensors, notes = (read_npz if path.suffix == ".npz" else read_tensors)(path)
            query, gallery = (_images(part, tensors, notes) for part in ("query", "gallery"))
            if query.features.shape[1] != gallery.features.shape[1]:
                raise ValueError("query_features and gallery_features differ in D")
            for n, kind in {"seen": list, "computed": dict, "split": dict, "weights": str}.items():
                if not isinstance(value := notes.get(n), kind | None):
                    raise TypeError(f"its note {n} is {value!r:.50}")
            torch.tensor([*map(index, notes.get("seen") or ())], dtype=torch.int64)
        except Exception as error:  # of safetensors, NumPy or zipfile, without a common class
            found = f"{path} ({path.stat().st_size} bytes) cannot be read as features"
            raise InputError(f"{found}: {type(error).__name__}: {error}; {_HELP}.") from error
        return cls(query, gallery, notes)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and notes of a safetensors file; ValueError for a wrong checksum."""
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata() or {})
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    digest = metadata.pop("digest", None)  # another tool writes none
    if digest is not None and digest != digest_of(tensors, metadata):
        raise ValueError("its checksum is wrong, so a part of it is damaged; copy it again")
    notes: dict[str, Any] = dict(metadata)
    for key, text in metadata.items():
        with suppress(json.JSONDecodeError):  # text of another tool
            notes[key] = read_plain(text)
    return tensors, notes


def doubts(**parts: Tensor) -> list[str]:
    """Signs of broken features (N, D): over 1 % zero vectors, or no spread in the last part."""
    zero = {name: (part == 0).all(1).double().mean().item() for name, part in parts.items()}
    found = [f"{s:.1%} of the {k} features are zero." for k, s in zero.items() if s > 0.01]
    name, last = parts.popitem()
    unit = F.normalize(last[:: len(last) // 10_000 + 1].float())
    if len(unit) > 9 and (unit - unit.mean(0)).norm(dim=1).mean() < 1e-3:
        found.append(f"All {name} images have nearly one vector: the model has collapsed.")
    return found


def digest_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Hash of names and values, the same in every file of them."""
    found = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, x in sorted(tensors.items()):
        found.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
        found.update(x.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def read_npz(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays of an npz file, numbers as tensors, and lists of paths; ValueError for a bomb."""
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        if sum(one.file_size for one in file.zip.infolist()) > 99 * path.stat().st_size + 10**8:
            raise ValueError("it grows by more than 99 times in memory")
        arrays = {name: file[name] for name in file.files}
    notes = {name: arrays.pop(name).tolist() for name in list(arrays) if name.endswith("_paths")}
    numbers = {n: torch.from_numpy(a) for n, a in arrays.items() if a.dtype.kind in "fiu"}
    return {**arrays, **numbers}, notes


def _images(part: str, tensors: Mapping[str, Any], notes: dict[str, Any]) -> Images:
    """The images of one part; its paths are taken out of the notes."""
    columns = {name: tensors[f"{part}_{name}"] for name in ("features", "pids", "cameras")}
    if f"{part}_sequences" in tensors:
        columns["sequences"] = tensors[f"{part}_sequences"]
    for name, column in columns.items():
        if not isinstance(column, Tensor) or column.is_floating_point() != (name == "features"):
            raise TypeError(f"{part}_{name} are {column.dtype}")
        if not len(column) or (name != "features" and column.min() < -1):
            raise ValueError(f"{part}_{name} are empty or below -1")
    features = columns.pop("features")
    if features.ndim != 2 or not features.isfinite().all():
        shape = tuple(features.shape)
        raise ValueError(f"{part}_features {shape} are not (N, D), or hold NaN or infinite values")
    labels = {name: column.long() for name, column in columns.items()}
    return Images(features, **labels, paths=tuple(map(str, notes.pop(f"{part}_paths", ()))))
