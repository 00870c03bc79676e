"""Runs in pairs: by how much each is better than the first, or why that can't be told."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from camreid.evaluation.report import finite
from camreid.runs.comparing import Comparison, Paired, RunFolder, pair
from camreid.runs.comparing.comparison import verdict
from camreid.runs.report.files import options_in
from camreid.runs.report.matrix_grids import difference_cells
from camreid.runs.report.sections import Section
from camreid.runs.report.tables import Cell, Group, Table, text_cells

NUMBERS = {"mAP": "mAP", "rank1": "Rank-1", "mINP": "mINP"}


@dataclass(frozen=True)
class Between:
    """What runs say about each other.

    Attributes:
        table: paired differences from the first, None where nothing can be paired.
        verdicts: one line in plain words for each run after the first.
        caveats: what the numbers do not show.
    """

    table: Table | None
    verdicts: tuple[str, ...]
    caveats: tuple[str, ...]


def between_runs(sections: Sequence[Section]) -> Between | None:
    """The tested runs against the first of them; None for fewer than two."""
    some = [section for section in sections if section.summary is not None]
    if len(some) < 2:
        return None
    tested = list(map(_folder, some))
    first, *others = tested
    comparison = Comparison(tuple(tested), tuple(pair(other, first) for other in others))
    names = {run.letter: run.letter for run in tested}
    rows = {
        label: _cells(paired)
        for found in comparison.pairs
        for label, paired in (
            (found.first, found.shared),
            (f"{found.first}, people unseen by both", found.unseen),
        )
        if paired is not None
    }
    verdicts = [verdict(found, names) for found in comparison.pairs]
    return Between(
        _table(first.letter, rows) if rows else None, tuple(verdicts), tuple(comparison.caveats)
    )


def _folder(section: Section) -> RunFolder:
    """A run as it is compared: called by its name on the page, ranked already."""
    options = {} if section.found is None else {"evaluation": asdict(section.found.options)}
    return RunFolder(
        letter=section.name,
        path=section.run.path,
        config={
            key: value for key, value in options_in(section.run.config).items() if key != "run_dir"
        },
        head=section.run.head_check,
        metrics={**(section.summary or {}), "seen_complete": section.seen_complete, **options},
        table=None if section.found is None else section.run.features,
        result=None if section.found is None else section.found.headline,
    )


def _cells(paired: Paired) -> tuple[Cell, ...]:
    cells = [*text_cells([str(paired.queries), str(paired.people)])]
    for number in NUMBERS:
        cells += difference_cells(finite(asdict(paired.differences[number])))
    return tuple(cells)


def _table(first: str, rows: dict[str, tuple[Cell, ...]]) -> Table:
    numbers = [column for n in NUMBERS.values() for column in (n, f"p ({n})")]
    return Table(
        title=f"Paired differences from {first}",
        text=f"Points above {first} on the queries that both have; below, the 95 % interval by "
        "paired bootstrap over identities. p is two-sided, by flipping the signs of people's "
        "differences.",
        columns=["queries", "people", *numbers],
        groups=[Group("", rows)],
        corner="run",
    )
