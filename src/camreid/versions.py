"""What weights and numbers were made with."""

import platform

import pytorch_lightning
import timm
import torch
import torchvision

import camreid


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on, by name.

    Read from the modules: a checkout on `PYTHONPATH` has no installed metadata.
    """
    modules = (camreid, torch, torchvision, pytorch_lightning, timm)
    found = {module.__name__.replace("_", "-"): str(module.__version__) for module in modules}
    return {"python": platform.python_version(), **found}
