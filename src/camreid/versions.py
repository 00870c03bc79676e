"""What weights and numbers were made with."""

import platform
from importlib.metadata import version

from camreid import __version__

_PACKAGES = ("torch", "torchvision", "pytorch-lightning", "timm")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on, by name."""
    # a checkout on PYTHONPATH has no installed metadata
    own = {"python": platform.python_version(), "camreid": __version__}
    return {**own, **{name: version(name) for name in _PACKAGES}}
