"""What boxmot 25 reads: the sidecar of an ONNX file, and `.pt` files of torchreid's names."""

import json
from pathlib import Path
from typing import Any

import torch

from camreid.checkpoints.foreign.importing import import_weights
from camreid.checkpoints.graph import RawNetwork
from camreid.errors import InputError
from camreid.exported import compare, digest, expect
from camreid.files import write_text, write_whole
from camreid.training.module import ReIDModule

_NAMES = {"backbone.trunk.": "", "projection.": "fc.", "heads.identity.": "classifier."}


def model_name(module: ReIDModule) -> str:
    """The name in boxmot of this model, or of one that it can build in its place."""
    backbone = str(module.config.network.get("backbone"))
    if backbone.startswith("osnet_"):
        return backbone
    return "resnet50_fc512" if module.config.network.get("projection") else "resnet50"


def write_sidecar(module: ReIDModule, path: Path, checkpoint: str | Path) -> None:
    """Write `FILE.onnx.metadata.json` beside the file at `path`."""
    record = {
        "schema_version": 1,
        **_record(module),
        "img_size": list(module.config.image_size),
        "source_sha256": digest(checkpoint),
        "artifact_sha256": digest(path),
    }
    write_text(path.with_name(f"{path.name}.metadata.json"), json.dumps(record, indent=2))


def write_pt(module: ReIDModule, path: Path) -> None:
    """Write a `.pt` file; InputError where no model of boxmot gives the module's features."""
    tensors = {
        theirs + name.removeprefix(own): tensor
        for name, tensor in module.model.state_dict().items()
        for own, theirs in _NAMES.items()
        if name.startswith(own) and not name.endswith(".pids")
    }
    metadata = expect(RawNetwork(module).test_features())
    content = {"state_dict": tensors, **_record(module), "camreid": metadata}

    def write(draft: Path) -> None:
        torch.save(content, draft)
        check_file(draft)

    try:
        write_whole(path, write)
    except InputError as error:
        raise InputError(
            f"path={path}: boxmot has no model that gives the features of {module.config.name}. "
            "Its .pt files are OSNets and ResNets of torchreid, without a neck.",
            path=path.with_suffix(".onnx"),
        ) from error


def check_file(path: str | Path) -> float:
    """`compare` for the test crop of a `.pt` file, by torchreid's names; InputError as there."""
    try:
        file = torch.load(path, map_location="cpu", weights_only=True)
        name, size, metadata = file["model_name"], file["model_kwargs"]["img_size"], file["camreid"]
    except Exception as error:  # of torch and pickle, which have no common class
        raise InputError(f"check={path}: it is no .pt file of camreid-export.") from error
    module = import_weights(path, "torchreid", name, image_size=size)
    return compare(metadata, RawNetwork(module).test_features())


def _record(module: ReIDModule) -> dict[str, Any]:
    return {
        "model_name": model_name(module),
        "num_classes": max(1, len(module.labels)),
        "preprocess": "resize",
        "model_kwargs_schema_version": 1,
        "model_kwargs": {"img_size": list(module.config.image_size)},
    }
