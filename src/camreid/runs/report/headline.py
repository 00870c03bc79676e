"""Runs side by side: their numbers, and what makes them incomparable."""

from collections.abc import Sequence

from camreid.evaluation.report import percent
from camreid.runs.comparing.heads import coverage
from camreid.runs.report.sections import Section

_SHARES = {"mAP": "mAP", "rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10", "mINP": "mINP"}
_ROWS = (
    *_SHARES.values(),
    "Queries",
    "Protocol",
    "Coverage",
    "Leak",
    "mAP, unseen people",
    "Split",
    "Images seen",
)


def headline_rows(sections: Sequence[Section]) -> list[tuple[str, list[str]]]:
    """The cells of each run by row."""
    columns = [_headline(section) for section in sections]
    return [(label, [cells[label] for cells in columns]) for label in _ROWS]


def _headline(section: Section) -> dict[str, str]:
    """The cells of a run by row."""
    cells = dict.fromkeys(_ROWS, "n/a")
    split, heads = section.run.split, (section.run.head_check or {}).get("heads")
    if split:
        cells["Split"] = f"{split.get('strategy')}, digest {split.get('digest')}"
    if heads:
        cells["Coverage"] = f"{coverage(heads)} of train identities"
    if section.summary is None:
        return {**cells, **dict.fromkeys(_SHARES.values(), "not tested")}
    said = section.summary
    for key, label in _SHARES.items():
        low, high = (said.get("intervals") or {}).get(key) or (None, None)
        interval = "" if low is None or high is None else f" ({100 * low:.1f} to {100 * high:.1f})"
        cells[label] = f"{percent(said['retrieval'][key])}{interval}"
    dropped = said.get("dropped_queries") or 0
    without = f", and {dropped} without a match" if dropped else ""
    cells["Queries"] = f"{said['retrieval']['valid_queries']:.0f}{without}"
    options = said.get("evaluation") or {}
    how = [said.get("protocol", "cross-camera"), options.get("metric"), options.get("rerank")]
    cells["Protocol"] = ", ".join(map(str, filter(None, how)))
    if said.get("images_seen") is not None:
        cells["Images seen"] = f"{said['images_seen']:,}"
    return {**cells, **_leak(section)}


def _leak(section: Section) -> dict[str, str]:
    """Who of the tested was trained on; without all of whom, nobody is known to be unseen."""
    leak = (section.summary or {})["leak"]
    unknown = "nobody knows all that the weights were trained on"
    if leak is None:
        return {"Leak": unknown}
    people = f"{leak['seen']['identities']} of {leak['all']['identities']}"
    if not section.seen_complete:
        return {"Leak": f"at least {people}; {unknown}"}
    unseen = percent(leak["unseen"]["mAP"])
    return {"Leak": f"{people} tested people were trained on", "mAP, unseen people": unseen}


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
            "to be compared in this table. To compare weights, test them on one split: "
            "camreid-evaluate checkpoint=... with the same +split= options, or split.manifest= of "
            "one of the runs.",
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
