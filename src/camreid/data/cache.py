"""Decoded images in memory-mapped files, one for each image folder."""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from camreid.data.dataset import Interpolation, Located, Pixels, read_image
from camreid.errors import InputError
from camreid.files import write_whole

Kind = Literal["disk", "memory", "none"]
Stamps = dict[str, Any]  # size in bytes and modification time in ns of each image, by name
_FORMAT, _AHEAD = 1, 512  # of the files; images decoded before they are written


class _File(NamedTuple):
    path: Path
    stamps: Stamps
    pixels: Pixels  # in the order of `stamps`

    def has(self, stamps: Stamps) -> bool:
        return all(stamp and self.stamps.get(name) == stamp for name, stamp in stamps.items())


@dataclass(frozen=True)
class ImageCache:
    """Images of one size, decoded once by `read_image`; processes and runs share the files.

    A file is of one image folder, size and interpolation. If it lacks an image, or an image has
    changed, it is written anew; pixels of unchanged images are copied.

    Attributes:
        size: (H, W) in pixels.
        interpolation: of the resize.
        folder: of the files; None for `camreid` in XDG_CACHE_HOME, which is ~/.cache by default.
        in_memory: keep the files in shared memory, until `release`.
    """

    size: tuple[int, int]
    interpolation: Interpolation
    folder: str | Path | None = None
    in_memory: bool = False
    _files: dict[str, _File] = field(default_factory=dict, init=False, repr=False)

    def locate(self, paths: Sequence[str]) -> Located:
        """Open the files of these images; InputError if an image or a file makes that fail."""
        folders: dict[str, dict[int, str]] = defaultdict(dict)  # name of each path, by its place
        for place, path in enumerate(paths):
            folder, _, name = path.rpartition(os.sep)
            folders[folder or os.sep * path.startswith(os.sep)][place] = name
        where, files = np.empty((len(paths), 2), np.int64), []
        for number, (folder, names) in enumerate(folders.items()):
            file = self._open(os.path.realpath(folder), names.values())
            places = {name: place for place, name in enumerate(file.stamps)}
            where[list(names), 0] = number
            where[list(names), 1] = [places[name] for name in names.values()]
            files.append(file.pixels)
        return files, where

    def release(self) -> None:
        """Unlink files in shared memory; they are freed when the last process has ended."""
        for file in self._files.values() if self.in_memory else ():
            file.path.unlink(missing_ok=True)

    def _open(self, folder: str, names: Collection[str]) -> _File:
        file = self._files.get(folder)
        if file is None or not file.stamps.keys() >= set(names):
            stamps = _stamps(folder, names)
            key = [_FORMAT, folder, *self.size, self.interpolation]
            path = self._path(key, len(names))
            try:
                file = self._files[folder] = self._built(path, key, stamps)
            except OSError as error:
                raise self._refusal(path, str(error)) from error
        return file

    def _path(self, key: list[Any], images: int) -> Path:
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        name = f"{os.path.basename(key[1])}-{digest}.images"
        if not self.in_memory:
            default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "camreid"
            return Path(self.folder or default).expanduser() / name
        shared = Path("/dev/shm")
        if not shared.is_dir() or shutil.disk_usage(shared).total < images * self._bytes:
            shared = Path(tempfile.gettempdir())
        return shared / f"camreid-{Path(os.path.expanduser('~')).name}-{name}"

    @property
    def _bytes(self) -> int:
        return 3 * self.size[0] * self.size[1]

    def _built(self, path: Path, key: list[Any], stamps: Stamps) -> _File:
        """The file with all images as they are now; only one process writes it."""
        if (file := self._read(path, key)).has(stamps):
            return file
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_suffix(".lock")
        with FileLock(lock), ExitStack() as end:
            if self.in_memory:
                end.callback(lock.unlink, missing_ok=True)
            old = self._read(path, key)
            if not old.has(stamps):
                for draft in path.parent.glob(f".{path.name}.*.part"):
                    draft.unlink()  # of a killed process, which no longer holds the lock
                now = _stamps(key[1], old.stamps)
                kept = {name: stamp for name, stamp in now.items() if stamp == old.stamps[name]}
                write_whole(path, lambda draft: self._write(draft, key, kept | stamps, old))
            return self._read(path, key)

    def _read(self, path: Path, key: list[Any]) -> _File:
        """A file; without images if it is missing, cut short, damaged or of another folder."""
        line = b""
        with suppress(OSError), path.open("rb") as file:
            line = file.readline()
        digest, _, text = line.partition(b" ")
        if digest == hashlib.sha256(text).hexdigest().encode():
            own, stamps = json.loads(text)
            if own == key and path.stat().st_size == len(line) + len(stamps) * self._bytes:
                pixels = np.memmap(path, np.uint8, "r", len(line), (len(stamps), 3, *self.size))
                return _File(path, stamps, np.asarray(pixels))
        return _File(path, {}, np.empty((0, 3, *self.size), np.uint8))

    def _write(self, draft: Path, key: list[Any], stamps: Stamps, old: _File) -> None:
        text = json.dumps([key, stamps]).encode() + b"\n"
        line = hashlib.sha256(text).hexdigest().encode() + b" " + text
        needed, free = len(line) + len(stamps) * self._bytes, shutil.disk_usage(draft.parent).free
        if needed > free:
            raise self._refusal(draft, f"{needed:,} bytes are needed, {free:,} are free")
        title = f"Caching {key[1]}"
        if not sys.stderr.isatty():
            print(f"{title}: {len(stamps):,} images, {needed / 1e9:.2f} GB", file=sys.stderr)
        with draft.open("wb") as file:
            file.write(line)
            decoded = self._pixels(key[1], stamps, old)
            for pixels in tqdm(decoded, title, len(stamps), unit="image", delay=1, disable=None):
                file.write(pixels.data)
            file.flush()
            os.fsync(file.fileno())

    def _pixels(self, folder: str, stamps: Stamps, old: _File) -> Iterator[Pixels]:
        places = {name: place for place, name in enumerate(old.stamps)}

        def pixels_of(name: str) -> Any:
            if name in places and old.stamps[name] == stamps[name]:
                return old.pixels[places[name]]
            image = read_image(os.path.join(folder, name), self.size, self.interpolation)
            return np.ascontiguousarray(image)

        names = list(stamps)
        with ThreadPoolExecutor(cores()) as pool:
            for start in range(0, len(names), _AHEAD):
                yield from pool.map(pixels_of, names[start : start + _AHEAD])

    def _refusal(self, path: Path, reason: str) -> InputError:
        return InputError(
            f"cache={'memory' if self.in_memory else 'disk'}: decoded images cannot be written to "
            f"{path.parent} ({reason}). cache_dir= names another folder, cache=memory keeps them "
            "for this run only, cache=none decodes them again in each epoch.",
            cache="none" if self.in_memory else "memory",
        )


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _stamps(folder: str, names: Collection[str]) -> Stamps:
    stamps: Stamps = dict.fromkeys(names)
    with suppress(OSError), os.scandir(folder) as entries:  # reading an image explains it
        for entry in entries:
            if entry.name in stamps and entry.is_file():  # not a broken link
                status = entry.stat()
                stamps[entry.name] = [status.st_size, status.st_mtime_ns]
    return stamps
