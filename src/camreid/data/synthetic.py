"""A rendered dataset in the layout, the names and the unevenness of Market-1501."""

import hashlib
import json
import math
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from camreid.data import rendering
from camreid.data.records import FOLDERS, GALLERY, GRAMMAR, QUERY, TRAIN, parse_name
from camreid.errors import CannotWrite, InputError, require_number, require_whole
from camreid.files import lock, unlock, write_whole
from camreid.progress import Progress

_SEEN = {1: 652, 2: 541, 3: 694, 4: 241, 5: 576, 6: 558}  # of 751 train identities, by camera
_MOST_PER_CAMERA = 44
_SPREAD = 0.7  # of the logarithm of images per identity and camera; officially 1..44, median 3


@dataclass(frozen=True)
class SyntheticMarket:
    """A rendered dataset in the Market-1501 layout; the same parameters give the same bytes.

    >>> SyntheticMarket(people=12, images_per_person=6).files()[-1]
    'query/0793_c6s5_010280_00.jpg'
    """

    people: int = 240  # labelled identities in all; half of them are in the official train set
    images_per_person: float = 14.0  # mean, about; each camera of an identity takes one or more
    distractors: int = 200  # images of pid 0 in the gallery
    junk: int = 100  # images of pid -1 in the gallery
    seed: int = 0  # of everything
    # a text file of image names, one per line: exactly these are rendered, into
    # `bounding_box_train/` unless a line names another folder (`query/0002_c1s1_...jpg`)
    names: str | None = None

    def __post_init__(self) -> None:
        require_whole("people", self.people, least=12)
        require_number("images_per_person", self.images_per_person, 5, _MOST_PER_CAMERA)
        for name in ("distractors", "junk", "seed"):
            require_whole(name, getattr(self, name), least=0)

    @property
    def digest(self) -> str:
        """Hash of the renderer's version, the seed and the names, which decide about all bytes."""
        text = json.dumps([rendering.VERSION, self.seed, self.files()])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def files(self) -> list[str]:
        """The images as `folder/name.jpg`, sorted."""
        return sorted(_drawn(self) if self.names is None else _listed(self.names))

    def render(self, root: str | Path) -> Path:
        """Write the tree, all at once, to `root/synthetic-<digest>` unless it is there."""
        final = Path(root) / f"synthetic-{self.digest}"
        final.parent.mkdir(parents=True, exist_ok=True)
        held = lock(final.parent, wait=True)  # one renders, the others wait for it
        for left in final.parent.glob(f".{final.name}.*.part") if held >= 0 else ():
            shutil.rmtree(left, ignore_errors=True)  # of a killed process
        try:
            if not final.is_dir():
                write_whole(final, self._draw)
        except CannotWrite:
            if not final.is_dir():  # it is, where another process was faster
                raise
        finally:
            unlock(held)
        return final

    def _draw(self, draft: Path) -> None:
        draft.unlink()  # a folder in place of the file
        for part in FOLDERS:
            (draft / part).mkdir(parents=True)
        for file in Progress(self.files(), "Rendering", unit="image"):
            record = parse_name(file)
            assert record is not None  # files() checked or made it
            (draft / file).write_bytes(rendering.render_jpeg(self.seed, record))


def _listed(path: str) -> set[str]:
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"names={path} cannot be read ({error}).") from error
    files = set()
    for number, line in ((n, line.strip()) for n, line in enumerate(lines, 1) if line.strip()):
        folder, _, base = line.rpartition("/")
        if parse_name(base) is None or not base.endswith(".jpg") or folder not in ("", *FOLDERS):
            expected = f"{GRAMMAR}, alone or in one of {', '.join(FOLDERS)}"
            raise InputError(f"line {number} of names={path} is {line!r}; expected {expected}.")
        files.add(f"{folder or TRAIN}/{base}")
    if not files:
        raise InputError(f"names={path} is empty; expected one image name per line, {GRAMMAR}.")
    return files


def _drawn(market: SyntheticMarket) -> Iterator[str]:
    rng = random.Random(f"market {market.seed}")
    pids = rng.sample(range(1, max(1501, market.people) + 1), market.people)
    half = market.people // 2
    for part, folder in ((pids[:half], TRAIN), (pids[half:], GALLERY)):
        pairs = _pairs(part, rng)
        mean = math.log(market.images_per_person * len(part) / len(pairs)) - _SPREAD**2 / 2
        for pid, camera in pairs:
            images = min(_MOST_PER_CAMERA, max(1, round(rng.lognormvariate(mean, _SPREAD))))
            start, sequence = rng.randrange(100_000), rng.randint(1, 6)
            for index in range(images):  # of a test identity, the first one is the query
                place = QUERY if folder == GALLERY and index == 0 else folder
                name = f"{pid:04d}_c{camera}s{sequence}_{start + 25 * index:06d}"
                yield f"{place}/{name}_{0 if place == QUERY else rng.randint(1, 5):02d}.jpg"
    for label, count in (("0000", market.distractors), ("-1", market.junk)):
        for frame in rng.sample(range(max(100_000, count)), count):
            camera, sequence, box = rng.randint(1, 6), rng.randint(1, 6), rng.randint(1, 5)
            yield f"{GALLERY}/{label}_c{camera}s{sequence}_{frame:06d}_{box:02d}.jpg"


def _pairs(pids: list[int], rng: random.Random) -> list[tuple[int, int]]:
    """Which identities each camera sees: the official share, and two cameras for each identity."""
    pairs = {(p, c) for c, n in _SEEN.items() for p in rng.sample(pids, round(n * len(pids) / 751))}
    for pid in pids:
        if sum((pid, camera) in pairs for camera in _SEEN) < 2:
            pairs.update({(pid, 1), (pid, 3)})
    return sorted(pairs)
