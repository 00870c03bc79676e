"""The page: runs side by side, then each by itself, in one HTML file."""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from camreid import __version__
from camreid.errors import InputError
from camreid.evaluation.report import Evidence, percent
from camreid.reporting.figures import Chart, cmc_chart, roc_chart, training_charts
from camreid.reporting.measuring import Measured, measured
from camreid.reporting.ranked import KINDS, RankedList, Shown, ranked_lists
from camreid.reporting.reading import Run

# 600 pictures of some 3 kB keep a page below 3 MB
PICTURES = 600
_SHARES = {"mAP": "mAP", "rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10", "mINP": "mINP"}


@dataclass(frozen=True)
class Heat:
    """Camera pairs as a table whose cells are coloured: numbers by themselves, read by anyone.

    Attributes:
        title: of the number.
        cameras: of queries (rows) and gallery (columns).
        rows: shares, None where no query is valid.
    """

    title: str
    cameras: tuple[int, ...]
    rows: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class Section:
    """A run on the page.

    Attributes:
        name: its heading, unique on the page.
        anchor: its id.
        run: what its folder holds.
        found: its test ranked again, None without features.
        summary: its numbers, None where it was not tested.
        notes: what a reader should know.
        charts: of the training.
        heats: camera pairs.
        lists: ranked lists.
    """

    name: str
    anchor: str
    run: Run
    found: Measured | None
    summary: Mapping[str, Any] | None
    notes: tuple[str, ...]
    charts: tuple[Chart, ...]
    heats: tuple[Heat, ...]
    lists: tuple[RankedList, ...]

    @property
    def cameras(self) -> list[int]:
        """Of the queries that are shown."""
        return sorted({shown.query.camera for shown in self.lists})


def build_page(runs: Sequence[Run]) -> str:
    """The HTML of some runs; it fetches nothing."""
    names = _names([run.path for run in runs])
    sections = [
        _section(f"run-{number}", name, run, len(runs))
        for number, (name, run) in enumerate(zip(names, runs, strict=True))
    ]
    ranked = {s.name: s.found for s in sections if s.found is not None}
    curves = {name: found.plain.roc for name, found in ranked.items() if found.plain.roc}
    charts = [cmc_chart({n: f.headline for n, f in ranked.items()})] if ranked else []
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    return environment.get_template("page.html.j2").render(
        sections=sections,
        headline=[(label, [cells[label] for cells in map(_headline, sections)]) for label in _ROWS],
        charts=[*charts, roc_chart(curves)] if curves else charts,
        notes=comparison_notes(sections),
        kinds=KINDS,
        describe=describe,
        version=__version__,
    )


def write_page(path: Path, content: str) -> None:
    """Write a file, whole or not at all.

    Raises:
        InputError: it can't be written.
    """
    draft = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(content, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise InputError(
            f"{path} can't be written ({error.strerror}); type -o with a file in a folder that can "
            "be, such as -o report.html."
        ) from error


def _names(paths: Sequence[Path]) -> list[str]:
    """The folders' names, or their paths where two have one name."""
    short = [path.resolve().name for path in paths]
    return short if len(set(short)) == len(short) else [str(path) for path in paths]


def _section(anchor: str, name: str, run: Run, runs: int) -> Section:
    found, notes = measured(run.features, run.metrics)
    summary = run.metrics
    if summary is None and found is not None and run.features is not None:
        seen = frozenset(run.features.notes.get("seen", ()))
        summary = Evidence(found.headline, seen).summary()
    if (run.metrics or {}).get("partial"):
        notes += ("This test was on a part of the images only, so its numbers mean little.",)
    each = max(1, PICTURES // (11 * len(KINDS) * runs))
    lists = ranked_lists(found, min(each, 12)) if found else []
    return Section(
        name=name,
        anchor=anchor,
        run=run,
        found=found,
        summary=summary,
        notes=(*run.missing, *notes, *_lost(lists)),
        charts=tuple(training_charts(anchor, run.curves)),
        heats=_heats(found, summary),
        lists=tuple(lists),
    )


def _lost(lists: Iterable[RankedList]) -> tuple[str, ...]:
    """One sentence if pictures are not where the features say."""
    shown = [image for some in lists for image in (some.query, *some.gallery)]
    lost = [image for image in shown if image.picture is None]
    if not lost:
        return ()
    where = "the features name no files"
    if lost[0].path:
        where = f"such as {lost[0].path}, are not where features.safetensors says"
    return (
        f"{len(lost)} of {len(shown)} pictures are left out of the ranked lists: {where}. Put the "
        "dataset there, or run camreid-evaluate again with its data.root=.",
    )


def _heats(found: Measured | None, summary: Mapping[str, Any] | None) -> tuple[Heat, ...]:
    saved = (summary or {}).get("camera_pairs")
    if found is not None:
        pairs = found.pairs
        tables = {"mAP": pairs.mAP.tolist(), "Rank-1": pairs.rank1.tolist()}
        cameras = pairs.cameras
    elif saved is not None:
        tables = {"mAP": saved["mAP"], "Rank-1": saved["rank1"]}
        cameras = tuple(saved["cameras"])
    else:
        return ()
    return tuple(
        Heat(title, cameras, tuple(tuple(_finite(x) for x in row) for row in rows))
        for title, rows in tables.items()
    )


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


_ROWS = (
    *_SHARES.values(),
    "Queries",
    "Protocol",
    "Coverage",
    "Leak",
    "mAP, unseen people",
    "Split",
)


def _headline(section: Section) -> dict[str, str]:
    """The cells of a run by row."""
    cells = dict.fromkeys(_ROWS, "n/a")
    split, heads = section.run.split, (section.run.head_check or {}).get("heads")
    if split:
        cells["Split"] = f"{split.get('strategy')}, digest {split.get('digest')}"
    if heads:
        cells["Coverage"] = f"{percent(heads[0]['coverage'])} of train identities"
    if section.summary is None:
        return {**cells, **dict.fromkeys(_SHARES.values(), "not tested")}
    said = section.summary
    for key, label in _SHARES.items():
        low, high = said.get("intervals", {}).get(key, (None, None))
        interval = "" if low is None else f" ({100 * low:.1f} to {100 * high:.1f})"
        cells[label] = f"{percent(said['retrieval'][key])}{interval}"
    dropped = said.get("dropped_queries") or 0
    without = f", and {dropped} without a match" if dropped else ""
    cells["Queries"] = f"{said['retrieval']['valid_queries']:.0f}{without}"
    options = said.get("evaluation") or {}
    how = [said.get("protocol", "cross-camera"), options.get("metric"), options.get("rerank")]
    cells["Protocol"] = ", ".join(filter(None, how))
    leak = said["leak"]
    seen, everyone = leak["seen"]["identities"], leak["all"]["identities"]
    cells["Leak"] = f"{seen} of {everyone} tested people were trained on"
    cells["mAP, unseen people"] = percent(leak["unseen"]["mAP"])
    return cells


def comparison_notes(sections: Sequence[Section]) -> tuple[str, ...]:
    """What makes the numbers of runs incomparable."""
    tests: dict[object, list[str]] = {}
    protocols: dict[str, list[str]] = {}
    for section in sections:
        if section.summary is not None:
            tests.setdefault(_tested_on(section), []).append(section.name)
            protocols.setdefault(_headline(section)["Protocol"], []).append(section.name)
    notes: tuple[str, ...] = ()
    if len(tests) > 1:
        groups = " | ".join(", ".join(names) for names in tests.values())
        notes += (
            f"These runs were tested on different images ({groups}), so their numbers are not "
            "to be compared. To compare weights, test them on one split: camreid-evaluate "
            "checkpoint=... with the same +split= options, or split.manifest= of one of the runs.",
        )
    if len(protocols) > 1:
        groups = " | ".join(f"{how}: {', '.join(names)}" for how, names in protocols.items())
        notes += (f"These runs were ranked by different rules ({groups}).",)
    return notes


def _tested_on(section: Section) -> object:
    """What is equal for tests on the same images: their names and people, or the split's digest."""
    table = section.run.features
    if table is None or not table.query.paths or not table.gallery.paths:
        return section.run.split.get("digest")
    parts = (table.query, table.gallery)
    names = [[path.replace("\\", "/").rpartition("/")[2] for path in p.paths] for p in parts]
    return tuple(
        frozenset(zip(name, part.pids.tolist(), strict=True))
        for name, part in zip(names, parts, strict=True)
    )


def describe(image: Shown) -> str:
    """A picture in words.

    >>> describe(Shown("x.jpg", 7, 3, None, 0.5, True))
    'person 7, camera 3, the person asked for'
    """
    who = {0: "a distractor", -1: "junk"}.get(image.pid, f"person {image.pid}")
    said = {None: "", True: ", the person asked for", False: ", someone else"}[image.match]
    return f"{who}, camera {image.camera}{said}"
