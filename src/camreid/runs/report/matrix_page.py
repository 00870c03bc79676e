"""A matrix on the page: its tables and figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from camreid.runs.matrix_tables import leak_caveat
from camreid.runs.report.drawing import Chart, Dot
from camreid.runs.report.figures import cmc_of, dots_chart
from camreid.runs.report.matrix_grids import (
    cameras_tables,
    differences_table,
    ends_of,
    experts_table,
    headline,
    spaces_tables,
)
from camreid.runs.report.matrix_measuring import GROUPS, MeasuredMatrix, measure_matrix, rows_of
from camreid.runs.report.matrix_reading import MatrixFolder
from camreid.runs.report.tables import Table, camera_pairs


@dataclass(frozen=True)
class MatrixSection:
    """A matrix on the page.

    Attributes:
        name: its heading, unique on the page.
        anchor: its id.
        folder: what it holds.
        content: its numbers, None where there are none.
        notes: what a reader should know.
        headline: all rows with their numbers, None where there are none.
        cameras: rows by query camera, coloured.
        experts: whom each expert knows.
        differences: from the best single expert, None for one row alone.
        spaces: how alike the experts' features are.
        pairs: camera pairs by row.
        charts: intervals and CMC.
    """

    template: ClassVar = "matrix.html.j2"

    name: str
    anchor: str
    folder: MatrixFolder
    content: Mapping[str, Any] | None
    notes: tuple[str, ...]
    headline: Table | None = None
    cameras: tuple[Table, ...] = ()
    experts: Table | None = None
    differences: Table | None = None
    spaces: tuple[Table, ...] = ()
    pairs: Mapping[str, tuple[Table, ...]] | None = None
    charts: tuple[Chart, ...] = ()

    @property
    def checkpoints(self) -> dict[str, str]:
        """The weights of each row that has some."""
        rows = rows_of(self.content or {})
        return {n: str(row["checkpoint"]) for n, row in rows.items() if row.get("checkpoint")}


def matrix_section(anchor: str, name: str, folder: MatrixFolder) -> MatrixSection:
    """What is shown of a matrix folder."""
    found = measure_matrix(folder)
    notes = (*folder.broken, *folder.missing, *found.notes)
    content = found.content
    if content is None:
        return MatrixSection(name, anchor, folder, None, notes)
    if content.get("partial"):
        notes += ("This test was on a part of the images only, so its numbers mean little.",)
    tested = {**content["experts"], **(content.get("controls") or {})}
    caveat = leak_caveat(tested, content.get("compared")).strip()
    rows = rows_of(content)
    return MatrixSection(
        name=name,
        anchor=anchor,
        folder=folder,
        content=content,
        notes=(*notes, *(content.get("notes") or ()), *_left_out(content)),
        headline=headline(name, content, caveat),
        cameras=cameras_tables(content, caveat),
        experts=experts_table(content, caveat),
        differences=differences_table(content, caveat) if content["differences"] else None,
        spaces=spaces_tables(content, caveat),
        pairs={
            label: camera_pairs(row["camera_pairs"], caveat, of=label)
            for label, row in rows.items()
            if row.get("camera_pairs")
        },
        charts=_charts(anchor, content, found, caveat),
    )


def _left_out(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Rows that are not there, by the reason."""
    left = content.get("left_out") or {}
    return tuple(
        f"No row {', '.join(n for n, other in left.items() if other == reason)}: {reason}"
        for reason in dict.fromkeys(left.values())
    )


def _charts(
    anchor: str, content: Mapping[str, Any], found: MeasuredMatrix, caveat: str
) -> tuple[Chart, ...]:
    """Intervals of mAP by row, and CMC curves."""
    groups: dict[str, dict[str, Dot]] = {
        title: {n: (r["retrieval"]["mAP"], ends_of(r, "mAP")) for n, r in content[key].items()}
        for key, title in GROUPS.items()
        if content.get(key)
    }
    marks = ", ".join(f"{mark} {title}" for mark, title in zip("●■◆", groups, strict=False))
    text = f"{marks}: with their 95 % intervals by bootstrap over identities. {caveat}".strip()
    dots = dots_chart(f"{anchor}-map", "mAP", text, groups)
    curves = {n: result.cmc.tolist() for n, result in found.results.items()}
    known = {
        name: {
            k: row["retrieval"][f"rank{k}"] for k in (1, 5, 10) if f"rank{k}" in row["retrieval"]
        }
        for name, row in rows_of(content).items()
        if name not in curves
    }
    text = "The share of queries with a match among the first k gallery images."
    if known and curves:
        text += f" Of {', '.join(known)} no features are kept, so ranks 1, 5 and 10 are joined."
    return dots, cmc_of(f"{anchor}-cmc", f"{text} {caveat}".strip(), curves, known)
