"""camreid-export: a checkpoint as a file that other programs load, compared with PyTorch."""

import json
from dataclasses import asdict, fields
from pathlib import Path

from omegaconf import DictConfig

from camreid.checkpoints.boxmot import check_pt, sidecar, sidecar_note, write_pt
from camreid.checkpoints.experts import expert_files, save_experts
from camreid.checkpoints.exported import read_metadata
from camreid.checkpoints.graph import PIXELS, GraphOptions
from camreid.checkpoints.io import Checkpoint, decision_notes
from camreid.checkpoints.onnx import OPSET, check_onnx, export_onnx
from camreid.cli.build import run_folder
from camreid.cli.checkpoints import read_checkpoint
from camreid.cli.options import matching
from camreid.cli.terminal import show
from camreid.errors import InputError
from camreid.files import write_text
from camreid.progress import note


def check_export(path: Path) -> None:
    """Run an exported file on its test crop, and show the difference of its features."""
    share = (check_pt if path.suffix == ".pt" else check_onnx)(path)
    beside = Path(f"{path}.metadata.json")
    if beside.is_file() and beside.read_bytes() != sidecar(path).encode():
        raise InputError(f"{beside} is not of {path}. Copy or export both again.")
    show(f"{path} gives the features of its export; they differ by {share:.1e} of their norm.")


def export_run(config: DictConfig) -> None:
    """Read the checkpoint, write the file, show the difference of onnxruntime from PyTorch."""
    path = run_folder() / "model.onnx" if config.path is None else Path(str(config.path))
    checkpoints = matching("checkpoint", config.checkpoint)
    form = GraphOptions(**{field.name: config[field.name] for field in fields(GraphOptions)})
    if checkpoints != [str(config.checkpoint)]:
        if config.consumer or config.path is None or path.suffix or form != GraphOptions():
            found = f"checkpoint= names {len(checkpoints)} files, which become a folder of experts"
            raise InputError(f"{found}: type path=FOLDER, and no other option. Export the folder.")
        save_experts(path, checkpoints)
        show(f"Written to {path}: experts of cameras {', '.join(map(str, expert_files(path)))}")
        return
    if Path(config.checkpoint).is_dir():
        for camera, expert in expert_files(Path(config.checkpoint)).items():
            config.path = str(path.with_stem(f"{path.stem}-c{camera}"))
            config.checkpoint = str(expert)
            export_run(config)
        return
    is_pt = config.consumer == "boxmot" and path.suffix == ".pt"
    takes = asdict(GraphOptions("imagenet")) if is_pt else config.feeds  # a .pt has no options
    for key, value in takes.items():
        if config[key] != value:
            file = f"a {path.suffix} file for {config.consumer}"
            raise InputError(f"{key}={config[key]}: {file} takes {value}.", **{key: value})
    if path.exists() and path.suffix in (".onnx", ".pt"):
        raise InputError(f"path={path} exists; type another path=, or remove the file.")
    checkpoint = read_checkpoint(config.checkpoint)
    note(f"Exporting {config.checkpoint}, and comparing the file with PyTorch")
    if is_pt:
        write_pt(checkpoint.module(), path)
        show(f"Written to {path}")
    else:
        _export(config, form, checkpoint, path)


def _export(config: DictConfig, form: GraphOptions, checkpoint: Checkpoint, path: Path) -> None:
    """Write an ONNX file, and show what the program is to be given."""
    module, split = checkpoint.module(), checkpoint.provenance.split
    notes = {"checkpoint": checkpoint.path, **decision_notes(checkpoint)}
    notes |= {"split": str(split)} if split else {}
    notes |= sidecar_note(module, checkpoint.path) if config.consumer == "boxmot" else {}
    parity = export_onnx(module, path, notes=notes, **asdict(form))
    if config.consumer == "boxmot":
        write_text(f"{path}.metadata.json", sidecar(path))
    (height, width), (name, pixels) = module.config.image_size, PIXELS[config.input][:2]
    batch = "N" if config.batch == "dynamic" else config.batch
    labels = "without labels" if module.labels.is_anonymous else "identities in the metadata"
    how = f"{config.input}, {config.channels.upper()} in {pixels}, {config.size} size"
    show(
        f"ONNX   {module.config.name}, opset {OPSET}, {len(module.labels)} rows, {labels}",
        f"Input  {name} ({batch}, 3, {height}, {width}) {how}",
        *(f"Parity {k}: onnxruntime differs by {x:.1e} of the norm" for k, x in parity.items()),
        f"Written to {path}",
    )
    if config.paste:
        dim = len(json.loads(read_metadata(path)["test_features"]))
        places = {"path": path.resolve(), "batch": 100 if batch == "N" else batch, "dim": dim}
        show(config.paste.format(height=height, width=width, **places).rstrip())
