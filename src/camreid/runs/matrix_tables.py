"""The matrix of experts and cameras for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from camreid.runs.table import percent

_TITLES = {"mAP": "mAP", "rank1": "Rank-1"}


def matrix_tables(content: Mapping[str, Any]) -> list[Table]:
    """Tables of `matrix.json`: two by query camera, the experts, and who is better than the best.

    A split that leaks says so in the title of each.
    """
    caveat = leak_caveat(_tested(content), content["compared"])
    if content["partial"]:
        caveat += "\nOn a part of the images only."
    tables = [_by_camera(content, number, caveat) for number in _TITLES]
    if content["compared"]["rows"]:
        fair = {**content, **on_unseen(content)}
        tables += [_by_camera(fair, number, caveat, unseen=True) for number in _TITLES]
    tables.append(_knowledge(_rows(content), caveat))
    if content["differences"]:
        tables.append(_differences(content, caveat))
    return tables


def leak_caveat(
    rows: Mapping[str, Mapping[str, Any]], compared: Mapping[str, Any] | None = None
) -> str:
    """Lines for titles on test people whom the weights have seen; empty if there are none.

    Args:
        rows: that are a checkpoint each, by name.
        compared: on whom the rows are compared, as `matrix.json` has it.
    """
    leaks = {n: row["leak"] for n, row in rows.items() if row["leak"] is not None}
    seen = {n: k["seen"]["identities"] for n, k in leaks.items() if k["seen"]["identities"]}
    unknown = [n for n, row in rows.items() if not row.get("seen_complete", n in leaks)]
    said = f"\nNobody knows all whom {', '.join(unknown)} was trained on." if unknown else ""
    if not seen:
        return said
    people = next(iter(leaks.values()))["all"]["identities"]
    told = ", ".join(f"{name} {count}" for name, count in seen.items())
    said = f"\nThis split leaks: of {people} test people, weights were trained on {told}.{said}"
    if compared is None:
        return said
    left = compared["identities"]
    whom = f"go by the {left} people" if left else "are left out: there are no people"
    return f"{said}\nBest expert and differences {whom} {unseen_by_all(compared)}."


def unseen_by_all(compared: Mapping[str, Any]) -> str:
    """Whom rows are compared on where they leak, in words.

    >>> unseen_by_all({"complete": False})
    'whom no row is known to have seen, though some may have'
    """
    if compared.get("complete", True):
        return "whom none of the rows has seen"
    return "whom no row is known to have seen, though some may have"


def _rows(content: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {**_tested(content), **content["combinations"]}


def _tested(content: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The rows that are a checkpoint each."""
    return {**content["experts"], **content["controls"]}


def on_unseen(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The groups of rows with their numbers on the people whom none of the rows has seen."""
    compared = content["compared"]["rows"]
    return {
        key: {name: {**row, **compared[name]} for name, row in (content.get(key) or {}).items()}
        for key in ("experts", "controls", "combinations")
    }


def _by_camera(content: Mapping[str, Any], number: str, caveat: str, unseen: bool = False) -> Table:
    """Query cameras across: the number, and below it the 95 % interval in whole per cent.

    Where the split leaks, the best expert is in the table of the `unseen` people alone.
    """
    whom = f" on the {content['compared']['identities']} people compared" if unseen else ""
    title = f"{_TITLES[number]} by query camera{whom}, {content['protocol']}; below, 95 %{caveat}"
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for camera in content["cameras"]:
        table.add_column(f"c{camera}", justify="right")
    table.add_column("all", justify="right")
    keys = [*map(str, content["cameras"]), "all"]
    rows = _rows(content)
    ends = (len(content["experts"]), len(_tested(content)), len(rows))
    for place, (name, row) in enumerate(rows.items(), start=1):
        parts = [row if key == "all" else row["by_camera"][key] for key in keys]
        cells = (_cell(part, number) for part in parts)
        table.add_row(name, *cells, end_section=place in ends)
    if unseen or not content["compared"]["leaks"]:
        found = (content["best"].get(key, {}).get(number) for key in keys)
        table.add_row("best expert", *(name or "n/a" for name in found))
    return table


def _cell(part: Mapping[str, Any] | None, number: str) -> str:
    if part is None:
        return percent(None)
    value, (low, high) = percent(part["retrieval"][number]), part["intervals"][number]
    return value if low is None else f"{value}\n{100 * low:.0f}..{100 * high:.0f}"


def _knowledge(rows: Mapping[str, Mapping[str, Any]], caveat: str) -> Table:
    """Whom each row knows: coverage of the train people, tested people seen, and the rest."""
    title = f"Coverage of the train people and leak{caveat}"
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    names = ("rows", "coverage", "test people seen", "unseen mAP", "unseen Rank-1")
    for name in names:
        table.add_column(name, justify="right")
    for name, row in rows.items():
        leak = row["leak"]
        unseen = {} if leak is None else leak["unseen"]
        table.add_row(
            name,
            _count(row.get("rows")),
            percent(row.get("coverage")),
            seen_people(row),
            *(percent(unseen.get(number)) for number in _TITLES),
        )
    return table


def seen_people(row: Mapping[str, Any]) -> str:
    """How many of the tested people a row has seen, the least where not all is known.

    >>> seen_people({"leak": {"seen": {"identities": 3}}, "seen_complete": False})
    'at least 3'
    """
    if row["leak"] is None:
        return "n/a"
    least = "" if row.get("seen_complete", True) else "at least "
    return f"{least}{row['leak']['seen']['identities']}"


def _count(number: int | None) -> str:
    return "n/a" if number is None else f"{number:,}"


def _differences(content: Mapping[str, Any], caveat: str) -> Table:
    """Paired differences in points, below them the 95 % intervals."""
    best = content["best"]["all"]["mAP"]
    title = (
        f"Points above {best}, the expert of the highest mAP on this test, which "
        f"counts in its favour;\nno p is adjusted for the number of rows{caveat}"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for number in _TITLES.values():
        for column in (number, "p"):
            table.add_column(column, justify="right")
    for name, found in content["differences"].items():
        cells = []
        for number in _TITLES:
            value, low, high = (found[number][key] for key in ("value", "low", "high"))
            ends = "" if low is None else f"\n{100 * low:+.1f}..{100 * high:+.1f}"
            cells += [f"{100 * value:+.1f}{ends}", f"{found[number]['p']:.3f}"]
        table.add_row(name, *cells)
    return table
