"""A folder of experts: one checkpoint for each camera, and `experts.json`, which lists them."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from camreid.checkpoints import io
from camreid.errors import InputError
from camreid.files import read_plain, write_whole
from camreid.training.module import ReIDModule

INDEX = "experts.json"


@dataclass(frozen=True)
class Experts:
    """The models of a folder by the camera of their last training, 1-based."""

    modules: Mapping[int, ReIDModule]


def save_experts(folder: str | Path, paths: Iterable[str | Path]) -> None:
    """Copy checkpoints of one camera each to a new folder, as `c3.ckpt`; InputError for others."""
    folder, by_camera = Path(folder), dict[int, str | Path]()
    if folder.exists():
        raise InputError(f"{folder} exists; type another folder.")
    for path in paths:
        camera = io.read_checkpoint(path).provenance.camera
        if camera is None or camera in by_camera:
            found = f"is of camera {camera}, as {by_camera[camera]}" if camera else "has no camera"
            raise InputError(f"{path} {found}: expected one expert for each camera.")
        by_camera[camera] = path

    def write(draft: Path) -> None:
        listed = []
        draft.unlink()  # a folder in place of the file
        draft.mkdir()
        for camera, path in sorted(by_camera.items()):
            copy = Path(shutil.copyfile(path, draft / f"c{camera}.ckpt"))
            digest = hashlib.sha256(copy.read_bytes()).hexdigest()
            listed.append({"file": copy.name, "camera": camera, "sha256": digest})
        (draft / INDEX).write_text(json.dumps(listed, indent=2), encoding="utf-8")

    write_whole(folder, write)


def load(path: str | Path, *args: Any, **kwargs: Any) -> ReIDModule | Experts:
    """`io.load` of a checkpoint, or of each expert of a folder that `save_experts` wrote."""
    if not Path(path).is_dir():
        return io.load(path, *args, **kwargs)
    return Experts({c: io.load(f, *args, **kwargs) for c, f in expert_files(Path(path)).items()})


def expert_files(folder: Path) -> dict[int, Path]:
    """The checkpoint of each camera; InputError if one is missing or has changed."""
    try:
        entries = read_plain((folder / INDEX).read_text(encoding="utf-8"))
        files = {int(e["camera"]): (folder / Path(e["file"]).name, e["sha256"]) for e in entries}
        if not files or len(files) < len(entries):
            raise ValueError(f"{len(entries)} entries of {len(files)} cameras")
    except (ArithmeticError, OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{folder} is no folder of experts: {INDEX}: {error!r}.") from error
    for camera, (file, digest) in files.items():
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            found = f"{file}, of camera {camera}, is missing or has changed"
            raise InputError(f"{found}. Copy it again.")
    return {camera: file for camera, (file, _) in files.items()}
