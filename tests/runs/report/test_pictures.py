"""Ranked lists against sorting all images by similarity."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch.nn.functional as F

from camreid.data import Records
from camreid.evaluation import RankOptions
from camreid.runs.report.pictures import choose, ranked_lists, thumbnail
from tests.runs.folders import features


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("protocol", ["cross-camera", "within-camera"])
def test_lists_are_those_of_sorting_everything(
    metric: str, protocol: str, records: Records
) -> None:
    table = features(records, noise=0.4)
    q, g = (replace(part, cameras=part.cameras % 2) for part in (table.query, table.gallery))
    table = replace(table, query=q, gallery=g)  # so that there are matches within a camera
    options = RankOptions(metric=metric, protocol=protocol)  # type: ignore[arg-type]
    result, _ = options.rank(table)
    lists = ranked_lists(table, result, options)
    chosen = choose(result.average_precision, 6)
    assert list(chosen.values()) == ["Best"] * 6 + ["Worst"] * 6 + ["Random"] * 6
    ap, queries = result.average_precision, list(chosen)
    assert (ap[queries[0]], ap[queries[6]]) == (ap[result.valid].max(), ap[result.valid].min())
    for (title, (query, *gallery)), (i, kind) in zip(lists, chosen.items(), strict=True):
        if metric == "cosine":
            scores = [-F.cosine_similarity(q.features[i], f, dim=0).item() for f in g.features]
        else:
            scores = [(q.features[i] - f).norm().item() for f in g.features]
        order = sorted(range(len(scores)), key=lambda j: scores[j])
        order = [j for j in order if g.pids[j] != -1 and _visible(q, g, i, j, protocol)][:10]
        assert title.startswith(f"{kind}: identity {int(q.pids[i])}, ")
        assert query.picture == thumbnail(q.paths[i])
        assert [image.picture for image in gallery] == [thumbnail(g.paths[j]) for j in order]
        marks = ["hit" if g.pids[j] == q.pids[i] else "miss" for j in order]
        assert [image.mark for image in gallery] == marks
        captions = [image.caption.split() for image in gallery]
        assert [camera for camera, _ in captions] == [f"c{int(g.cameras[j])}" for j in order]
        found = [abs(float(score)) for _, score in captions]
        assert found == pytest.approx([abs(scores[j]) for j in order], abs=0.006)


def _visible(q: Any, g: Any, i: int, j: int, protocol: str) -> bool:
    same, camera = bool(g.pids[j] == q.pids[i]), bool(g.cameras[j] == q.cameras[i])
    if protocol == "cross-camera":
        return not (same and camera)
    return camera and not (same and g.sequences[j] == q.sequences[i])


def test_a_file_without_an_image_has_no_thumbnail(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"cut short")
    for path in ("", str(tmp_path / "x.jpg"), str(tmp_path / "nowhere.jpg")):
        assert thumbnail(path) is None
