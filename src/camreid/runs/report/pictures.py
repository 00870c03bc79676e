"""Pictures of a page as data URIs: training and CMC curves, and ranked lists."""

import base64
import io
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image
from torch import Tensor

from camreid.data.dataset import read_image
from camreid.errors import ImageError
from camreid.evaluation import FeatureTable, Images, RankingResult, RankOptions
from camreid.evaluation.protocols import Rules, View

Points = Sequence[tuple[float, float]]
QUERIES = 6  # of each kind
SHOWN = 10  # gallery images of each query


@dataclass(frozen=True)
class Shown:
    """An image of a list."""

    mark: str  # query, hit or miss
    picture: str | None  # a small JPEG as a data URI; None where the file cannot be read
    caption: str  # camera, and cosine similarity or distance to the query


def ranked_lists(
    table: FeatureTable, result: RankingResult, options: RankOptions
) -> list[tuple[str, list[Shown]]]:
    """Titles of the best, worst and random queries, and each with its first gallery images."""
    table = table.numbered()
    q, g, rules = table.query, table.gallery, Rules(table.query, table.gallery)
    images, cosine = g.features.float(), options.metric == "cosine"
    lists = []
    for query, kind in choose(result.average_precision, QUERIES).items():
        pid, ap = int(q.pids[query]), result.average_precision[query]
        own = q.features[query, None].float()
        scores = F.cosine_similarity(own, images) if cosine else -torch.cdist(own, images)[0]
        visible = rules.visible(View(options.protocol), query)
        shown = [_shown("query", q, query, "query")]
        order = scores.argsort(descending=True, stable=True)
        for i in order[visible[order]][:SHOWN].tolist():
            mark = "hit" if g.pids[i] == pid else "miss"
            shown.append(_shown(mark, g, i, f"{scores[i] if cosine else -scores[i]:.2f}"))
        lists.append((f"{kind}: identity {pid}, average precision {ap:.1%}", shown))
    return lists


def choose(ap: Tensor, count: int) -> dict[int, str]:
    """The kinds of at most `count` queries each; `ap` (Q,) is NaN without a match."""
    valid = [query for query in ap.argsort(stable=True).tolist() if not ap[query].isnan()]
    drawn = random.Random(0).sample(valid, len(valid))
    chosen: dict[int, str] = {}
    for kind, order in (("Best", valid[::-1]), ("Worst", valid), ("Random", drawn)):
        left = [query for query in order if query not in chosen]
        chosen |= dict.fromkeys(left[:count], kind)
    return chosen


def _shown(mark: str, images: Images, row: int, score: str) -> Shown:
    picture = thumbnail(images.paths[row]) if images.paths else None
    return Shown(mark, picture, f"c{int(images.cameras[row])} {score}")


def thumbnail(path: str) -> str | None:
    """A small JPEG as a data URI; None where there is no image that can be read."""
    try:
        small = Image.fromarray(read_image(path).permute(1, 2, 0).numpy())
    except ImageError:
        return None
    small.thumbnail((96, 192))
    content = io.BytesIO()
    small.save(content, "JPEG", quality=75)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


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
    text = name.rpartition("/")[2].replace("_", " ").replace("rank", "Rank-")
    return {"loss": "total loss", "lr": "learning rate"}.get(text, text)


def draw(x: str, lines: Mapping[str, Points], shares: bool = True) -> str:
    """Lines by name over the axis `x` as a data URI; `shares` in 0..1 are shown in per cent."""
    # the browser's fonts; the same file for the same numbers; a run may be named with dollars
    style = {"svg.fonttype": "none", "svg.hashsalt": "camreid", "text.parse_math": False}
    with matplotlib.rc_context(style):  # type: ignore[arg-type]
        figure = Figure(figsize=(5, 3 + 0.2 * len(lines)), layout="constrained")
        axes = figure.subplots()
        for points in lines.values():
            axes.plot(*zip(*points, strict=True), marker="o" if len(points) < 4 else None)
        axes.margins(x=0.02)
        alone = max(map(len, lines.values())) == 1
        axes.set_ylim(min(0, axes.get_ylim()[0]), 1 if shares and alone else None)
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
