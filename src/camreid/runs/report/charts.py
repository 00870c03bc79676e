"""Charts as SVG pictures: training curves and CMC curves."""

import base64
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from camreid.runs.table import Table, percent

Points = Sequence[tuple[float, float]]
_DASHES = ("solid", "dashed", "dashdot", "dotted")
_STYLE: dict[Any, Any] = {
    "backend": "svg",
    "svg.fonttype": "none",  # the browser's fonts have letters that matplotlib's may lack
    "svg.hashsalt": "camreid",  # the same file for the same numbers
    "text.parse_math": False,  # a run may be named with dollars
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.4,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Chart:
    """A chart with its data.

    Attributes:
        title: its heading.
        source: the SVG as a data URI.
        table: the numbers that are drawn.
    """

    title: str
    source: str
    table: Table


def training_charts(curves: Mapping[str, Points]) -> list[Chart]:
    """Losses, validation and learning rate by epoch; what was not logged is left out.

    Args:
        curves: (epoch, value) points by the name of the logged number.
    """
    groups = {
        "Training loss": [n for n in curves if n.startswith("train/") and "loss" in n],
        "Validation": [n for n in curves if n.startswith("val/") and "queries" not in n],
        "Learning rate": [n for n in curves if n.startswith("lr")],
    }
    return [
        _chart(title, "epoch", {n.removeprefix("train/"): curves[n] for n in sorted(names)})
        for title, names in groups.items()
        if names
    ]


def cmc_chart(curves: Mapping[str, Sequence[float]]) -> Chart:
    """The share of queries with a match among the first k gallery images.

    Args:
        curves: the share at rank 1, 2, ..., by run.
    """
    points = {n: [(k, share) for k, share in enumerate(c, 1)] for n, c in curves.items()}
    return _chart("CMC", "rank", points, ranks=(1, 2, 3, 5, 10, 20, 50))


def _chart(
    title: str, x_name: str, lines: Mapping[str, Points], ranks: Sequence[int] | None = None
) -> Chart:
    values = [dict(points) for points in lines.values()]
    places: Sequence[float] = ranks or sorted({x for line in values for x in line})
    shares = title in ("CMC", "Validation")
    text = percent if shares else "{:.4g}".format
    rows = [(f"{x:g}", *(text(v[x]) if x in v else "" for v in values)) for x in places]
    table = Table(f"{title} by {x_name}", (x_name, *lines), [r for r in rows if any(r[1:])])
    return Chart(title, _draw(x_name, lines, shares), table)


def _draw(x_name: str, lines: Mapping[str, Points], shares: bool) -> str:
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **_STYLE}):
        figure = Figure(figsize=(5, 3 + 0.2 * len(lines)), layout="constrained")
        axes = figure.subplots()
        for number, points in enumerate(lines.values()):
            marker = "o" if len(points) < 4 else None
            axes.plot(*zip(*points, strict=True), ls=_DASHES[number // 10 % 4], marker=marker)
        axes.set_xlabel(x_name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if shares:
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        # a label that starts with _ would be left out
        labels = [f" {name if len(name) <= 48 else f'{name[:24]}…{name[-23:]}'}" for name in lines]
        figure.legend(axes.lines, labels, loc="outside lower left")
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from", UserWarning)
            figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"
