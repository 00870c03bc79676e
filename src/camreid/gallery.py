"""Exact search in features of images, and the file that keeps them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor

from camreid.errors import InputError, require_number, require_whole
from camreid.files import write_whole

_BLOCK = 2**23  # scores at a time
_FEW, _MANY = 4, 256  # queries: up to few, int8 codes are faster; from many on, faiss
_LARGE = 10_000  # images, from which on codes are worth their time


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
        source: the model of the features, such as `FeatureExtractor.source`; others are refused.
        notes: more on their origin.
        features: (N, D) float32, unit length; a zero feature stays zero.
        names: of the images, such as their paths.

    >>> gallery = Gallery()
    >>> gallery.add(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), ["a", "b"])
    >>> gallery.search(torch.tensor([[1.0, 2.0]]), k=1).names
    (('b',),)
    """

    source: str | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    features: Tensor = field(default_factory=lambda: torch.empty(0, 0), init=False)
    names: tuple[str, ...] = field(default=(), init=False)

    def __len__(self) -> int:
        return len(self.names)

    def add(self, features: Tensor, names: Sequence[str], source: str | None = None) -> None:
        """Append images; InputError for other widths, counts, sources, or values not finite."""
        features = self._checked(features, source)
        if len(features) != len(names):
            raise InputError(f"{len(features)} features and {len(names)} names: give one each.")
        self.source = self.source or source
        own = self.features if len(self) else features[:0]
        self.features, self.names = torch.cat([own, features]), (*self.names, *map(str, names))
        vars(self).pop("_codes", None)

    def search(
        self,
        features: Tensor,
        k: int = 10,
        threshold: float | None = None,
        source: str | None = None,
    ) -> Matches:
        """The `k` closest images of (Q, D) queries, those with a cosine of `threshold` or more.

        Exact. Many queries are searched by faiss where it is installed.
        """
        require_whole("k", k, least=1)
        require_number("threshold", -1 if threshold is None else threshold, -1, 1)
        queries, k = self._checked(features, source), min(k, len(self))
        if not k:
            raise InputError("the gallery is empty; add features to it first.")
        if len(queries) >= _MANY and find_spec("faiss"):
            found = import_module("faiss").knn(queries.numpy(), self.features.numpy(), k, metric=0)
            scores, index = map(torch.from_numpy, found)
        else:
            is_fast = len(queries) <= _FEW and len(self) >= _LARGE
            blocks = queries.split(1 if is_fast else max(1, _BLOCK // len(self)))  # type: ignore[no-untyped-call]
            parts = [self._by_codes(b[0], k) if is_fast else self._product(b, k) for b in blocks]
            scores, index = (torch.cat(part) for part in zip(*parts, strict=True))
        low = scores < (-torch.inf if threshold is None else threshold)
        scores, index = scores.masked_fill(low, -torch.inf), index.masked_fill(low, -1)
        rows = (row[row >= 0].tolist() for row in index)
        return Matches(scores, index, tuple(tuple(self.names[i] for i in row) for row in rows))

    def _product(self, queries: Tensor, k: int) -> Any:
        return (queries @ self.features.T).topk(k)

    def _by_codes(self, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Scores of int8 codes, which read a quarter of the memory; then those of the best ones.

        Vectors have unit length. A score of codes is off by at most the lengths of both rounding
        errors, and 2**-7 for the sums and the bfloat16 result, so no closer image is left out.
        """
        codes, scales, error = self._codes
        rounded = F.pad(query, (0, codes.shape[1] - len(query))).bfloat16()
        rough = torch._weight_int8pack_mm(rounded[None], codes, scales)[0].float()
        error += (query - rounded[: len(query)].float()).norm().item() + 2**-7
        near = (rough >= rough.topk(k).values[-1] - 2 * error).nonzero()[:, 0]
        scores, place = (self.features[near] @ query).topk(k)
        return scores[None], near[place][None]

    @cached_property
    def _codes(self) -> tuple[Tensor, Tensor, float]:
        """(N, D) int8, of whole vectors of the processor; (N,) bfloat16; the largest error."""
        scales = (self.features.abs().amax(1) / 127).clamp(min=1e-9).bfloat16()
        exact = scales.float()[:, None]
        codes = (self.features / exact).round_().clamp_(-127, 127)
        error = (codes * exact - self.features).norm(dim=1).max().item()
        return F.pad(codes.to(torch.int8), (0, -codes.shape[1] % 32)), scales, error

    def _checked(self, features: Tensor, source: str | None) -> Tensor:
        if None not in (source, self.source) and source != self.source:
            raise InputError(
                f"the gallery has features of {self.source}, and these are of {source}: features "
                "of different models are not comparable. Extract both with one checkpoint."
            )
        features = features.detach().cpu().float()
        if features.ndim != 2 or (len(self) and features.shape[1] != self.features.shape[1]):
            expected = f"(N, {self.features.shape[1] if len(self) else 'D'})"
            raise InputError(f"features of shape {tuple(features.shape)}: expected {expected}.")
        if not features.isfinite().all():
            raise InputError("some features are NaN or infinite: the model has diverged.")
        return F.normalize(features)

    def save(self, path: str | Path) -> None:
        """Write .safetensors, .npz or .parquet, whole or not at all; parquet needs pyarrow."""
        path, array, names = require_format(path), self.features.numpy(), [*self.names]
        notes = json.dumps({**self.notes, "source": self.source})

        def write(draft: Path) -> None:
            if path.suffix == ".safetensors":
                save_file({"features": array}, draft, {"names": json.dumps(names), "notes": notes})
            elif path.suffix == ".npz":
                with draft.open("wb") as file:
                    np.savez(file, features=array, names=np.array(names, str), notes=notes)
            else:
                arrow = import_module("pyarrow")
                vectors = arrow.FixedSizeListArray.from_arrays(array.ravel(), array.shape[1])
                columns = {"name": names, "source": [self.source] * len(names), "feature": vectors}
                table = arrow.table(columns).replace_schema_metadata({"notes": notes})
                import_module("pyarrow.parquet").write_table(table, draft)

        write_whole(path, write)

    @classmethod
    def load(cls, path: str | Path, source: str | None = None) -> "Gallery":
        """Read such a file; InputError for another file, or features that are not of `source`."""
        try:
            features, names, text = _read(require_format(path))
            notes = json.loads(text)
            found = cls(notes.pop("source"), notes)
        except InputError:
            raise
        except Exception as error:  # of safetensors, NumPy, zip and pyarrow, without a common class
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
