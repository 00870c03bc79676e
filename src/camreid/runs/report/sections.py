"""A run on the page."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from camreid.evaluation.report import Evidence, trained_images
from camreid.runs.report.drawing import Chart
from camreid.runs.report.figures import training_charts
from camreid.runs.report.measuring import Measured, measured
from camreid.runs.report.ranked import KINDS, RankedList, ranked_lists
from camreid.runs.report.reading import Run
from camreid.runs.report.tables import Table, camera_pairs, pair_numbers

# 600 pictures of some 3 kB keep a page below 3 MB
PICTURES = 600


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

    template: ClassVar = "run.html.j2"

    name: str
    anchor: str
    run: Run
    found: Measured | None
    summary: Mapping[str, Any] | None
    notes: tuple[str, ...]
    charts: tuple[Chart, ...]
    heats: tuple[Table, ...]
    lists: tuple[RankedList, ...]

    @property
    def seen_complete(self) -> bool:
        """Whether everyone is known whom the tested weights were trained on."""
        return _seen_complete(self.run)

    @property
    def trained_images(self) -> str:
        """How many of the tested images the weights were trained on, empty if it is not known."""
        images = (self.summary or {}).get("leaked_images")
        return trained_images(images) if images else ""

    @property
    def cameras(self) -> list[int]:
        """Of the queries that are shown."""
        return sorted({shown.query.camera for shown in self.lists})


def run_section(anchor: str, name: str, run: Run, runs: int) -> Section:
    """What is shown of a run.

    Args:
        anchor: its id.
        name: its heading.
        run: what its folder holds.
        runs: on the page, which share the pictures.
    """
    found, notes = measured(run.features, run.metrics)
    summary = run.metrics
    if summary is None and found is not None and run.features is not None:
        summary = _from_features(found, run.features.notes.get("seen"))
    if summary is not None and not _seen_complete(run):
        notes += (
            "Nobody knows all of the people whom these weights were trained on, so any number may "
            "be of people whom they know by heart. To know, import them, or what they were started "
            "from, again with the label map (labels.root= labels.camera=) and test again.",
        )
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
        notes=(*run.broken, *run.missing, *notes, *_lost(lists)),
        charts=tuple(training_charts(anchor, run.curves)),
        heats=_heats(found, summary),
        lists=tuple(lists),
    )


def _from_features(found: Measured, seen: Iterable[int] | None) -> dict[str, Any]:
    """As `metrics.json`; `leak` is None if it is not known who was seen."""
    summary = Evidence(found.headline, frozenset(seen or ())).summary()
    return summary if seen is not None else {**summary, "leak": None}


def _seen_complete(run: Run) -> bool:
    """What the test says, or its features; those of old say no more than whom."""
    notes = {} if run.features is None else run.features.notes
    said = [(run.metrics or {}).get("seen_complete"), notes.get("seen_complete")]
    return bool(next((known for known in said if known is not None), notes.get("seen")))


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


def _heats(found: Measured | None, summary: Mapping[str, Any] | None) -> tuple[Table, ...]:
    saved = (summary or {}).get("camera_pairs")
    if found is not None:
        return camera_pairs(pair_numbers(found.pairs))
    return () if saved is None else camera_pairs(saved)
