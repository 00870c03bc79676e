"""Charts as inline SVG, whose colours are those of the page.

Drawn by matplotlib: a chart is some 20 kB of static SVG, which prints, zooms and needs no script,
where an interactive library would put 4.5 MB of JavaScript into every page. Colours are written
as CSS variables, so that dark mode changes them too.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from camreid.evaluation.result import RankingResult
from camreid.evaluation.roc import ROC

Points = Sequence[tuple[float, float]]
# what matplotlib is told, and what the page is
_INK, _GRID = "#010203", "#010204"
_LINES = tuple(f"#0102{n:02x}" for n in range(16, 22))
_CSS = {
    _INK: "var(--ink)",
    _GRID: "var(--line)",
    **{colour: f"var(--line-{n})" for n, colour in enumerate(_LINES)},
}
# lines differ without their colours too
_DASHES = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, selectable, in the page's font
    "svg.hashsalt": "camreid",  # the same ids, whenever it is drawn
    "text.parse_math": False,  # a run may be named with dollars
    "font.size": 11,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _GRID,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Chart:
    """A chart, and its data for whom a picture says nothing.

    Attributes:
        name: unique on the page.
        title: its heading.
        text: what is drawn, in a sentence.
        svg: the drawing.
        columns: names of the table's columns.
        rows: of the table, ready to be shown.
    """

    name: str
    title: str
    text: str
    svg: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


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
    points = {
        run: [(k + 1.0, share) for k, share in enumerate(result.cmc.tolist())]
        for run, result in results.items()
    }

    def style(axes: Axes) -> None:
        axes.set_xlabel("rank k")
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_ylim(top=1.02)

    ranks = [k for k in (1, 2, 3, 5, 10, 20, 50) if all(k <= len(p) for p in points.values())]
    rows = tuple((str(k), *(_percent(p[k - 1][1]) for p in points.values())) for k in ranks)
    text = "The share of queries with a match among the first k gallery images."
    return Chart("cmc", "CMC", text, draw("cmc", points, style), ("rank", *points), rows)


def roc_chart(results: Mapping[str, ROC]) -> Chart:
    """True positives by false positives, by run."""
    # below one pair in all there is nothing to see
    least = min(_least_rate(roc) for roc in results.values())
    rates = torch.logspace(torch.tensor(least).log10().item(), 0, 120, dtype=torch.float64)
    points = {run: true_positives(roc, rates) for run, roc in results.items()}

    def style(axes: Axes) -> None:
        axes.set_xscale("log")
        axes.set_xlabel("false positive rate")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_ylim(0, 1.02)

    asked = [rate for rate in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1) if rate >= least]
    rows = tuple((f"{rate:g}", *(_percent(r.at(rate)) for r in results.values())) for rate in asked)
    text = (
        "The share of matching pairs above a score (true positive rate), by the share "
        "of pairs of different people above it (false positive rate, logarithmic)."
    )
    columns = ("false positive rate", *points)
    return Chart("roc", "ROC", text, draw("roc", points, style), columns, rows)


def _least_rate(roc: ROC) -> float:
    above = roc.false_positive_rate[roc.false_positive_rate > 0]
    return max(1e-6, above.min().item()) if len(above) else 1e-6


def true_positives(roc: ROC, rates: torch.Tensor) -> list[tuple[float, float]]:
    """(false, true) positive rates at the lowest thresholds that keep to some rates, as `ROC.at`.

    >>> roc = ROC(torch.arange(3.0), torch.tensor([1.0, 0.5, 0.0]), torch.tensor([1, 0.25, 0.0]))
    >>> true_positives(roc, torch.tensor([0.5, 1.0]))
    [(0.5, 0.5), (1.0, 1.0)]
    """
    ascending = roc.false_positive_rate.flip(0).contiguous().to(rates.dtype)
    kept = len(ascending) - torch.searchsorted(ascending, rates, right=True)
    return list(zip(rates.tolist(), roc.true_positive_rate[kept].tolist(), strict=True))


def draw(name: str, lines: Mapping[str, Points], style: Callable[[Axes], None]) -> str:
    """A line chart as an SVG element without ids of others on the page.

    Args:
        name: unique on the page.
        lines: points by label.
        style: sets what the axes say.
    """
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, "backend": "svg", **_STYLE}):
        figure = Figure(figsize=(4.5, 3.1), layout="constrained")
        axes = figure.subplots()
        for number, (label, points) in enumerate(lines.items()):
            x, y = zip(*points, strict=True)
            dashes = _DASHES[number // len(_LINES) % len(_DASHES) if len(lines) > 6 else number % 4]
            marker = "o" if len(points) == 1 else None
            colour = _LINES[number % len(_LINES)]
            # a label that starts with _ is left out of the legend, a long one would be cut
            shown = ("\u200b" if label.startswith("_") else "") + _short(label)
            axes.plot(x, y, color=colour, linestyle=dashes, marker=marker, label=shown)
        style(axes)
        if len(lines) > 1:
            longest = max(len(_short(label)) for label in lines)
            columns = max(1, min(3, 45 // (longest + 4)))
            figure.legend(loc="outside upper left", ncols=columns, fontsize=10)
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    return _for_page(file.getvalue(), name)


def _for_page(svg: str, name: str) -> str:
    """The element alone, hidden from readers of text, its ids its own and its colours variables."""
    svg = svg[svg.index("<svg") :]
    # a style in an SVG element would be one of the whole page; fonts are the page's
    svg = re.sub(r"<(metadata|style)[^>]*>.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(
        r'<svg[^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" {_HIDDEN}>', svg, count=1
    )
    for told, shown in _CSS.items():
        svg = svg.replace(told, shown)
    return svg


# the figure that it stands in says what it shows
_HIDDEN = 'class="chart" aria-hidden="true" focusable="false"'


def _short(label: str) -> str:
    """At most 40 characters; the table has the rest."""
    return label if len(label) <= 40 else f"{label[:39]}…"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
