"""An exported ONNX file as a network, run by onnxruntime on the CPU."""

import hashlib
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


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a file of `export_onnx`; InputError if a part changed or is elsewhere."""
    try:
        proto = import_module("onnx").load_model(path, load_external_data=False)
        import_module("onnx.external_data_helper").convert_model_from_external_data(proto)
        proto.metadata_props.remove(digest := proto.metadata_props[-1])
        found = hashlib.sha256(proto.SerializeToString()).hexdigest()
    except Exception as error:  # of protobuf
        raise InputError(f"{path} cannot be read as ONNX ({error}).") from error
    if (digest.key, digest.value) != ("digest", found):
        raise InputError(f"{path} has a wrong checksum or none. Copy or export the file again.")
    return {prop.key: prop.value for prop in proto.metadata_props}


class Exported(nn.Module):
    """The network of a file of `export_onnx`, with its `source`; InputError for another file."""

    cameras, device, calibration = (), torch.device("cpu"), None

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        notes = read_metadata(path)
        try:
            start = import_module("onnxruntime").InferenceSession
            self.session = start(path, providers=["CPUExecutionProvider"])
            self.form, self.source = GraphOptions(**json.loads(notes["form"])), notes["source"]
            size, how = tuple(json.loads(notes["image_size"])), notes["resize"].partition(",")[0]
            self.forward_raw(torch.zeros(1, 3, *size, dtype=torch.uint8))
            self.config = SimpleNamespace(name=notes["model"], image_size=size, interpolation=how)
        except Exception as error:  # of onnxruntime, or of an older file
            raise InputError(f"{path} can't be run ({error!r:.200}). Export it again.") from error

    def forward_raw(self, images: Tensor, cameras: Any = None) -> ReIDOutput:
        """Features of (B, 3, H, W) pixels in 0..255, in batches of the file's size."""
        size = len(images) if self.form.batch == "dynamic" else self.form.batch
        pixels = images.round().byte() if self.form.input == "uint8" else images
        fed = self.form.feed(F.pad(pixels, (0,) * 7 + (-len(images) % size,))).numpy()
        name, parts = self.session.get_inputs()[0].name, len(fed) // size
        found = [self.session.run(["features"], {name: x})[0] for x in np.split(fed, parts)]
        return ReIDOutput(torch.from_numpy(np.concatenate(found)[: len(images)]), {}, {})
