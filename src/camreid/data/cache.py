"""Decoded images in memory-mapped files, one for each image folder, or in memory."""

import hashlib
import json
import math
import os
import shutil
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from filelock import FileLock

from camreid.data.dataset import Interpolation, Located, Pixels, read_image
from camreid.errors import InputError
from camreid.files import read_plain, write_whole
from camreid.progress import Progress

Kind = Literal["disk", "memory", "none"]
Stamps = dict[str, Any]  # size in bytes and modification time in ns of each image, by name
_FORMAT, _AHEAD = 2, 512  # of the files; images decoded before they are written
_MOST = 64  # folders with a file of their own


class _Folder(NamedTuple):
    stamps: Stamps
    pixels: Pixels  # in the order of `stamps`

    def has(self, stamps: Stamps) -> bool:
        return all(stamp and self.stamps.get(name) == stamp for name, stamp in stamps.items())


_EMPTY = _Folder({}, np.empty(0, np.uint8))


@dataclass(frozen=True)
class ImageCache:
    """Images of one size, decoded once by `read_image`; processes and runs share the files.

    A file is of one image folder, or of more than 64. If an image is new or has changed, the file
    is written anew, with the pixels of the others. One with a wrong checksum is not read.
    """

    size: tuple[int, int]  # (H, W) in pixels
    interpolation: Interpolation
    folder: str | Path | None = None  # None for `camreid` in XDG_CACHE_HOME, by default ~/.cache
    in_memory: bool = False  # keep the pixels in this process and its forks, without files
    _folders: dict[str, _Folder] = field(default_factory=dict, init=False, repr=False)
    _roots: list[str] = field(default_factory=list, init=False, repr=False)

    def locate(self, paths: Sequence[str]) -> Located:
        """The pixels of these images; InputError if an image or a file makes that fail."""
        folders: dict[str, dict[int, str]] = defaultdict(dict)  # name of each path, by its place
        if len(used := {os.path.dirname(path) for path in paths}) > _MOST:
            self._roots.append(os.path.commonpath(used))
        for place, path in enumerate(paths):
            root = next((r for r in self._roots if path.startswith(r + os.sep)), None)
            folder = os.path.dirname(path) if root is None else root
            folders[folder][place] = path[len(folder) :].lstrip(os.sep)
        where, files = np.empty((len(paths), 2), np.int64), []
        for number, (folder, names) in enumerate(folders.items()):
            found = self._open(os.path.realpath(folder), names.values())
            places = {name: place for place, name in enumerate(found.stamps)}
            where[list(names)] = [(number, places[name]) for name in names.values()]
            files.append(found.pixels)
        return files, where

    def _open(self, folder: str, names: Collection[str]) -> _Folder:
        found = self._folders.get(folder, _EMPTY)
        if not found.stamps.keys() >= set(names):
            stamps = _stamps(folder, names)
            try:
                found = (self._in_memory if self.in_memory else self._on_disk)(folder, stamps)
            except (OSError, MemoryError) as error:
                raise self._refusal(str(error)) from error
            self._folders[folder] = found
        return found

    def _in_memory(self, folder: str, stamps: Stamps) -> _Folder:
        image = np.dtype((np.uint8, (3, *self.size)))
        return _Folder(stamps, np.fromiter(self._pixels(folder, stamps), image, len(stamps)))

    def _on_disk(self, folder: str, stamps: Stamps) -> _Folder:
        """The file with all images as they are now; only one process writes it."""
        key = [_FORMAT, folder, *self.size, self.interpolation]
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        path = self._home() / f"{os.path.basename(folder)}-{digest}.images"
        path.parent.mkdir(0o775, parents=True, exist_ok=True)
        if os.name == "posix" and path.parent.stat().st_mode & 0o002:
            raise self._refusal(f"all users may write there; type chmod o-w {path.parent}")
        if (file := self._read(path, key)).has(stamps):
            return file
        with FileLock(path.with_suffix(".lock")):
            old = self._read(path, key)
            if not old.has(stamps):
                for draft in path.parent.glob(f".{path.name}.*.part"):
                    draft.unlink()  # of a killed process, which no longer holds the lock
                now = _stamps(folder, old.stamps)
                kept = {name: stamp for name, stamp in now.items() if stamp == old.stamps[name]}
                write_whole(path, lambda draft: self._write(draft, key, kept | stamps, old))
            return self._read(path, key)

    def _read(self, path: Path, key: list[Any]) -> _Folder:
        """A file; empty if it is missing, cut short, damaged or of another folder."""
        with suppress(OSError, ValueError, TypeError):
            with (path if path.is_file() else Path(os.devnull)).open("rb") as file:  # never a FIFO
                line = file.readline()
            digest, _, text = line.partition(b" ")
            if digest != hashlib.sha256(text).hexdigest().encode():
                return _EMPTY
            own, stamps = read_plain(text)
            size = math.prod(shape := (len(stamps), 3, *self.size))
            if own == key and path.stat().st_size == len(line) + size + 4 * len(stamps):
                content = np.asarray(np.memmap(path, np.uint8, "r", len(line)))
                pixels = content[:size].reshape(shape)
                with ThreadPoolExecutor(cores()) as pool:  # 1.6 GB/s a core
                    found = b"".join(pool.map(_sums, np.array_split(pixels, 64)))
                if found == content[size:].tobytes():
                    return _Folder(dict(stamps), pixels)
        return _EMPTY

    def _write(self, draft: Path, key: list[Any], stamps: Stamps, old: _Folder) -> None:
        text = json.dumps([key, stamps]).encode() + b"\n"
        line = hashlib.sha256(text).hexdigest().encode() + b" " + text
        needed = len(line) + len(stamps) * (math.prod((3, *self.size)) + 4)
        if needed > (free := shutil.disk_usage(draft.parent).free):
            raise self._refusal(f"{needed:,} bytes are needed, {free:,} are free")
        with draft.open("wb") as file:
            file.write(line)
            sums = b""
            for pixels in self._pixels(key[1], stamps, old):
                file.write(pixels.data)
                sums += _sums([pixels])
            file.write(sums)  # which also show what a power failure lost

    def _pixels(self, folder: str, stamps: Stamps, old: _Folder = _EMPTY) -> Iterator[Pixels]:
        places = {name: place for place, name in enumerate(old.stamps)}

        def pixels_of(name: str) -> Any:
            if name in places and old.stamps[name] == stamps[name]:
                return old.pixels[places[name]]
            image = read_image(os.path.join(folder, name), self.size, self.interpolation)
            return np.ascontiguousarray(image)

        names = list(stamps)
        with ThreadPoolExecutor(cores()) as pool:
            parts = (names[start : start + _AHEAD] for start in range(0, len(names), _AHEAD))
            decoded = (pixels for part in parts for pixels in pool.map(pixels_of, part))
            yield from Progress(decoded, f"Caching {folder}", total=len(names), unit="image")

    def _home(self) -> Path:
        default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "camreid"
        return Path(self.folder or default).expanduser()

    def _refusal(self, reason: str) -> InputError:
        if self.in_memory:
            return InputError(f"cache=memory: too little for the images ({reason}).", cache="none")
        place = f"cache=disk: images can't be kept in {self._home()} ({reason})"
        return InputError(f"{place}. Use another cache_dir=, or cache=none.", cache="memory")


def _sums(images: Iterable[Pixels]) -> bytes:
    return b"".join(zlib.crc32(pixels.data).to_bytes(4, "big") for pixels in images)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _stamps(folder: str, names: Collection[str]) -> Stamps:
    stamps: Stamps = dict.fromkeys(names)
    for name in names:
        with suppress(OSError):  # reading a missing image explains it
            status = os.stat(os.path.join(folder, name))
            stamps[name] = [status.st_size, status.st_mtime_ns]
    return stamps
