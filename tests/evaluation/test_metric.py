"""The torchmetrics metrics, and the summary of a test."""

import math

import pytest
import torch

from camreid.data import Records, Resplit
from camreid.evaluation import RetrievalMetric, rank
from camreid.evaluation.metric import IdentityAccuracy
from camreid.evaluation.summary import leakage

Tensors = tuple[torch.Tensor, ...]


@pytest.fixture
def images() -> Tensors:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60, 8, generator=generator)
    pids, cameras = (1 + torch.randint(n, (60,), generator=generator) for n in (6, 3))
    return features, pids, cameras, torch.arange(60)


def test_batches_in_any_order_with_repeats_count_once(images: Tensors) -> None:
    f, pids, cameras, index = images
    query = torch.arange(60) < 15
    expected = rank(f[query], f[~query], pids[query], pids[~query], cameras[query], cameras[~query])
    metric = RetrievalMetric()
    shuffled = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    for chunk in torch.cat([shuffled, shuffled[:20]]).split(7):
        for role, members in (("query", query[chunk]), ("gallery", ~query[chunk])):
            some = chunk[members]
            if len(some):
                metric.update(f[some], pids[some], cameras[some], index[some], role=role)
    assert metric.compute()["mAP"].item() == pytest.approx(expected.mAP)
    assert metric.ranking().first_match.tolist() == expected.first_match.tolist()


def test_auto_ranks_one_camera_within_itself(images: Tensors) -> None:
    f, pids, cameras, index = images
    metric = RetrievalMetric(protocol="auto")
    metric.update(f, pids, cameras * 0 + 4, index, role="both")
    result = metric.ranking()
    assert result.protocol == "within-camera"
    assert result.valid_queries == 60
    assert result.mAP < 0.9  # no image is its own match
    metric.reset()
    metric.update(f, pids, cameras, index, role="both")
    assert metric.ranking().protocol == "cross-camera"


def test_auto_excludes_the_query_sequence_where_an_identity_has_two() -> None:
    pids, ones = torch.tensor([1, 1, 1, 2, 2, 2]), torch.ones(6, dtype=torch.int64)
    metric = RetrievalMetric(protocol="auto")
    metric.update(torch.eye(6), pids, ones, torch.arange(6), "both", pids)
    assert metric.compute()["valid_queries"] == 6
    metric.reset()
    metric.update(torch.eye(6), pids, ones, torch.arange(6), "both", ones + (pids == 2))
    metric.update(torch.eye(6)[:1], ones[:1], ones[:1], torch.tensor([6]), "both", ones[:1] + 1)
    assert metric.compute()["valid_queries"] == 4


def test_accuracy_is_over_known_identities_once_each() -> None:
    metric = IdentityAccuracy()
    for _ in range(2):
        rows = torch.tensor([0, 1, 2, -1])
        metric.update(torch.eye(3)[[0, 1, 1, 2]], rows, torch.arange(4))
    values = {name: value.item() for name, value in metric.compute().items()}
    assert values == {"accuracy": pytest.approx(2 / 3), "coverage": 0.75, "images": 4.0}
    metric.reset()
    metric.update(torch.eye(2), torch.tensor([-1, -1]), torch.arange(2))
    assert math.isnan(metric.compute()["accuracy"])
    assert metric.compute()["coverage"] == 0


def test_leakage_divides_the_queries(images: Tensors) -> None:
    f, pids, cameras, _ = images
    result = rank(f[:20], f[20:], pids[:20], pids[20:], cameras[:20], cameras[20:])
    table = leakage(result, {1, 2, 3})
    known = torch.isin(pids[:20], torch.tensor([1, 2, 3]))
    assert table["seen"]["queries"] == int(known.sum())
    assert table["seen"]["identities"] + table["unseen"]["identities"] == table["all"]["identities"]
    precisions = result.average_precision[known]
    assert table["seen"]["mAP"] == pytest.approx(precisions[~precisions.isnan()].mean().item())
    assert leakage(result, set())["seen"]["mAP"] is None


def test_the_table_knows_the_records_of_a_split(records: Records) -> None:
    split = Resplit(0.5, 0.0, 0)(records)
    metric = RetrievalMetric()
    for role, part in (("gallery", split.gallery), ("query", split.query)):
        for i in reversed(range(len(part))):  # in any order, and one of them twice
            column = [torch.tensor([v]) for v in (part[i].pid, part[i].camera, i)]
            for _ in range(1 + (i == 0)):
                metric.update(torch.full((1, 2), float(i)), *column, role=role)
    table = metric.table(split)
    assert table.query.paths == tuple(r.path for r in split.query)
    assert table.gallery.sequences.tolist() == [r.sequence for r in split.gallery]
    assert table.gallery.features[:, 0].tolist() == list(range(len(split.gallery)))
    assert not (metric.table().gallery.sequences > 0).any()
