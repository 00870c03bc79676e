"""camreid-export: a checkpoint as a file that other programs load, compared with PyTorch."""

from pathlib import Path

from omegaconf import DictConfig

from camreid.checkpoints import boxmot
from camreid.checkpoints.graph import GraphOptions, RawNetwork
from camreid.checkpoints.io import Checkpoint
from camreid.checkpoints.onnx import OPSET, export_onnx
from camreid.cli.build import run_folder
from camreid.cli.checkpoints import read_checkpoint
from camreid.cli.terminal import show
from camreid.errors import InputError
from camreid.exported import NAMES, RANGES
from camreid.progress import note

# a .pt file of boxmot has no options
_PT = {"normalize": False, "logits": False, "precision": "float32", "batch": "dynamic"}


def export_run(config: DictConfig) -> None:
    """Read the checkpoint, write the file, show the difference of onnxruntime from PyTorch."""
    if config.check is not None:
        raise InputError(f"check={config.check} goes with no other option: type it alone.")
    path = run_folder() / "model.onnx" if config.path is None else Path(str(config.path))
    is_pt = config.consumer == "boxmot" and path.suffix == ".pt"
    for key, value in {**config.feeds, **(_PT if is_pt else {})}.items():
        if config[key] != value:
            file = f"a {path.suffix} file for {config.consumer}"
            raise InputError(f"{key}={config[key]}: {file} takes {value}.", **{key: value})
    if path.exists() and path.suffix in (".onnx", ".pt"):
        raise InputError(f"path={path} exists; type another path=, or remove the file.")
    checkpoint = read_checkpoint(config.checkpoint)
    if is_pt:
        boxmot.write_pt(checkpoint.module(), path)
        show(f"Written to {path}")
    else:
        _export(config, checkpoint, path)


def _export(config: DictConfig, checkpoint: Checkpoint, path: Path) -> None:
    """Write an ONNX file, for boxmot its sidecar too, and show what the program must be given."""
    module, split = checkpoint.module(), checkpoint.provenance.split
    is_boxmot = config.consumer == "boxmot"
    name = "images" if is_boxmot else NAMES.get(config.input, "images")
    form = {key: config[key] for key in ("channels", "precision", "batch", "size")}
    options = GraphOptions(**form, input_name=name)
    notes = {"checkpoint": checkpoint.path, **({"split": str(split)} if split else {})}
    kind = config.input, config.normalize, config.logits
    note(f"Exporting {config.checkpoint}, and comparing the file with PyTorch")
    parity = export_onnx(module, path, *kind, notes, options)
    if is_boxmot:
        boxmot.write_sidecar(module, path, checkpoint.path)
    height, width = module.config.image_size
    labels = "without labels" if module.labels.is_anonymous else "identities in the metadata"
    batch = "N" if options.batch == "dynamic" else options.batch
    size = f"{height}, {width}" if options.size == "static" else "any H, any W"
    pixels = f"{config.input}, {options.channels.upper()} in {RANGES[config.input]}"
    show(
        f"ONNX   {module.config.name}, opset {OPSET}, {len(module.labels)} rows, {labels}",
        f"Input  {name} ({batch}, 3, {size}) {pixels}",
        *(
            f"Parity {output}: onnxruntime differs by {share:.1e} of the largest value"
            for output, share in parity.items()
        ),
        f"Written to {path}",
    )
    if config.paste:
        batch, is_bgr = 100 if batch == "N" else batch, int(options.channels == "bgr")
        places = {"path": path.resolve(), "height": height, "width": width, "batch": batch}
        dim = RawNetwork(module).test_features().size
        show(config.paste.format(**places, dim=dim, color=is_bgr).rstrip())
