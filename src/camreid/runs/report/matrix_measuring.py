"""The rows of a matrix ranked again from their features, one file in memory at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from camreid.errors import InputError, NoValidQuery
from camreid.evaluation.matrix import NUMBERS, Row, comparison
from camreid.evaluation.result import RankingResult
from camreid.runs.report.matrix_reading import MatrixFolder
from camreid.runs.report.measuring import options_of, other_numbers
from camreid.runs.report.reading import load_features

# as camreid-matrix writes them, in the order that they are shown
GROUPS = {"experts": "Experts", "combinations": "Put together", "controls": "Controls"}
# as files of features call them
KINDS = {"expert": "experts", "combination": "combinations", "control": "controls"}


@dataclass(frozen=True)
class MeasuredMatrix:
    """A matrix as it is shown.

    Attributes:
        content: `matrix.json`, or as much of it as the features give; None without both.
        results: rows ranked again, by name.
        notes: what a reader should know.
    """

    content: Mapping[str, Any] | None
    results: Mapping[str, RankingResult]
    notes: tuple[str, ...]


def rows_of(content: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """All rows, experts first."""
    return {name: row for key in GROUPS for name, row in (content.get(key) or {}).items()}


def measure_matrix(folder: MatrixFolder) -> MeasuredMatrix:
    """Rank each saved row once, and hold it to `matrix.json`."""
    if folder.content is None:
        return _from_features(folder)
    results: dict[str, RankingResult] = {}
    differ: dict[str, list[str]] = {}
    notes: tuple[str, ...] = ()
    for name, row in rows_of(folder.content).items():
        path = folder.path / (row.get("features") or f"features/{name}.safetensors")
        if not path.is_file():
            continue
        try:
            found = _rank(path, folder)[0]
        except (InputError, NoValidQuery) as error:
            notes += (f"The features of {name} can't be ranked: {error}",)
            continue
        results[name] = found.result
        pairs = None if found.protocols is None else found.protocols.camera_pairs
        known = found.seen if found.seen or found.seen_complete else None
        differ[name] = other_numbers(found.result, row, known, pairs)
    return MeasuredMatrix(folder.content, results, (*notes, *_disagreement(differ)))


def _rank(path: Path, folder: MatrixFolder) -> tuple[Row, Mapping[str, Any]]:
    """A row and the notes of its features, which are not kept."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    table = load_features(path)
    result, protocols = options_of({"evaluation": folder.evaluation}).rank(table, device)
    seen = table.notes.get("seen")
    known = frozenset(pid for pid in seen or () if pid > 0)
    complete = table.notes.get("seen_complete", seen is not None)
    # a column read from a file holds the whole file
    result = replace(result, query_pids=result.query_pids.clone())
    return Row(result, table.query.cameras.clone(), known, protocols, complete), table.notes


def _disagreement(differ: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Where `matrix.json` says other numbers than the features, one sentence or none."""
    told = [f"{name}: {', '.join(numbers)}" for name, numbers in differ.items() if numbers]
    if not told:
        return ()
    return (
        "matrix.json and the saved features disagree, so one of them is of another test: "
        f"{'; '.join(told)}. Tables show matrix.json; CMC curves are of the features. Run "
        "camreid-matrix again to have both of one test.",
    )


def _from_features(folder: MatrixFolder) -> MeasuredMatrix:
    """What an unfinished matrix would hold, of those rows that have been tested."""
    rows: dict[str, Row] = {}
    origins: dict[str, Mapping[str, Any]] = {}
    told: tuple[str, ...] = ()
    for name, path in folder.features.items():
        try:
            rows[name], origins[name] = _rank(path, folder)
        except (InputError, NoValidQuery) as error:
            told += (f"The features of {name} can't be ranked: {error}",)
    digests = {str((notes.get("split") or {}).get("digest")) for notes in origins.values()}
    paired = len(digests) <= 1 and _same_queries([row.result for row in rows.values()])
    if not paired:
        several = f"{len(digests)} splits" if len(digests) > 1 else "several tests"
        told += (
            f"The features are of {several}, so no row is to be set against another: some are of "
            "an earlier matrix in this folder, or of a part of the images.",
        )
    results = {name: row.result for name, row in rows.items()}
    content = _content(rows, origins, paired) if rows else None
    return MeasuredMatrix(content, results, told)


def _same_queries(results: Sequence[RankingResult]) -> bool:
    return all(
        torch.equal(one.query_pids, results[0].query_pids)
        and torch.equal(one.valid, results[0].valid)
        for one in results
    )


def _content(
    rows: Mapping[str, Row], origins: Mapping[str, Mapping[str, Any]], paired: bool
) -> dict[str, Any]:
    """As `matrix.json`; None for what only the checkpoints say."""
    said = {
        name: {
            "checkpoint": origins[name].get("weights"),
            "camera": origins[name].get("camera"),
            "rows": None,
            "coverage": None,
            **row.summary(),
        }
        for name, row in rows.items()
    }
    kinds = {name: KINDS.get(origins[name].get("kind") or "", "experts") for name in rows}
    if "experts" not in kinds.values():
        kinds = dict.fromkeys(rows, "experts")  # the others' files are gone
    groups = {key: {n: said[n] for n in rows if kinds[n] == key} for key in GROUPS}
    first = next(iter(groups["experts"]))
    apart = {"compared": None, "best": {"all": dict.fromkeys(NUMBERS)}, "differences": {}}
    return {
        "split": origins[first].get("split") or {},
        "protocol": said[first]["protocol"],
        "partial": any(origin.get("partial") for origin in origins.values()),
        "cameras": sorted({int(c) for row in said.values() for c in row["by_camera"]}),
        **groups,
        "left_out": {},
        **(comparison(rows, list(groups["experts"])) if paired else apart),
        "spaces": None,
    }
