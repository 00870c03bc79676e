"""camreid-extract: the features of images as a file."""

import glob
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path

import torch
from omegaconf import DictConfig

from camreid.cli.checkpoints import read_checkpoint
from camreid.cli.terminal import show
from camreid.data.manifest import read_table
from camreid.data.records import is_hidden, is_image, require_files
from camreid.errors import InputError
from camreid.evaluation.features import doubts
from camreid.files import lock, unlock
from camreid.gallery import Gallery, require_format
from camreid.inference import FeatureExtractor
from camreid.progress import Progress

CHUNK = 1024  # images between two savings
_OPTIONS = ("device", "batch_size", "workers", "flip", "neck", "precision")


def extract_run(config: DictConfig) -> None:
    """Extract in chunks, which the same command reads again after an interruption."""
    output, checkpoint = require_format(Path(config.output).expanduser()), Path(config.checkpoint)
    _require_new(output)
    images, cameras = list_files(Path(config.images).expanduser())
    is_file = checkpoint.suffix != ".onnx" and not checkpoint.is_dir()
    model = read_checkpoint(checkpoint).module() if is_file else checkpoint
    extractor = FeatureExtractor(model, **{name: config[name] for name in _OPTIONS})
    if extractor.experts or not extractor.network.cameras:
        cameras = None  # experts are comparable side by side
    parts, features, held = output.with_name(f"{output.name}.parts"), [], False
    bar = Progress(None, "Features", total=len(images), unit="image")
    with bar, ExitStack() as stack:
        for start in range(0, len(images), CHUNK):
            own, seen = images[start : start + CHUNK], cameras and cameras[start : start + CHUNK]
            form = repr((extractor.source, own, seen, config.flip, config.precision)).encode()
            file = parts / f"{start:09}-{sha256(form).hexdigest()[:16]}.safetensors"
            part = Gallery.load(file) if file.is_file() else Gallery(extractor.source)
            if not len(part):
                part.add(extractor(own, seen), own)
                _require_new(output)  # another command may have ended by now
                held = held or stack.enter_context(_hold(parts))
                part.save(file)
            features.append(part.features)
            bar.update(len(own))
    found = Gallery(extractor.source)
    found.add(torch.cat(features), images)
    found.save(output)
    for file in parts.glob(f"{'?' * 9}-{'?' * 16}.safetensors"):
        file.unlink()
    with suppress(OSError):  # the folder has other files
        parts.rmdir()
    written = f"Written to {output}: {len(found):,} x {found.features.shape[1]}, of {found.source}"
    show(*doubts(extracted=found.features), written)


def _require_new(output: Path) -> None:
    if output.exists():
        raise InputError(f"output={output} exists; type another output=, or remove the file.")


@contextmanager
def _hold(parts: Path) -> Iterator[bool]:
    """Lock the folder of the chunks; remove it if it stays empty."""
    parts.mkdir(parents=True, exist_ok=True)
    try:
        handle = lock(parts)
    except BlockingIOError:
        raise InputError(f"another command writes {parts.stem}; type another output=.") from None
    try:
        yield True
    finally:
        unlock(handle)
        with suppress(OSError):
            parts.rmdir()


def list_files(images: Path) -> tuple[list[str], list[int | None] | None]:
    """The images of a folder, pattern or CSV, in order; their cameras where a CSV has them."""
    is_table = images.suffix == ".csv" and images.is_file()
    if lines := [line for _, line in read_table(images, ("path",))] if is_table else []:
        files = [str(images.parent / line["path"]) for line in lines]
        require_files(files, images)
        try:
            cameras = [int(line["camera"] or 0) or None for line in lines if "camera" in line]
        except ValueError as error:
            raise InputError(f"{images}: {error}; a camera is a number from 1.") from error
        return files, cameras or None
    inner = (p for p in images.rglob("*") if not any(map(is_hidden, p.relative_to(images).parts)))
    found = inner if images.is_dir() else map(Path, glob.glob(str(images)))
    files = sorted(str(p) for p in found if is_image(p.name) and not is_hidden(p.name))
    if not files:
        raise InputError(f"images={images}: expected a folder, a pattern or a CSV of images.")
    return files, None
