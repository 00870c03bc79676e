"""Exact search in features of images, and the file that keeps them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from camreid.errors import InputError, require_number, require_whole
from camreid.evaluation.features import digest_of, read_npz, read_tensors
from camreid.files import write_whole

_LARGE, _FEW = 10_000, 4  # images from which, and queries up to which, codes save time
_BLOCK, _MANY = 64, 256  # queries of a product; queries from which faiss is faster
_PRODUCT = "_weight_int8pack_mm"  # of codes; not public, so it may be gone in another torch


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
        features: (N, D) float32, unit length; a zero feature stays zero.
        names: of the images, such as their paths.

    >>> gallery = Gallery()
    >>> gallery.add(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), ["a", "b"])
    >>> gallery.search(torch.tensor([[1.0, 2.0]]), k=1).names
    (('b',),)
    """

    source: str | None = None
    features: Tensor = field(default_factory=lambda: torch.empty(0, 0), init=False)
    names: tuple[str, ...] = field(default=(), init=False)

    def __len__(self) -> int:
        return len(self.names)

    def add(self, features: Tensor, names: Sequence[str], source: str | None = None) -> None:
        """Append images; InputError for other widths, counts, sources, or values not finite."""
        if None not in (source, self.source) and source != self.source:
            found = f"the gallery has features of {self.source}, and these are of {source}"
            raise InputError(f"{found}: not comparable. Extract both with one checkpoint.")
        features = self._unit(features)
        if len(features) != len(names):
            raise InputError(f"{len(features)} features and {len(names)} names: give one each.")
        own = self.features if len(self) else features[:0]
        self.features, self.names = torch.cat([own, features]), (*self.names, *map(str, names))
        self.source = self.source or source
        vars(self).pop("_codes", None)

    def search(self, features: Tensor, k: int = 10, threshold: float = -1) -> Matches:
        """The `k` closest images of (Q, D) queries, those with a cosine of `threshold` or more.

        Exact. Many queries are searched by faiss where it is installed.
        """
        require_whole("k", k, least=1)
        require_number("threshold", threshold, -1, 1)
        queries, k = self._unit(features), min(k, len(self))
        if not k:
            raise InputError("the gallery is empty; add features to it first.")
        if len(queries) >= _MANY and find_spec("faiss"):
            both = queries.numpy(), self.features.numpy()  # 0: inner product
            parts: list[Any] = [map(torch.from_numpy, import_module("faiss").knn(*both, k, 0))]
        elif 0 < len(queries) <= _FEW and len(self) >= _LARGE and hasattr(torch, _PRODUCT):
            parts = [self._by_codes(query, k) for query in queries]
        else:
            parts = [(q @ self.features.T).topk(k) for q in torch.split(queries, _BLOCK)]
        scores, index = (torch.cat(part) for part in zip(*parts, strict=True))
        low = scores.clamp_(-1, 1) < threshold
        scores, index = scores.masked_fill(low, -torch.inf), index.masked_fill(low, -1)
        rows = (row[row >= 0].tolist() for row in index)
        return Matches(scores, index, tuple(tuple(self.names[i] for i in row) for row in rows))

    def _by_codes(self, query: Tensor, k: int) -> Any:
        """Scores of int8 codes, which read a quarter of the memory; then those of the best ones.

        A score of codes is off by at most the lengths of both rounding errors, as both vectors have
        unit length, and 2**-7 for the sums and the bfloat16 result: no closer image is left out.
        """
        codes, scales, error = self._codes
        rounded = F.pad(query, (0, codes.shape[1] - len(query))).bfloat16()
        rough = getattr(torch, _PRODUCT)(rounded[None], codes, scales)[0].float()
        error += (query - rounded[: len(query)].float()).norm().item() + 2**-7
        near = (rough >= rough.topk(k).values[-1] - 2 * error).nonzero()[:, 0]
        scores, place = (query[None] @ self.features[near].T).topk(k)
        return scores, near[place]

    @cached_property
    def _codes(self) -> tuple[Tensor, Tensor, float]:
        """(N, D) int8 in whole vectors of the processor; (N,) bfloat16; the largest error."""
        scales = (self.features.abs().amax(1) / 127).clamp(min=1e-9).bfloat16()
        exact = scales.float()[:, None]
        codes = (self.features / exact).round_().clamp_(-127, 127)
        error = (codes * exact - self.features).norm(dim=1).max().item()
        return F.pad(codes.to(torch.int8), (0, -codes.shape[1] % 32)), scales, error

    def _unit(self, features: Tensor) -> Tensor:
        features = features.detach().cpu().float()
        width = self.features.shape[1] if len(self) else features.shape[-1]
        if features.ndim != 2 or features.shape[1] != width or not features.isfinite().all():
            found = f"features of shape {tuple(features.shape)}"
            raise InputError(f"{found}: expected (N, {width}), neither NaN nor infinite.")
        return F.normalize(features)

    def save(self, path: str | Path) -> None:
        """Write .safetensors, .npz or .parquet, whole or not at all; parquet needs pyarrow."""
        path, source = require_format(path), self.source or ""
        array, names = self.features.numpy(), [*self.names]

        def write(draft: Path) -> None:
            if path.suffix == ".safetensors":
                notes = {"source": json.dumps(source), "names": json.dumps(names)}
                notes["digest"] = digest_of({"features": self.features}, notes)
                save_file({"features": self.features}, draft, notes)
            elif path.suffix == ".npz":
                with draft.open("wb") as file:
                    np.savez(file, features=array, names=np.array(names, str), source=source)
            else:
                arrow, parquet = map(import_module, ("pyarrow", "pyarrow.parquet"))
                vectors = arrow.FixedSizeListArray.from_arrays(array.ravel(), array.shape[1])
                columns = {"name": names, "source": [source] * len(names), "feature": vectors}
                parquet.write_table(arrow.table(columns), draft, write_page_checksum=True)

        write_whole(path, write)

    @classmethod
    def load(cls, path: str | Path, source: str | None = None) -> "Gallery":
        """Read such a file; InputError for another file, or features that are not of `source`."""
        path = require_format(path)
        try:
            if path.suffix == ".safetensors":
                tensors, notes = read_tensors(path)
                features, names, own = tensors["features"], notes["names"], notes["source"]
            elif path.suffix == ".npz":
                file, _ = read_npz(path)
                features, names, own = file["features"], file["names"].tolist(), str(file["source"])
            else:
                parquet = import_module("pyarrow.parquet")
                table = parquet.read_table(path, page_checksum_verification=True)
                features = torch.from_numpy(np.stack(table["feature"].to_numpy()))
                names, own = table["name"].to_pylist(), table["source"][0].as_py()
            found = cls(own or None)
            found.add(features, names, source)
        except InputError:
            raise
        except Exception as error:  # of safetensors, zip, NumPy and pyarrow
            raise InputError(f"{path} is no gallery of camreid ({error!r:.200}).") from error
        return found


def require_format(path: str | Path) -> Path:
    """Refuse a path with another suffix, and parquet without its package."""
    formats = [".safetensors", ".npz"] + [".parquet"] * (find_spec("pyarrow") is not None)
    if Path(path).suffix not in formats:
        hint = "; for .parquet, pip install 'camreid[search]'" if len(formats) < 3 else ""
        raise InputError(f"{path}: expected a file of {', '.join(formats)}{hint}.")
    return Path(path)
