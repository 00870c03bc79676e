"""camreid-export: a checkpoint as a file that other programs load, compared with PyTorch."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from camreid.checkpoints import boxmot
from camreid.checkpoints.graph import GraphOptions, RawNetwork
from camreid.checkpoints.onnx import OPSET, export_onnx
from camreid.cli.build import run_folder
from camreid.cli.checkpoints import read_checkpoint
from camreid.cli.terminal import show
from camreid.errors import InputError
from camreid.exported import NAMES, RANGES

# a .pt file of boxmot has no options
_PT = {"normalize": False, "logits": False, "precision": "float32", "batch": "dynamic"}


def export_run(config: DictConfig) -> None:
    """Read the checkpoint, write the file, show the difference of onnxruntime from PyTorch."""
    if OmegaConf.is_missing(config, "checkpoint") or config.checkpoint is None:
        raise InputError("no checkpoint was given; type checkpoint=runs/RUN/checkpoints/best.ckpt.")
    for key in ("normalize", "logits"):
        if not isinstance(config[key], bool):
            raise InputError(f"{key}={config[key]}: type {key}=true or {key}=false.")
    path, is_boxmot = Path(str(config.path or "model.onnx")), config.consumer == "boxmot"
    is_pt = is_boxmot and path.suffix == ".pt"
    for key, value in {**config.feeds, **(_PT if is_pt else {})}.items():
        if config[key] != value:
            file = f"a {path.suffix} file for {config.consumer}"
            raise InputError(f"{key}={config[key]}: {file} takes {value}.", **{key: value})
    if config.path is not None and path.exists() and path.suffix in (".onnx", ".pt"):
        raise InputError(f"path={path} exists; type another path=, or remove the file.")
    checkpoint = read_checkpoint(config.checkpoint)
    module, split = checkpoint.module(), checkpoint.provenance.split
    path = path if config.path is not None else run_folder() / path
    height, width = module.config.image_size
    if is_pt:
        boxmot.write_pt(module, path)
        show(f"boxmot {boxmot.model_name(module)}, {height} x {width}", f"Written to {path}")
        return
    name = "images" if is_boxmot else NAMES.get(config.input, "images")
    form = {key: config[key] for key in ("channels", "precision", "batch", "size")}
    options = GraphOptions(**form, input_name=name)
    notes = {"checkpoint": checkpoint.path, **({"split": str(split)} if split else {})}
    kind = config.input, config.normalize, config.logits
    parity = export_onnx(module, path, *kind, notes, options)
    if is_boxmot:
        boxmot.write_sidecar(module, path, checkpoint.path)
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
        places: dict[str, object] = {
            "height": height,
            "width": width,
            "batch": 100 if batch == "N" else batch,
        }
        places |= {"dim": RawNetwork(module).test_features().size, "path": path.resolve()}
        show(config.paste.format(color=int(options.channels == "bgr"), **places).rstrip())
