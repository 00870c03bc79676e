"""camreid-export: a checkpoint as an ONNX file, compared with PyTorch."""

from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from camreid.checkpoints.io import Checkpoint
from camreid.checkpoints.onnx import OPSET, export_onnx
from camreid.cli.build import run_folder
from camreid.cli.reading import read_checkpoint
from camreid.cli.terminal import be_quiet, say
from camreid.errors import InputError


def export_run(config: DictConfig) -> None:
    """Read the checkpoint, write the file, show the difference of onnxruntime from PyTorch."""
    be_quiet()
    if OmegaConf.is_missing(config, "checkpoint") or config.checkpoint is None:
        raise InputError("no checkpoint was given; type checkpoint=runs/RUN/checkpoints/best.ckpt.")
    for key in ("normalize", "logits"):
        if not isinstance(config[key], bool):
            raise InputError(f"{key}={config[key]}: type {key}=true or {key}=false.")
    path = run_folder() / "model.onnx" if config.path is None else Path(str(config.path))
    if path.exists() and path.suffix == ".onnx":
        raise InputError(f"path={path} exists; type another path=, or remove the file.")
    checkpoint = read_checkpoint(config.checkpoint)
    module = checkpoint.module()
    parity = export_onnx(
        module, path, config.input, config.normalize, config.logits, notes_of(checkpoint)
    )
    height, width = module.config.image_size
    labels = "without labels" if module.labels.is_anonymous else "identities in the metadata"
    say(
        f"ONNX   {module.config.name}, opset {OPSET}, {len(module.labels)} rows, {labels}",
        f"Input  images (N, 3, {height}, {width}) {config.input}, RGB in 0..255",
        *(
            f"Parity {output}: onnxruntime differs by {share:.1e} of the largest value"
            for output, share in parity.items()
        ),
        f"Written to {path}",
    )


def notes_of(checkpoint: Checkpoint) -> dict[str, str]:
    """Where an exported file comes from, for its metadata."""
    split = checkpoint.provenance.split
    if split is None:
        return {"checkpoint": checkpoint.path}
    strategy = str(replace(split, digest=None))
    return {
        "checkpoint": checkpoint.path,
        "split_strategy": strategy,
        "split_digest": str(split.digest),
    }
