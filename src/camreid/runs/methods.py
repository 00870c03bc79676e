"""What makes trainings differ: their options, in full and in a few words."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from camreid.provenance import SplitRecord
from camreid.runs.folder import RunFolder

_PLACES = ("run_dir", "save_dir", "dirpath", "resume")  # where a run writes and goes on


@dataclass(frozen=True)
class Method:
    """Runs that differ in nothing but their seed, compared as one."""

    runs: tuple[RunFolder, ...]
    words: str = ""  # what makes it differ from the others

    def __str__(self) -> str:
        return str(self.runs[0])

    @property
    def title(self) -> str:
        """Name, and what differs."""
        seeds = f"{len(self.runs)} seeds" if len(self.runs) > 1 else ""
        words = ", ".join(filter(None, (self.words, seeds)))
        return f"{self} ({words})" if words else str(self)


def differing(runs: Sequence[RunFolder]) -> dict[str, list[str]]:
    """The options in which trainings differ, of the sections of the config that all have."""
    found = []
    for run in runs:
        test = run.metrics.evaluation if run.metrics else {}
        found.append(_flat({**run.training["config"], "evaluation": test}))
    shared = set.intersection(*({key.split(".")[0] for key in options} for options in found))
    keys = [key for key in dict.fromkeys(chain(*found)) if key.split(".")[0] in shared]
    rows = {key: [options.get(key, "(not set)") for options in found] for key in keys}
    return {key: values for key, values in rows.items() if len(set(values)) > 1}


def methods_of(runs: Sequence[RunFolder]) -> list[Method]:
    """Runs by what differs but the seed, in the order of their first runs."""
    groups: dict[tuple[str, ...], list[RunFolder]] = {}
    options = differing(runs)
    seeds = options.pop("seed", [""] * len(runs))
    tested: Counter[tuple[str, ...]] = Counter()  # best.ckpt and last.ckpt are of one seed
    for run, seed, *key in zip(runs, seeds, *options.values(), strict=True):
        tested[seed, *key] += 1
        groups.setdefault((*key, str(tested[seed, *key])), []).append(run)
    members = list(groups.values())
    words = _words([group[0] for group in members])
    return [Method(tuple(group), text) for group, text in zip(members, words, strict=True)]


def _words(runs: Sequence[RunFolder]) -> list[str]:
    facts: list[list[str]] = []
    for run in runs:
        config, split = run.training["config"], run.training["split"]
        model = config.get("model") or {}
        unknown = str(model.get("unknown", "")) if config.get("init") else ""
        brief = SplitRecord.from_json(split).brief if split else ""
        facts.append([brief, unknown, str(model.get("name", ""))])
    columns = [column for column in zip(*facts, strict=True) if len(set(column)) > 1]
    if not columns:
        few = [(k, v) for k, v in differing(runs).items() if k != "seed"][:2]
        columns = [tuple(f"{k.rpartition('.')[2]} {v}" for v in values) for k, values in few]
    return [", ".join(filter(None, own)) for own in zip(*columns, strict=True)] or [""] * len(runs)


def _flat(config: Mapping[str, Any], above: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{above}{key}.")
        elif key not in _PLACES:
            found[f"{above}{key}"] = str(value)
    return found
