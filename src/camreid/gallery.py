"""Exact search in features of images, and the file that keeps them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from camreid.errors import InputError, require_number, require_whole
from camreid.files import write_whole

_BLOCK = 2**25  # scores at a time


@dataclass(frozen=True)
class Matches:
    """The closest images of each query, closest first."""

    scores: Tensor  # (Q, k) float32 cosines; -inf where fewer than k images reach the threshold
    index: Tensor  # (Q, k) int64 places in the gallery; -1 likewise
    names: tuple[tuple[str, ...], ...]  # of the images that reach it, by query


@dataclass
class Gallery:
    """Images with features of one model, compared by their cosine.

    Attributes:
        source: the model of the features, such as `FeatureExtractor.source`; other features are
            refused, because features of different models are not comparable.
        features: (N, D) float32, unit length; a zero feature stays zero.
        names: of the images, such as their paths.
        notes: more on their origin.

    >>> gallery = Gallery()
    >>> gallery.add(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), ["a", "b"])
    >>> gallery.search(torch.tensor([[1.0, 2.0]]), k=1).names
    (('b',),)
    """

    source: str | None = None
    features: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    names: tuple[str, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def add(self, features: Tensor, names: Sequence[str], source: str | None = None) -> None:
        """Append images; InputError for other widths, counts, sources, or values not finite."""
        features = self._checked(features, source)
        if len(features) != len(names):
            raise InputError(f"{len(features)} features and {len(names)} names: give one each.")
        if self.source is None and not len(self):
            self.source = source
        own = self.features if len(self) else features[:0]
        self.features, self.names = torch.cat([own, features]), (*self.names, *map(str, names))
        vars(self).pop("_search", None)

    def search(
        self,
        features: Tensor,
        k: int = 10,
        threshold: float | None = None,
        source: str | None = None,
    ) -> Matches:
        """The `k` closest images of (Q, D) queries, those with a cosine of `threshold` or more.

        Exact, in blocks; by faiss where it is installed. InputError for queries that do not fit.
        """
        require_whole("k", k, least=1)
        if threshold is not None:
            require_number("threshold", threshold, -1, 1)
        if not len(self):
            raise InputError("the gallery is empty; add features to it first.")
        scores, index = self._search(self._checked(features, source), min(k, len(self)))
        low = scores < (-torch.inf if threshold is None else threshold)
        scores, index = scores.masked_fill(low, -torch.inf), index.masked_fill(low, -1)
        rows = (row[row >= 0].tolist() for row in index)
        return Matches(scores, index, tuple(tuple(self.names[i] for i in row) for row in rows))

    @cached_property
    def _search(self) -> Callable[[Tensor, int], tuple[Tensor, Tensor]]:
        if find_spec("faiss") is None:
            return self._product
        faiss = import_module("faiss")
        index = faiss.IndexFlatIP(self.features.shape[1])
        index.add(self.features.numpy())

        def search(queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
            scores, places = index.search(queries.numpy(), k)
            return torch.from_numpy(scores), torch.from_numpy(places)

        return search

    def _product(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        blocks = torch.split(queries, max(1, _BLOCK // len(self)))  # type: ignore[no-untyped-call]
        found = [(block @ self.features.T).topk(k) for block in blocks]
        return torch.cat([scores for scores, _ in found]), torch.cat([index for _, index in found])

    def _checked(self, features: Tensor, source: str | None) -> Tensor:
        if None not in (source, self.source) and source != self.source:
            raise InputError(
                f"the gallery has features of {self.source}, and these are of {source}: features "
                "of different models are not comparable. Extract both with one checkpoint."
            )
        features = features.detach().cpu().float()
        width = self.features.shape[1] if len(self) else None
        if features.ndim != 2 or width not in (None, features.shape[-1]):
            expected = "(N, D)" if width is None else f"(N, {width})"
            raise InputError(f"features of shape {tuple(features.shape)}: expected {expected}.")
        if not features.isfinite().all():
            raise InputError("some features are NaN or infinite: the model has diverged.")
        return F.normalize(features)

    def save(self, path: str | Path) -> None:
        """Write .safetensors, .npz or .parquet, whole or not at all; parquet needs pyarrow."""
        path = require_format(path)
        notes = json.dumps({**self.notes, "source": self.source})
        write_whole(path, lambda draft: self._write(path.suffix, draft, notes))

    def _write(self, suffix: str, draft: Path, notes: str) -> None:
        features, names = self.features.numpy(), self.names
        if suffix == ".safetensors":
            save_file({"features": features}, draft, {"names": json.dumps(names), "notes": notes})
        elif suffix == ".npz":
            with draft.open("wb") as file:
                np.savez(file, features=features, names=np.array(names, str), notes=notes)
        else:
            arrow = import_module("pyarrow")
            vectors = arrow.FixedSizeListArray.from_arrays(features.ravel(), features.shape[1])
            columns = {"name": names, "source": [self.source] * len(names), "feature": vectors}
            table = arrow.table(columns).replace_schema_metadata({"notes": notes})
            import_module("pyarrow.parquet").write_table(table, draft)

    @classmethod
    def load(cls, path: str | Path, source: str | None = None) -> "Gallery":
        """Read such a file; InputError for another file, or features that are not of `source`."""
        path = require_format(path)
        try:
            features, names, text = _read(path)
            notes = dict(json.loads(text))
            found = cls(notes.pop("source"), notes=notes)
        except (SafetensorError, OSError, ValueError, LookupError, TypeError, EOFError) as error:
            raise InputError(f"{path} is no gallery of camreid ({error!r}).") from error
        found.add(torch.from_numpy(features), names, source)
        return found


def _read(path: Path) -> tuple[Any, Sequence[str], str]:
    """Features, names, and notes as JSON."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="np") as file:
            text = file.metadata()
            return file.get_tensor("features"), json.loads(text["names"]), text["notes"]
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return file["features"], file["names"].tolist(), str(file["notes"])
    table = import_module("pyarrow.parquet").read_table(path)
    flat = table["feature"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    names, notes = table["name"].to_pylist(), table.schema.metadata[b"notes"].decode()
    return flat.reshape(len(names), -1).copy(), names, notes


def require_format(path: str | Path) -> Path:
    """Refuse a file of no such format, and parquet without its package."""
    path = Path(path)
    if path.suffix not in (".safetensors", ".npz", ".parquet"):
        raise InputError(f"{path}: expected a .safetensors, .npz or .parquet file.")
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise InputError(f"{path} needs pyarrow: pip install 'camreid[search]', or type .npz.")
    return path
