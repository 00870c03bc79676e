"""What boxmot 25 reads: the sidecar of an ONNX file, and `.pt` files with torchreid's names."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from camreid.checkpoints.exported import read_metadata
from camreid.checkpoints.foreign.importing import import_weights
from camreid.checkpoints.graph import Graph, compare, read_test
from camreid.errors import InputError
from camreid.files import write_whole
from camreid.models.reading import read_content
from camreid.training.module import ReIDModule

_NAMES = {"backbone.trunk.": "", "projection.": "fc.", "heads.identity.": "classifier."}


def sidecar_note(module: ReIDModule, checkpoint: str) -> dict[str, str]:
    """Metadata of an ONNX file, from which `sidecar` is written and checked."""
    source = hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest()
    return {"boxmot": json.dumps({**_describe(module), "source_sha256": source})}


def sidecar(path: Path) -> str:
    """The text of `FILE.onnx.metadata.json`, which boxmot reads beside the file at `path`."""
    content = json.loads(read_metadata(path).get("boxmot", "{}"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return json.dumps({**content, "artifact_sha256": digest}, indent=2)


def write_pt(module: ReIDModule, path: Path) -> None:
    """Write a `.pt` file; InputError where no model of boxmot gives the module's features."""
    tensors = {
        theirs + name.removeprefix(own): tensor
        for name, tensor in module.model.state_dict().items()
        for own, theirs in _NAMES.items()
        if name.startswith(own) and not name.endswith(".pids")
    }
    content = {"state_dict": tensors, **_describe(module), "camreid": Graph(module).evidence()}

    def write(draft: Path) -> None:
        torch.save(content, draft)
        try:
            check_pt(draft)
        except InputError as error:
            raise InputError(
                f"path={path}: boxmot's .pt files are OSNets and ResNets of torchreid, no neck.",
                path=path.with_suffix(".onnx"),
            ) from error

    write_whole(path, write)


@torch.inference_mode()
def check_pt(path: Path) -> float:
    """`compare` for the test crop of a `.pt` file; InputError as there, and for another file."""
    file = read_content(path)
    try:
        size, (crop, expected) = file["model_kwargs"]["img_size"], read_test(file["camreid"])
        module = import_weights(path, "torchreid", file["model_name"], image_size=size)
        features = Graph(module).raw(crop)[0].view_as(expected)
    except Exception as error:  # of a file without these parts, or with other ones
        raise InputError(f"{path} is no .pt file of camreid-export ({error!r:.300}).") from error
    return compare("features", features, expected)


def _describe(module: ReIDModule) -> dict[str, Any]:
    """The model by its name in boxmot, or one that boxmot can build in its place."""
    network, size = module.config.network, list(module.config.image_size)
    resnet = "resnet50" + "_fc512" * bool(network.get("projection"))
    backbone = str(network.get("backbone"))
    found = {"schema_version": 1, "model_kwargs_schema_version": 1, "preprocess": "resize"}
    found["model_name"] = backbone if backbone.startswith("osnet_") else resnet
    found["num_classes"] = max(1, len(module.labels))
    return {**found, "img_size": size, "model_kwargs": {"img_size": size}}
