"""Inline SVG by matplotlib, whose colours are those of the page.

A chart is some 20 kB of static SVG, which prints, zooms and needs no script, where an interactive
library would put 4.5 MB of JavaScript into every page. Colours are written as CSS variables, so
that dark mode changes them too.
"""

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]
# a value, and the ends of its interval if it has one
Dot = tuple[float, tuple[float, float] | None]
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


def draw(name: str, lines: Mapping[str, Points], style: Callable[[Axes], None]) -> str:
    """A line chart as an SVG element without ids of others on the page.

    Args:
        name: unique on the page.
        lines: points by label; few points are marked.
        style: sets what the axes say.
    """
    cut = distinct(list(lines))
    longest = max(map(len, cut))
    columns = max(1, min(3, 45 // (longest + 4)))
    # a legend of many lines takes no room from them
    height = 3.1 + 0.19 * max(0, -(-len(lines) // columns) - 2)

    def plot(axes: Axes) -> None:
        for number, (said, points) in enumerate(zip(cut, lines.values(), strict=True)):
            x, y = zip(*points, strict=True)
            dashes = _DASHES[number // len(_LINES) % len(_DASHES) if len(lines) > 6 else number % 4]
            marker = "o" if len(points) < 4 else None
            colour = _LINES[number % len(_LINES)]
            axes.plot(
                x, y, color=colour, linestyle=dashes, marker=marker, ms=4, label=_in_legend(said)
            )
        style(axes)
        if len(lines) > 1:
            legend = axes.get_figure(root=True)
            assert legend is not None
            legend.legend(loc="outside upper left", ncols=columns, fontsize=10)

    return on_paper(name, plot, height)


def draw_dots(name: str, groups: Sequence[Mapping[str, Dot]], style: Callable[[Axes], None]) -> str:
    """Values with their intervals below one another, as an SVG element like that of `draw`.

    Args:
        name: unique on the page.
        groups: by label; each group has its own marker and colour, and a line above it.
        style: sets what the axes say.
    """
    labels = distinct([label for group in groups for label in group], 22)

    def plot(axes: Axes) -> None:
        place = 0
        for number, group in enumerate(groups):
            colour, marker = _LINES[number % len(_LINES)], "osD^"[number % 4]
            for value, ends in group.values():
                if ends is not None:
                    axes.plot(ends, (place, place), color=colour, linewidth=2)
                axes.plot([value], [place], color=colour, marker=marker, markersize=7)
                place += 1
            if place < len(labels):
                axes.axhline(place - 0.5, color=_INK, linewidth=0.8)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_yticks(range(len(labels)), labels)
        style(axes)

    return on_paper(name, plot, 0.9 + 0.27 * len(labels))


def on_paper(name: str, plot: Callable[[Axes], None], height: float) -> str:
    """What is plotted, as an SVG element of the page.

    Args:
        name: unique on the page.
        plot: draws on the axes.
        height: in inches, of 4.5 of width.
    """
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, "backend": "svg", **_STYLE}):
        figure = Figure(figsize=(4.5, height), layout="constrained")
        plot(figure.subplots())
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        with warnings.catch_warnings():
            # text stays text, so that the font is the reader's and not the one that is measured by
            warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from", UserWarning)
            figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    return _for_page(file.getvalue(), name)


def _in_legend(label: str) -> str:
    """A label that starts with _ would be left out of the legend."""
    return ("\u200b" if label.startswith("_") else "") + label


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


def short(label: str, most: int = 40) -> str:
    """A label of some letters, without its middle: names differ at their ends.

    >>> short("a-rather-long-name", 9)
    'a-ra…name'
    """
    if len(label) <= most:
        return label
    end = (most - 1) // 2
    return f"{label[: most - 1 - end]}…{label[len(label) - end :]}"


def distinct(labels: Sequence[str], most: int = 40) -> list[str]:
    """Labels of some letters, no two alike; the table has the rest.

    Args:
        labels: no two alike.
        most: letters.

    >>> distinct(["one-name-is-long", "one-NAME-is-long", "b"], 9)
    ['one-…long', 'on…ng (2)', 'b']
    """
    cut: list[str] = []
    for label in labels:
        text, number = short(label, most), 1
        while text in cut:
            number += 1
            text = f"{short(label, most - len(f' ({number})'))} ({number})"
        cut.append(text)
    return cut
