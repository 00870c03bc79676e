"""Ranked lists against sorting all images by similarity."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from camreid.data import Records
from camreid.evaluation import RankOptions
from camreid.runs.report.ranked import choose, ranked_lists, thumbnail
from tests.runs.report.runs import features, two_cameras


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("protocol", ["cross-camera", "within-camera"])
def test_lists_are_those_of_sorting_everything(
    metric: str, protocol: str, records: Records
) -> None:
    table = two_cameras(features(records, noise=1.5))
    options = RankOptions(metric=metric, protocol=protocol)  # type: ignore[arg-type]
    result, _ = options.rank(table)
    lists = ranked_lists(table, result, options, 4)
    assert [some.kind for some in lists] == ["Best"] * 4 + ["Worst"] * 4 + ["Random"] * 4
    ap = result.average_precision[result.valid]
    assert (lists[0].average_precision, lists[4].average_precision) == (ap.max(), ap.min())
    assert len({some.query.path for some in lists}) == len(lists)
    q, g = table.query, table.gallery
    for some in lists:
        i = q.paths.index(some.query.path)
        if metric == "cosine":
            scores = [-F.cosine_similarity(q.features[i], f, dim=0).item() for f in g.features]
        else:
            scores = [(q.features[i] - f).norm().item() for f in g.features]
        order = [
            j
            for j in sorted(range(len(scores)), key=lambda j: scores[j])
            if g.pids[j] != -1 and _visible(table, i, j, protocol)
        ]
        assert [shown.path for shown in some.gallery] == [g.paths[j] for j in order[:10]]
        hits = [bool(g.pids[j] == q.pids[i]) for j in order]
        assert [shown.match for shown in some.gallery] == hits[:10]
        assert some.first_match == hits.index(True) + 1
        shown_scores = [abs(shown.score) for shown in some.gallery]
        assert shown_scores == pytest.approx([abs(scores[j]) for j in order[:10]], abs=1e-3)
        assert all(s.picture.startswith("data:image/jpeg;base64,") for s in some.gallery)


def _visible(table: object, i: int, j: int, protocol: str) -> bool:
    q, g = table.query, table.gallery
    same, camera = g.pids[j] == q.pids[i], g.cameras[j] == q.cameras[i]
    if protocol == "cross-camera":
        return not (same and camera)
    return bool(camera and not (same and g.sequences[j] == q.sequences[i]))


def test_cameras_take_turns() -> None:
    ap, cameras = torch.tensor([0.9, 0.8, 0.7, 0.1, 0.2, 0.3]), torch.tensor([1, 1, 1, 1, 2, 2])
    chosen = choose(ap, cameras, 2)
    assert [q for kind, q in chosen if kind == "Best"] == [0, 5]
    assert [q for kind, q in chosen if kind == "Worst"] == [3, 4]


def test_a_file_without_an_image_has_no_thumbnail(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"cut short")
    for path in ("", str(tmp_path / "x.jpg"), str(tmp_path / "nowhere.jpg")):
        assert thumbnail(path) is None
