"""An exported ONNX file as a network, run by onnxruntime."""

import json
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camreid.checkpoints.graph import GraphOptions
from camreid.errors import InputError
from camreid.models.network import ReIDOutput


class Exported(nn.Module):
    """The network of a file of `export_onnx`; InputError for another file.

    Attributes:
        source: name and digest of the weights, as of the checkpoint.
    """

    cameras, device = (), torch.device("cpu")

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        try:
            session = import_module("onnxruntime").InferenceSession(
                path, providers=["CPUExecutionProvider"]
            )
            notes = session.get_modelmeta().custom_metadata_map
            self.form = GraphOptions(notes["input"], channels=notes["channels"].lower())
            self.source, self.batch = notes["source"], notes["batch"]
            size, interpolation = json.loads(notes["image_size"]), notes["resize"].split(",")[0]
        except Exception as error:  # of onnxruntime, or of an older file
            raise InputError(f"{path} can't be run ({error!r:.200}). Export it again.") from error
        self.config = SimpleNamespace(
            name=notes["model"], image_size=tuple(size), interpolation=interpolation
        )
        self.session, self.fed = session, session.get_inputs()[0].name

    @property
    def model(self) -> "Exported":
        """Itself, as of a `ReIDModule`."""
        return self

    def forward_raw(self, images: Tensor, cameras: Any = None) -> ReIDOutput:
        """Features of (B, 3, H, W) pixels in 0..255, in batches of the file's size."""
        size = len(images) if self.batch == "dynamic" else int(self.batch)
        pixels = images.round().byte() if self.form.input == "uint8" else images
        parts = self.form.feed(F.pad(pixels, (0,) * 7 + (-len(images) % size,))).split(size)
        found = [self.session.run(["features"], {self.fed: part.numpy()})[0] for part in parts]
        return ReIDOutput(torch.from_numpy(np.concatenate(found)[: len(images)]), {}, {})
