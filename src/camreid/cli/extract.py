"""camreid-extract: the features of images as a file."""

import csv
import glob
import shutil
from pathlib import Path

from omegaconf import DictConfig

from camreid.cli.checkpoints import read_checkpoint
from camreid.cli.terminal import show
from camreid.data.formats import is_hidden, is_image
from camreid.errors import InputError
from camreid.gallery import Gallery, require_format
from camreid.inference import FeatureExtractor
from camreid.progress import Progress

CHUNK = 1024  # images between two savings
Cameras = list[int | None] | None


def extract_run(config: DictConfig) -> None:
    """Extract in chunks, which the same command reads again after an interruption."""
    output = require_format(Path(str(config.output)).expanduser())
    if output.exists():
        raise InputError(f"output={output} exists; type another output=, or remove the file.")
    paths, cameras = list_files(Path(str(config.images)).expanduser())
    names = ("device", "batch_size", "workers", "flip", "neck", "precision")
    how = {name: config[name] for name in names}
    extractor = FeatureExtractor(read_checkpoint(config.checkpoint).module(), **how)
    notes = {"checkpoint": str(config.checkpoint), "flip": config.flip, "neck": config.neck}
    parts = output.with_name(f"{output.name}.parts")
    found = Gallery(extractor.source, notes=notes)
    with Progress(None, "Features", total=len(paths), unit="image") as bar:
        for start in range(0, len(paths), CHUNK):
            own, file = paths[start : start + CHUNK], parts / f"{start:09}.safetensors"
            part = Gallery.load(file) if file.is_file() else Gallery()
            if (part.source, part.notes, [*part.names]) != (found.source, notes, own):
                part = Gallery(extractor.source, notes=notes)
                part.add(extractor(own, cameras and cameras[start : start + CHUNK]), own)
                part.save(file)
            found.add(part.features, own)
            bar.update(len(own))
    found.save(output)
    shutil.rmtree(parts)
    show(f"Written to {output}: {len(found):,} x {found.features.shape[1]}, of {found.source}")


def list_files(images: Path) -> tuple[list[str], Cameras]:
    """The images of a folder, pattern or CSV, in order; their cameras where a CSV has them."""
    if images.suffix == ".csv":
        return _of_csv(images)
    found = images.rglob("*") if images.is_dir() else map(Path, glob.glob(str(images)))
    files = [p for p in found if is_image(p.name) and not is_hidden(p.name)]
    if not files:
        raise InputError(f"images={images}: expected a folder, a pattern or a CSV of images.")
    return sorted(map(str, files)), None


def _of_csv(path: Path) -> tuple[list[str], Cameras]:
    """Paths are relative to the folder of the CSV; an empty camera is an unknown one."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        files = [str(path.parent / row["path"]) for row in rows]
        cameras = [int(row["camera"] or 0) or None for row in rows if "camera" in row]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise InputError(
            f"images={path}: expected a UTF-8 CSV with the column path, and optionally camera, a "
            f"number from 1 ({error!r})."
        ) from error
    lost = [name for name in files if not Path(name).is_file()]
    if lost or not files:
        raise InputError(f"images={path}: {len(lost)} of {len(files)} files are lost: {lost[:3]}.")
    return files, cameras or None
