"""camreid-export: a checkpoint as an ONNX file, compared with PyTorch."""

from pathlib import Path

from omegaconf import DictConfig

from camreid.checkpoints.onnx import OPSET, export_onnx
from camreid.cli.build import run_folder
from camreid.cli.checkpoints import read_checkpoint
from camreid.cli.terminal import show
from camreid.errors import InputError
from camreid.progress import note


def export_run(config: DictConfig) -> None:
    """Read the checkpoint, write the file, show the difference of onnxruntime from PyTorch."""
    path = run_folder() / "model.onnx" if config.path is None else Path(str(config.path))
    if path.exists() and path.suffix == ".onnx":
        raise InputError(f"path={path} exists; type another path=, or remove the file.")
    checkpoint = read_checkpoint(config.checkpoint)
    module, split = checkpoint.module(), checkpoint.provenance.split
    notes = {"checkpoint": checkpoint.path, **({"split": str(split)} if split else {})}
    note(f"Exporting {config.checkpoint}, and comparing the file with PyTorch")
    parity = export_onnx(module, path, config.input, config.normalize, config.logits, notes)
    height, width = module.config.image_size
    labels = "without labels" if module.labels.is_anonymous else "identities in the metadata"
    differences = (
        f"Parity {output}: onnxruntime differs by {share:.1e} of the largest value"
        for output, share in parity.items()
    )
    show(
        f"ONNX   {module.config.name}, opset {OPSET}, {len(module.labels)} rows, {labels}",
        f"Input  images (N, 3, {height}, {width}) {config.input}, RGB in 0..255",
        *differences,
        f"Written to {path}",
    )
