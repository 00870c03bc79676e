"""What an Apple GPU and CUDA's deterministic mode lack stays on the CPU: a pretended device."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from camreid.evaluation import rank, rank_distances, rank_protocols, rerank
from camreid.evaluation.metric import IdentityAccuracy
from tests.evaluation import twin

DEVICE = torch.device("meta")  # the one that torch lets pretend


class OnDevice(Tensor):
    """A CPU tensor that calls itself one of DEVICE."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "OnDevice":
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, inner.stride(), dtype=inner.dtype, device=DEVICE
        )
        made.inner = inner
        return made

    def tolist(self) -> Any:
        """Values; torch has none for subclasses."""
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return pretended(func, args, kwargs or {})


class Pretend(TorchDispatchMode):
    """Tensors of DEVICE are made and computed on the CPU, but float64 is refused."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return pretended(func, args, kwargs or {})


def pretended(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, OnDevice)]
    target = kwargs.get("device")
    name = func.overloadpacket.__name__
    if name == "copy_":
        on_device = isinstance(args[0], OnDevice)
    else:
        on_device = bool(given) if target is None else torch.device(target).type == DEVICE.type
    if target is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    inner = tree_map(lambda x: x.inner if isinstance(x, OnDevice) else x, (args, kwargs))
    found = func(*inner[0], **inner[1])
    same = {id(x.inner): x for x in given}

    def wrapped(x: Any) -> Any:
        if not isinstance(x, Tensor) or not on_device:
            return x
        assert x.dtype != torch.float64, f"{name} makes float64 off the CPU"
        assert name not in ("cumsum", "histc") or not x.dtype.is_floating_point, name
        return same.get(id(x)) if id(x) in same else OnDevice(x)

    return tree_map(wrapped, found)


@pytest.fixture(autouse=True)
def _autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # not of this device


@pytest.fixture
def problem() -> Any:
    return twin.random_table(20, 90, 5, 4, 50, seed=0)


def test_the_device_refuses_float64() -> None:
    with Pretend():
        x = torch.ones(3, device=DEVICE)
        assert (x * 2).sum().item() == 6
        with pytest.raises(AssertionError, match="float64"):
            x.double()
        with pytest.raises(AssertionError, match="cumsum"):
            x.cumsum(0)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_ranking(problem: Any, metric: Any) -> None:
    options: dict[str, Any] = {**problem.tensors, "metric": metric}
    expected = rank(**options, protocol="within-camera")
    pairs = rank_protocols(problem.query, problem.gallery, metric).camera_pairs
    with Pretend():
        found = rank(**options, protocol="within-camera", device=DEVICE)
        found_pairs = rank_protocols(problem.query, problem.gallery, metric, device=DEVICE)
    assert torch.equal(found.first_match, expected.first_match)
    assert torch.equal(pairs.mAP.nan_to_num(-1), found_pairs.camera_pairs.mAP.nan_to_num(-1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.int64])
def test_ready_distances(problem: Any, dtype: torch.dtype) -> None:
    q, g, *labels = twin.tensors(problem)
    distances = torch.cdist(q, g).round().to(dtype)
    expected = rank_distances(distances, *labels).mAP
    with Pretend():
        on_device = distances if dtype.itemsize == 8 else distances.to(DEVICE)
        assert rank_distances(on_device, *labels).mAP == expected


def test_reranking_and_metrics(problem: Any) -> None:
    q, g, *_ = twin.tensors(problem)
    expected = rerank(q, g, k1=5, k2=2)
    with Pretend():
        found = rerank(q.to(DEVICE), g.to(DEVICE), k1=5, k2=2).cpu()
        metric = IdentityAccuracy()
        rows, index = torch.tensor([0, -1]).to(DEVICE), torch.arange(2, device=DEVICE)
        metric.update(torch.eye(2).to(DEVICE), rows, index)
        assert metric.compute()["accuracy"].item() == 1
    assert torch.allclose(found, expected)
