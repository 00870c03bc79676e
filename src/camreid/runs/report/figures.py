"""The charts of a page: training, CMC curves, and rows with their intervals."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from camreid.evaluation.result import RankingResult
from camreid.runs.report.drawing import Chart, Dot, Points, draw, draw_dots


def training_charts(name: str, curves: Mapping[str, Points]) -> list[Chart]:
    """Losses, validation and learning rate by epoch; what was not logged is left out.

    Args:
        name: of the run, unique on the page.
        curves: (epoch, value) points by the name of the logged number.
    """
    groups = {
        "Training loss": [n for n in curves if n.startswith("train/") and "loss" in n],
        "Validation": [n for n in curves if n.startswith("val/") and "queries" not in n],
        "Learning rate": [n for n in curves if n.startswith("lr")],
    }
    return [
        _by_epoch(
            f"{name}-{title.split()[-1].lower()}",
            title,
            # rank10 after rank5
            {n: curves[n] for n in sorted(names, key=lambda n: (len(n), n))},
        )
        for title, names in groups.items()
        if names
    ]


def _by_epoch(name: str, title: str, curves: Mapping[str, Points]) -> Chart:
    shares = title == "Validation"

    def style(axes: Axes) -> None:
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if shares:
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        if title == "Learning rate":
            axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))

    short = {label.partition("/")[2] or label: points for label, points in curves.items()}
    epochs = sorted({epoch for points in curves.values() for epoch, _ in points})
    values = [dict(points) for points in curves.values()]
    say = _percent if shares else "{:.4g}".format
    rows = tuple(
        (f"{epoch:g}", *(say(v[epoch]) if epoch in v else "" for v in values)) for epoch in epochs
    )
    text = f"By epoch, {len(epochs)} in all: {', '.join(short)}."
    return Chart(name, title, text, draw(name, short, style), ("epoch", *short), rows)


def cmc_chart(results: Mapping[str, RankingResult]) -> Chart:
    """Share of queries with a match among the first k, by run."""
    text = "The share of queries with a match among the first k gallery images."
    return cmc_of("cmc", text, {run: result.cmc.tolist() for run, result in results.items()})


def cmc_of(
    name: str,
    text: str,
    curves: Mapping[str, Sequence[float]],
    known: Mapping[str, Mapping[int, float]] | None = None,
) -> Chart:
    """CMC curves, and some points of those that are not known wholly.

    Args:
        name: unique on the page.
        text: what is drawn.
        curves: the share at rank 1, 2, ..., by label.
        known: the share at some ranks, by label.
    """
    points = {
        label: [(k + 1.0, share) for k, share in enumerate(curve)]
        for label, curve in curves.items()
    }
    for label, shares in (known or {}).items():
        points[label] = [(float(k), share) for k, share in sorted(shares.items())]

    def style(axes: Axes) -> None:
        axes.set_xlabel("rank k")
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_ylim(top=1.02)

    at = {label: dict(some) for label, some in points.items()}
    asked = [k for k in (1, 2, 3, 5, 10, 20, 50) if all(k <= len(c) for c in curves.values())]
    rows = tuple(
        (str(k), *(_percent(shares[k]) if k in shares else "" for shares in at.values()))
        for k in asked
        if any(k in shares for shares in at.values())
    )
    return Chart(name, "CMC", text, draw(name, points, style), ("rank", *points), rows)


def dots_chart(name: str, title: str, text: str, groups: Mapping[str, Mapping[str, Dot]]) -> Chart:
    """Shares with their 95 % intervals, in groups of rows.

    Args:
        name: unique on the page.
        title: of the number.
        text: what is drawn.
        groups: rows by label, by what they have in common.
    """

    def style(axes: Axes) -> None:
        axes.set_xlabel(title)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(visible=False, axis="y")

    rows = tuple(
        (label, kind, _percent(value), _interval(ends))
        for kind, group in groups.items()
        for label, (value, ends) in group.items()
    )
    columns = ("row", "kind", title, "95 % interval")
    svg = draw_dots(name, list(groups.values()), style)
    return Chart(name, f"{title} by row", text, svg, columns, rows)


def _interval(ends: tuple[float, float] | None) -> str:
    return "n/a" if ends is None else f"{_percent(ends[0])} to {_percent(ends[1])}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
