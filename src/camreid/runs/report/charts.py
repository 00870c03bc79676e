"""Charts as SVG pictures: training curves and CMC curves."""

import base64
import io
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

Points = Sequence[tuple[float, float]]


def training_charts(curves: Mapping[str, Points]) -> dict[str, str]:
    """Losses, validation and learning rate by epoch, as data URIs by title."""
    groups = {
        "Training loss": [n for n in curves if n.startswith("train/") and "loss" in n],
        "Validation": [n for n in curves if n.startswith("val/") and "queries" not in n],
        "Learning rate": [n for n in curves if n.startswith("lr")],
    }
    return {
        title: draw("epoch", {_words(n): curves[n] for n in names}, title == "Validation")
        for title, names in groups.items()
        if names
    }


def _words(name: str) -> str:
    text = name.rpartition("/")[2].replace("_", " ")
    text = {"loss": "total loss", "lr": "learning rate"}.get(text, text)
    return text.replace("rank", "Rank-")


def draw(x: str, lines: Mapping[str, Points], shares: bool = True) -> str:
    """Lines by name over the axis `x` as a data URI; `shares` in 0..1 are shown in per cent."""
    style = {
        "svg.fonttype": "none",  # the browser's fonts have letters that matplotlib's may lack
        "svg.hashsalt": "camreid",  # the same file for the same numbers
        "text.parse_math": False,  # a run may be named with dollars
    }
    with matplotlib.rc_context(style):  # type: ignore[arg-type]
        figure = Figure(figsize=(5, 3 + 0.2 * len(lines)), layout="constrained")
        axes = figure.subplots()
        for points in lines.values():
            axes.plot(*zip(*points, strict=True), marker="o" if len(points) < 4 else None)
        places, values = zip(*(point for points in lines.values() for point in points), strict=True)
        pad = 0.02 * (max(places) - min(places)) or 0.5  # one epoch is in the middle
        axes.set_xlim(min(places) - pad, max(places) + pad)
        axes.set_ylim(min(0, *values), 1 if shares and pad == 0.5 else None)
        axes.set_xlabel(x)
        axes.grid(alpha=0.4)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
        if shares:
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        # the end of a long name; a label that starts with _ would be left out
        labels = [f" {name[-48:]}" for name in lines]
        figure.legend(axes.lines, labels, loc="outside lower left", frameon=False)
        file = io.BytesIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"
