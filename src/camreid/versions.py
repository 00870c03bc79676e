"""What weights and numbers were made with."""

import platform
from importlib.metadata import version

_PACKAGES = ("camreid", "torch", "torchvision", "pytorch-lightning", "timm")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on, by name."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}
