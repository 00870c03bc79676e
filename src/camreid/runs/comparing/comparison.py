"""Several runs: who is better, what differs, and what the numbers do not show."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from camreid.errors import InputError
from camreid.evaluation.report import finite
from camreid.runs.comparing.configs import differing
from camreid.runs.comparing.pairing import LEVEL, Pair, Paired, pair
from camreid.runs.comparing.runs import RunFolder, read_run

FEWEST = 6  # people of whom the smallest p, 2 of 2^n ways, is below 0.05


@dataclass(frozen=True)
class Comparison:
    """Runs and their pairs.

    Attributes:
        runs: in the order typed, lettered from A.
        pairs: each two of them.
    """

    runs: tuple[RunFolder, ...]
    pairs: tuple[Pair, ...]

    @property
    def config(self) -> dict[str, list[Any]]:
        """The options in which the runs differ, with the value of each."""
        return differing([run.config for run in self.runs])

    @property
    def verdicts(self) -> list[str]:
        """One line in plain words for each pair."""
        names = {run.letter: f"{run.letter} ({run.path})" for run in self.runs}
        return [verdict(pair, names) for pair in self.pairs]

    @property
    def lacks(self) -> str:
        """What is missing and how to get it, empty if nothing is."""
        return " ".join(run.lacks for run in self.runs if run.lacks)

    @property
    def caveats(self) -> list[str]:
        """What the numbers do not show, in plain words."""
        return [
            *(text for run in self.runs for text in _of_a_run(run)),
            *_of_the_pairs(self),
            *_of_the_settings(self),
        ]

    def summary(self) -> dict[str, Any]:
        """Everything, ready for JSON; shares are in 0..1."""
        return {
            "verdicts": self.verdicts,
            "pairs": [finite({**asdict(pair), "better": pair.better}) for pair in self.pairs],
            "caveats": self.caveats,
            "lacks": self.lacks or None,
            "config": self.config,
            "runs": [_run_summary(run) for run in self.runs],
        }


def compare_runs(paths: Sequence[str | Path]) -> Comparison:
    """Read run folders and compare each two.

    Raises:
        InputError: fewer than two folders, the same twice, or one that is no run or is broken.
    """
    resolved = [Path(path).resolve() for path in paths]
    if len(paths) < 2:
        typed = f"only {paths[0]} was given" if paths else "no run was given"
        raise InputError(f"{typed}; type two run folders or more: camreid-compare runs/A runs/B.")
    twice = [str(path) for path, at in zip(paths, resolved, strict=True) if resolved.count(at) > 1]
    if twice:
        raise InputError(
            f"{' and '.join(twice)} are the same run, which can't differ from itself. Type two run "
            "folders, such as camreid-compare runs/A runs/B."
        )
    if len(paths) > len(ascii_uppercase):
        raise InputError(
            f"{len(paths)} runs were given; type at most {len(ascii_uppercase)} at a time."
        )
    runs = tuple(read_run(letter, p) for letter, p in zip(ascii_uppercase, paths, strict=False))
    return Comparison(runs, tuple(pair(a, b) for a, b in combinations(runs, 2)))


def verdict(pair: Pair, names: Mapping[str, str]) -> str:
    """Who is better, in one line.

    Args:
        pair: two runs.
        names: what they are called, by letter.
    """
    first, second = names[pair.first], names[pair.second]
    if pair.shared is None:
        return f"{first} or {second}: can't be told: {pair.reason}."
    if pair.fair is None:
        return (
            f"{first} or {second}: can't be told: the weights of one or both were trained on all "
            f"of the {pair.shared.people} people of the {pair.shared.queries} queries."
        )
    where = f"on the same {pair.fair.queries} queries"
    if pair.leaks:
        where += f" of {pair.fair.people} people whom neither has seen"
    if pair.better is None:
        few = " So few people can't show a difference." if pair.fair.people < FEWEST else ""
        return (
            f"{first} or {second}: can't be told: {points(pair.fair, 'mAP')} between them {where}."
            f"{few}"
        )
    winner, loser, sign = (first, second, 1) if pair.better == pair.first else (second, first, -1)
    whose = " and ".join(pair.unknown)
    memory = f" It may be memory: nobody knows whom {whose} was trained on." if whose else ""
    return f"{winner} is better than {loser} by {points(pair.fair, 'mAP', sign)} {where}.{memory}"


def points(paired: Paired, name: str, sign: int = 1) -> str:
    """A difference with its interval and p, in percentage points; `sign` -1 turns it round.

    >>> from camreid.evaluation import Difference
    >>> points(Paired(8, 4, {"mAP": Difference(-0.031, -0.05, -0.012, 0.004)}), "mAP", -1)
    '3.1 points mAP (95 % 1.2..5.0, p = 0.004)'
    """
    found = paired.differences[name]
    low, high = sorted((sign * found.low, sign * found.high))
    interval = "" if math.isnan(low) else f"{100 * LEVEL:.0f} % {100 * low:.1f}..{100 * high:.1f}, "
    return f"{100 * sign * found.value:.1f} points {name} ({interval}p = {found.p:.2g})"


def _of_a_run(run: RunFolder) -> list[str]:
    """What one run's own numbers hide."""
    if run.metrics is None:
        return []
    texts = []
    leak = run.metrics["leak"] or {}  # None where it is not known who was seen
    if leak and leak["seen"]["queries"]:
        whole, seen = leak["all"], leak["seen"]
        texts.append(
            f"{run.letter}: its weights were trained on {seen['identities']} of the "
            f"{whole['identities']} people it was tested on ({seen['queries']} of "
            f"{whole['queries']} queries), so its mAP is partly memory; go by the unseen people."
        )
    if not run.seen_complete:
        texts.append(
            f"{run.letter}: nothing says whom all its weights have seen, so a leak can't be ruled "
            "out."
        )
    if run.metrics.get("partial"):
        texts.append(f"{run.letter}: a part of the images only was tested.")
    return texts


def _of_the_pairs(comparison: Comparison) -> list[str]:
    """What differences and intervals do not mean."""
    texts = []
    apart = [pair for pair in comparison.pairs if pair.shared is None]
    if apart:
        texts.append(
            "Overlapping intervals are no test, and neither are intervals that do not overlap "
            f"where the tests differ. {_same_test(comparison.runs)}"
        )
    tested = len(comparison.pairs) - len(apart)
    if tested > 1:
        texts.append(
            f"There are {tested} paired differences, and no p is adjusted for the others: by "
            f"chance alone, one in {1 / (1 - LEVEL):.0f} is below {1 - LEVEL:.2f}."
        )
    if any(pair.better is None and pair.fair is not None for pair in comparison.pairs):
        texts.append(
            "A difference that can't be told may still be there: the interval says how large."
        )
    return texts


def _of_the_settings(comparison: Comparison) -> list[str]:
    """What a difference can't be laid to."""
    texts = []
    weights = [run.weights for run in comparison.runs]
    if None not in weights and len(set(weights)) == 1:
        texts.append("All tests are of the same weights: what differs is how they were tested.")
    else:
        texts.append(
            "Each run is one training: the intervals are over tested people, and do not say what "
            "another seed would give."
        )
    images = [run.images_seen for run in comparison.runs]
    known = [count for count in images if count is not None]
    if len(set(known)) > 1:
        told = ", ".join(
            f"{run.letter} {count:,}"
            for run, count in zip(comparison.runs, images, strict=True)
            if count is not None
        )
        texts.append(
            f"The weights were trained on unequal numbers of images ({told}), which may be the "
            "difference; budget= of camreid-train makes them equal."
        )
    count = len(comparison.config)
    if count > 1:
        texts.append(
            f"The configs differ in {count} options, so a difference can't be laid to one of them."
        )
    return texts


def _same_test(runs: Sequence[RunFolder]) -> str:
    """The commands that test all weights on people whom none has seen."""
    weights = [str(run.weights or "CKPT") for run in runs]
    together = ",".join(weights)
    return (
        "To settle it, test all on people whom none has seen, for each of these checkpoints: "
        f"camreid-evaluate checkpoint={weights[0]} +split=resplit 'split.exclude_seen=[{together}]'"
        " and compare those folders."
    )


def _run_summary(run: RunFolder) -> dict[str, Any]:
    metrics = run.metrics or {}
    kept = (
        "split",
        "weights",
        "images_seen",
        "partial",
        "evaluation",
        "retrieval",
        "intervals",
        "leak",
        "leaked_images",
    )
    return {
        "letter": run.letter,
        "path": str(run.path),
        "head_check": run.head,
        **{name: metrics.get(name) for name in kept},
    }
