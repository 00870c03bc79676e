"""A rendered dataset in the layout, the names and the unevenness of Market-1501.

Nothing has to be downloaded: demos, tests and benchmarks run on real JPEG files of stylised people.
Who appears where follows the official training set: of its 751 people cameras 1..6 see 652, 541,
694, 241, 576 and 558, in 1..44 (median 3) images each.
"""

import hashlib
import json
import math
import multiprocessing
import os
import random
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from statistics import NormalDist

from tqdm import tqdm

from camreid.data import rendering
from camreid.data.records import (
    DISTRACTOR,
    FOLDERS,
    GALLERY,
    GRAMMAR,
    JUNK,
    QUERY,
    TRAIN,
    parse_name,
)
from camreid.errors import InputError

_FEWEST_PEOPLE = 12
_FEWEST_IMAGES = 5.0  # a person is seen by 4.3 cameras on average
_MOST_PER_CAMERA = 44
_HIGHEST_PID = 1501
_SEQUENCES = 6
_CHUNK = 64  # images per task of a worker
_ONE_PROCESS = 500  # fewer images than this are not worth starting workers

# The cameras that see a person, and how many of the 751 official training people they see.
_SEEN_BY = {
    "12": 3, "13": 2, "14": 17, "15": 2, "23": 12, "24": 6, "26": 1, "35": 1, "36": 6, "123": 21,
    "124": 8, "126": 2, "134": 1, "135": 8, "136": 1, "145": 5, "234": 1, "235": 4, "236": 48,
    "245": 1, "256": 1, "356": 3, "456": 1, "1234": 3, "1235": 40, "1236": 41, "1245": 8,
    "1256": 1, "1345": 17, "1346": 1, "1356": 90, "2345": 1, "2356": 10, "3456": 2, "12345": 32,
    "12346": 1, "12356": 213, "12456": 1, "13456": 53, "23456": 1, "123456": 81,
}  # fmt: skip


@dataclass(frozen=True)
class SyntheticMarket:
    """A rendered dataset in the Market-1501 layout; the same parameters give the same bytes.

    Attributes:
        people: labelled people in all; half of them are in the official train set.
        images_per_person: their mean, about: every camera that sees a person takes one or more.
        distractors: images of pid 0 in the gallery: other people, bad boxes, empty scenes.
        junk: images of pid -1 in the gallery: parts of people.
        seed: of everything; 0 counts.
        names: a text file of image names, one per line. If given, exactly these are rendered: into
            `bounding_box_train/`, unless a line names another folder (`query/0002_c1s1_...jpg`),
            and the other parameters but `seed` count for nothing.

    >>> SyntheticMarket(people=12, images_per_person=6).files()[-1]
    'query/0793_c5s3_021821_00.jpg'
    """

    people: int = 240
    images_per_person: float = 14.0
    distractors: int = 200
    junk: int = 100
    seed: int = 0
    names: str | None = None

    def __post_init__(self) -> None:
        if self.people < _FEWEST_PEOPLE:
            raise InputError(
                f"data.render.people={self.people} is too few: one half is trained on, the other "
                f"is tested. Set data.render.people={_FEWEST_PEOPLE} or more"
            )
        if not _FEWEST_IMAGES <= self.images_per_person <= _MOST_PER_CAMERA:
            raise InputError(
                f"data.render.images_per_person={self.images_per_person} is outside "
                f"{_FEWEST_IMAGES:g}..{_MOST_PER_CAMERA}: four or five cameras see a person. "
                "Set data.render.images_per_person=14"
            )
        for field in ("distractors", "junk"):
            if getattr(self, field) < 0:
                raise InputError(
                    f"data.render.{field}={getattr(self, field)} is negative; a number of images "
                    f"was expected. Set data.render.{field}=0 for none"
                )

    @property
    def digest(self) -> str:
        """A short hash of all that decides about the bytes: parameters, names, renderer version."""
        parameters = asdict(self)
        if self.names is not None:
            parameters = {"seed": self.seed, "names": self.files()}
        text = json.dumps([rendering.VERSION, parameters], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def files(self) -> list[str]:
        """The images as `folder/name.jpg`, sorted."""
        if self.names is not None:
            return _listed(self.names)
        return sorted(_drawn(self))

    def render(self, root: str | Path, workers: int | None = None) -> Path:
        """Write the tree to `root/synthetic-<digest>` unless it is there, and return that folder.

        The tree appears all at once: an interrupted render leaves nothing that looks complete, and
        of several processes that render the same the first wins.

        Args:
            root: where rendered datasets are kept; made if missing.
            workers: processes; None for one per core, and one alone for a few hundred images.
        """
        final = Path(root) / f"synthetic-{self.digest}"
        if final.is_dir():
            return final
        final.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
        try:
            _write(unfinished, self.seed, self.files(), workers)
            unfinished.chmod(0o755)
            _publish(unfinished, final)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return final


def _publish(unfinished: Path, final: Path) -> None:
    """Give a finished tree its name, unless another process was faster."""
    try:
        unfinished.rename(final)
    except OSError:
        if not final.is_dir():
            raise


def _write(folder: Path, seed: int, files: Sequence[str], workers: int | None) -> None:
    for name in FOLDERS:
        (folder / name).mkdir()
    chunks = [(folder, seed, files[i : i + _CHUNK]) for i in range(0, len(files), _CHUNK)]
    with tqdm(
        total=len(files), desc="rendering people", unit="image", delay=2, disable=None
    ) as progress:
        for done in _rendered(chunks, _processes(len(files), workers)):
            progress.update(done)


def _processes(images: int, workers: int | None) -> int:
    cores = os.cpu_count() or 1
    if multiprocessing.current_process().daemon:  # has no children of its own
        return 1
    if workers is not None:
        return max(1, min(workers, cores))
    return 1 if images < _ONE_PROCESS else cores


def _rendered(chunks: Sequence[tuple[Path, int, Sequence[str]]], processes: int) -> Iterator[int]:
    """How many images each chunk had, as it is finished."""
    if processes == 1:
        yield from map(_render_chunk, chunks)
        return
    # A fork is up at once, where a spawned worker would import torch with camreid.data first. The
    # workers call Pillow alone and no lock of another thread's, so the warning does not apply.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
            results = pool.map(_render_chunk, chunks)
        yield from results


def _render_chunk(chunk: tuple[Path, int, Sequence[str]]) -> int:
    folder, seed, files = chunk
    for file in files:
        base = PurePosixPath(file).name
        name = parse_name(base)
        assert name is not None  # files() checked or made it
        (folder / file).write_bytes(rendering.render_jpeg(seed, base, name))
    return len(files)


def _listed(path: str) -> list[str]:
    """The images that a text file names, checked, without repeats."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"data.render.names={path} cannot be read ({error}). A text file with one image name "
            "per line was expected; data.render.names=null renders people of its own"
        ) from error
    files = {
        _file_of(line.strip(), path, number) for number, line in enumerate(lines, 1) if line.strip()
    }
    if not files:
        raise InputError(
            f"data.render.names={path} is empty, and one image name per line was expected, such as "
            f"{GRAMMAR}. data.render.names=null renders people of its own"
        )
    return sorted(files)


def _file_of(line: str, path: str, number: int) -> str:
    folder, _, base = line.rpartition("/")
    name = parse_name(base)
    if name is None or not base.endswith(".jpg") or name.camera < 1 or "\\" in base:
        raise InputError(
            f"line {number} of data.render.names={path} is {line!r}, which is not an image name. "
            f"Expected: {GRAMMAR}. Correct the line, or set data.render.names=null"
        )
    if folder not in ("", *FOLDERS):
        raise InputError(
            f"line {number} of data.render.names={path} puts its image into {folder!r}. Expected: "
            f"no folder, or one of {', '.join(FOLDERS)}. Correct the line"
        )
    return f"{folder or TRAIN}/{base}"


def _drawn(market: SyntheticMarket) -> Iterator[str]:
    """Names for a dataset of its own, in no order."""
    rng = random.Random(f"market {market.seed}")
    pids = rng.sample(range(1, max(_HIGHEST_PID, market.people) + 1), market.people)
    half = market.people // 2
    for part, folder in ((pids[:half], TRAIN), (pids[half:], GALLERY)):
        seen_by = _cameras(len(part), rng)
        pairs = [(pid, c) for pid, cameras in zip(part, seen_by, strict=True) for c in cameras]
        counts = _images(len(pairs), market.images_per_person * len(part) / len(pairs), rng)
        for (pid, camera), images in zip(pairs, counts, strict=True):
            yield from _track(folder, pid, camera, images, rng)
    for pid, count in ((DISTRACTOR, market.distractors), (JUNK, market.junk)):
        yield from _strays(pid, count, rng)


def _cameras(people: int, rng: random.Random) -> list[list[int]]:
    """Who is seen by which cameras, in the proportions of the official training set."""
    official = [[int(c) for c in cameras] for cameras, n in _SEEN_BY.items() for _ in range(n)]
    chosen = [official[int((i + 0.5) * len(official) / people)] for i in range(people)]
    return rng.sample(chosen, people)


def _images(pairs: int, mean: float, rng: random.Random) -> list[int]:
    """Images of each pair of person and camera: log-normal, officially 1..44 with a median of 3."""
    spread = 0.7
    logarithm = NormalDist(math.log(mean) - spread**2 / 2, spread)
    images = (math.exp(logarithm.inv_cdf((i + 0.5) / pairs)) for i in range(pairs))
    return rng.sample([min(_MOST_PER_CAMERA, max(1, round(n))) for n in images], pairs)


def _track(folder: str, pid: int, camera: int, images: int, rng: random.Random) -> Iterator[str]:
    """Images of a person who passes a camera; of a test person the first is the query."""
    start, sequence = rng.randrange(100_000), rng.randint(1, _SEQUENCES)
    for index in range(images):
        place = QUERY if folder == GALLERY and index == 0 else folder
        box = 0 if place == QUERY else rng.randint(1, 5)
        yield f"{place}/{pid:04d}_c{camera}s{sequence}_{start + 25 * index:06d}_{box:02d}.jpg"


def _strays(pid: int, count: int, rng: random.Random) -> Iterable[str]:
    """Gallery images of nobody in particular."""
    label = "-1" if pid == JUNK else "0000"
    for frame in rng.sample(range(max(100_000, count)), count):
        camera, sequence = rng.randint(1, 6), rng.randint(1, _SEQUENCES)
        yield f"{GALLERY}/{label}_c{camera}s{sequence}_{frame:06d}_{rng.randint(1, 5):02d}.jpg"
