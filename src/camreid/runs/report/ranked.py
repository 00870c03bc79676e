"""Ranked lists: queries with their first gallery images, as small pictures."""

import base64
import io
import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from camreid.data.dataset import read_image
from camreid.errors import ImageError
from camreid.evaluation import FeatureTable, Images, RankingResult, RankOptions
from camreid.evaluation.protocols import Rules, View

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
