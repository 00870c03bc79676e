"""The tables of a matrix: rows by camera, what experts know, differences, and their spaces."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from camreid.evaluation.report import percent
from camreid.runs.matrix_tables import on_unseen, seen_people, unseen_by_all
from camreid.runs.report.matrix_measuring import GROUPS, rows_of
from camreid.runs.report.tables import Cell, Group, Table, shared, text_cells

NUMBERS = {"mAP": "mAP", "rank1": "Rank-1"}


def _groups(
    content: Mapping[str, Any],
    cells: Callable[[str, Mapping[str, Any]], Sequence[Cell]],
    keys: Sequence[str] = tuple(GROUPS),
) -> list[Group]:
    """The rows of each kind that there are; titled if there are several kinds."""
    kinds = {key: content.get(key) or {} for key in keys}
    there = {key: rows for key, rows in kinds.items() if rows}
    return [
        Group(
            GROUPS[key] if len(there) > 1 else "",
            {name: cells(name, row) for name, row in rows.items()},
        )
        for key, rows in there.items()
    ]


def cameras_tables(content: Mapping[str, Any], caveat: str) -> tuple[Table, ...]:
    """By camera, and where the split leaks, on the people compared too."""
    tables = tuple(by_camera(content, number, caveat) for number in NUMBERS)
    if not (content.get("compared") or {}).get("rows"):
        return tables
    fair = {**content, **on_unseen(content)}
    return (*tables, *(by_camera(fair, number, caveat, unseen=True) for number in NUMBERS))


def by_camera(content: Mapping[str, Any], number: str, caveat: str, unseen: bool = False) -> Table:
    """A number by row and query camera, with intervals, the best expert of each marked.

    Where the split leaks, the best are in the table of the `unseen` people alone.
    """
    starred = unseen or not _on_whom(content)
    keys = [*map(str, content["cameras"]), "all"]

    def cells(name: str, row: Mapping[str, Any]) -> list[Cell]:
        parts = [row if key == "all" else row["by_camera"].get(key) for key in keys]
        best = [starred and name in best_experts(content, key, number) for key in keys]
        return [_with_interval(p, number, b) for p, b in zip(parts, best, strict=True)]

    return Table(
        title=f"{NUMBERS[number]} {'of people compared ' if unseen else ''}by query camera",
        text=f"{NUMBERS[number]} in per cent by query camera{_on_whom(content) if unseen else ''}, "
        f"{content['protocol']}; below each, its 95 % interval."
        + (" ★ the best expert of the column." if starred else ""),
        columns=[*(f"c{key}" for key in keys[:-1]), "all"],
        groups=_groups(content, cells),
        corner="row",
        caveat=caveat,
    )


def _on_whom(content: Mapping[str, Any]) -> str:
    compared = content.get("compared") or {}
    return f" on the people {unseen_by_all(compared)}" if compared.get("leaks") else ""


def best_experts(content: Mapping[str, Any], camera: str, number: str) -> set[str]:
    """The experts of the largest number, all of equals; nobody where it is 0.

    Where the split leaks, on those people alone whom no row has seen.
    """
    if "compared" in content and content["compared"] is None:
        return set()  # rows of several tests
    compared = content.get("compared") or {}
    rows = compared.get("rows") or ({} if compared.get("leaks") else content["experts"])
    values = {
        name: part["retrieval"][number]
        for name in content["experts"]
        if (row := rows.get(name))
        and (part := row if camera == "all" else row["by_camera"].get(camera))
    }
    most = max(values.values(), default=0)
    return {name for name, value in values.items() if value == most > 0}


def _with_interval(part: Mapping[str, Any] | None, number: str, best: bool = False) -> Cell:
    if part is None:
        return Cell("n/a")
    value, ends = part["retrieval"][number], ends_of(part, number)
    digits = 1 if ends and ends[1] < 0.1 else 0  # as wide, and not 1 to 1
    small = ends and f"{100 * ends[0]:.{digits}f} to {100 * ends[1]:.{digits}f}"
    return Cell(f"{100 * value:.1f}", small or "", value, best)


def ends_of(part: Mapping[str, Any], number: str) -> tuple[float, float] | None:
    """The interval, None where all queries are of one person."""
    low, high = (part.get("intervals") or {}).get(number) or (None, None)
    # NaN is written by json, and read again
    return None if low is None or high is None or low != low else (low, high)


def headline(name: str, content: Mapping[str, Any], caveat: str) -> Table:
    """Every row over all cameras, with whom it has seen."""
    images = any("images_seen" in row for row in rows_of(content).values())

    def cells(name: str, row: Mapping[str, Any]) -> list[Cell]:
        said = row["retrieval"]
        best = {number: name in best_experts(content, "all", number) for number in NUMBERS}
        scores = [_score(row, number, best[number]) for number in NUMBERS]
        plain = [percent(said.get("rank5")), percent(said.get("mINP"))]
        seen = row.get("images_seen")
        trained = ["n/a" if seen is None else f"{seen:,}"] if images else []
        unseen = [percent(_unseen(row, number)) for number in NUMBERS]
        return [*scores, *text_cells([*plain, *unseen, _seen(row), *trained])]

    queries = next(iter(content["experts"].values()))["retrieval"]["valid_queries"]
    split = content.get("split") or {}
    return Table(
        title=f"Headline numbers of {name}",
        text=f"{name}: each row on all {queries:.0f} queries ({content['protocol']}, "
        f"{split.get('strategy') or 'split not known'}); below mAP and Rank-1 the 95 % interval "
        f"by bootstrap over identities, in per cent. ★ the best expert{_on_whom(content)}.",
        columns=[
            *NUMBERS.values(),
            "Rank-5",
            "mINP",
            "mAP, unseen people",
            "Rank-1, unseen people",
            "test people seen",
            *(["images seen"] if images else []),
        ],
        groups=_groups(content, cells),
        corner="row",
        caveat=caveat,
    )


def _score(row: Mapping[str, Any], number: str, best: bool) -> Cell:
    ends = ends_of(row, number)
    small = "" if ends is None else f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}"
    return Cell(percent(row["retrieval"][number]), small, best=best)


def _unseen(row: Mapping[str, Any], number: str) -> float | None:
    return ((row.get("leak") or {}).get("unseen") or {}).get(number)


def _seen(row: Mapping[str, Any]) -> str:
    """Of the tested people."""
    leak = row.get("leak")
    return "n/a" if leak is None else f"{seen_people(row)} of {leak['all']['identities']}"


def experts_table(content: Mapping[str, Any], caveat: str) -> Table:
    """Whom each expert knows: coverage of the train people, tested people seen, and the rest."""

    def cells(name: str, row: Mapping[str, Any]) -> tuple[Cell, ...]:
        known = [row.get(key) for key in ("camera", "rows")]
        texts = ["n/a" if value is None else str(value) for value in known]
        unseen = [percent(_unseen(row, number)) for number in NUMBERS]
        return text_cells([*texts, percent(row.get("coverage")), _seen(row), *unseen])

    return Table(
        title="Experts: coverage and leak",
        text="Coverage: the share of the split's train people for whom a head has a row. Test "
        "people seen: those whom the weights were trained on; the numbers on unseen people are "
        "of the others.",
        columns=["camera", "rows", "coverage", "test people seen", "unseen mAP", "unseen Rank-1"],
        groups=_groups(content, cells, ("experts", "controls")),
        corner="expert",
        caveat=caveat,
    )


def differences_table(content: Mapping[str, Any], caveat: str) -> Table:
    """Paired differences from the best single expert, in points."""
    against = content["best"]["all"]["mAP"]
    found = content["differences"]

    def cells(name: str, row: Mapping[str, Any]) -> list[Cell]:
        return [cell for number in NUMBERS for cell in difference_cells(found[name][number])]

    paired = {
        key: {n: row for n, row in (content.get(key) or {}).items() if n in found} for key in GROUPS
    }
    return Table(
        title=f"Paired differences from {against}",
        text=f"Points above {against}, the expert of the highest mAP, on the same queries"
        f"{_on_whom(content)}; below, the 95 % interval by paired bootstrap over identities. p is "
        f"two-sided, {_p_by(content)}, and not adjusted for the number of rows; that "
        "the best was chosen on these queries counts in its favour.",
        columns=["mAP", "p (mAP)", "Rank-1", "p (Rank-1)"],
        groups=_groups(paired, cells),
        corner="row",
        caveat=caveat,
    )


def _p_by(content: Mapping[str, Any]) -> str:
    if "compared" in content:
        return "by flipping the signs of people's differences"
    return "by bootstrap, on all queries, as a matrix was written before rows were compared fairly"


def difference_cells(found: Mapping[str, Any]) -> tuple[Cell, Cell]:
    """A difference in points with its interval, if there is one, and its p."""
    low, high = found["low"], found["high"]
    small = "" if low is None or high is None else f"{100 * low:+.1f} to {100 * high:+.1f}"
    return Cell(f"{100 * found['value']:+.1f}", small), Cell(f"{found['p']:.3f}")


def spaces_tables(content: Mapping[str, Any], caveat: str) -> tuple[Table, ...]:
    """Agreement and CKA of the experts' features; none for one expert alone."""
    spaces = content.get("spaces")
    if not spaces or len(spaces["experts"]) < 2:
        return ()
    names = spaces["experts"]
    texts = {
        "agreement": (
            "Agreement",
            "the share of images whose nearest neighbour, from the features of one expert (rows) "
            "to those of another (columns), is the image itself; n/a where the widths differ. "
            "Means of features need it.",
        ),
        "cka": ("CKA", "linear centred kernel alignment, which does not see rotations."),
    }
    return tuple(
        Table(
            title=f"{title} of the experts' features",
            text=f"{title} in per cent, on {spaces['images']} images: {text}",
            columns=names,
            groups=[
                Group("", {n: [*map(shared, r)] for n, r in zip(names, spaces[key], strict=True)})
            ],
            corner="expert",
            caveat=caveat,
        )
        for key, (title, text) in texts.items()
    )
