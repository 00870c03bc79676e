"""Person re-identification with classifier heads that store the identity of each row."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Looked up on first use, so that `camreid-train --help` does not wait for torch.
_HOMES = {
    "FeatureExtractor": "camreid.inference",
    "Gallery": "camreid.gallery",
    "HeadMismatch": "camreid.errors",
    "InputError": "camreid.errors",
    "LabelMap": "camreid.labels",
    "create_model": "camreid.training.module",
    "export_onnx": "camreid.checkpoints.onnx",
    "load": "camreid.checkpoints.experts",
    "rank": "camreid.evaluation.ranking",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'camreid' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
