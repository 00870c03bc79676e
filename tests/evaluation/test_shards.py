"""Processes that each hold a part of the gallery agree with one that holds it all."""

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from camreid.errors import InputError
from camreid.evaluation import rank, rank_protocols
from tests.evaluation import twin

CUT = 23  # images of the first process


def cases():
    """Problems with ties, and how to rank them."""
    many_ties = twin.random_problem(12, 70, 4, 3, 3, seed=0)
    few_ties = twin.random_problem(12, 70, 4, 3, 50, seed=1)
    return [
        (problem, {"metric": "euclidean", "chunk_size": 5, **problem.sequences()})
        for problem in (many_ties, few_ties)
    ]


def columns(result):
    parts = (result.average_precision, result.inverse_penalty, result.first_match)
    return torch.stack([part.double() for part in parts])


def process(number: int, file: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{file}", rank=number, world_size=2,
        timeout=timedelta(seconds=60),
    )  # fmt: skip
    part = slice(0, CUT) if number == 0 else slice(CUT, None)
    group = dist.group.WORLD
    found = []
    for problem, options in cases():
        q, g, qp, gp, qc, gc = problem.tensors()
        options["gallery_sequences"] = options["gallery_sequences"][part]
        mine = (q, g[part], qp, gp[part], qc, gc[part])
        result = rank(*mine, roc=True, group=group, **options)
        protocols = rank_protocols(*mine, group=group, **options)
        found += [columns(result), result.roc.true_positive_rate, result.roc.false_positive_rate]
        found += [columns(r) for r in protocols.results.values()]
        found.append(protocols.camera_pairs.mAP)
    broken = g[part].clone()
    broken[3] = torch.nan if number == 1 else 0
    try:
        rank(q, broken, *mine[2:], group=group)
    except InputError as error:
        found.append(str(error))
    torch.save(found, f"{file}.{number}")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[list[torch.Tensor | str]]:
    file = tmp_path_factory.mktemp("shards") / "store"
    mp.spawn(process, args=(str(file),), nprocs=2)
    return [torch.load(f"{file}.{number}") for number in range(2)]


def test_two_processes_give_the_result_of_one(found) -> None:
    expected = []
    for problem, options in cases():
        result = rank(*problem.tensors(), roc=True, **options)
        protocols = rank_protocols(*problem.tensors(), **options)
        expected += [columns(result), result.roc.true_positive_rate, result.roc.false_positive_rate]
        expected += [columns(r) for r in protocols.results.values()]
        expected.append(protocols.camera_pairs.mAP)
    for of_process in found:
        assert len(of_process) == len(expected) + 1
        for ours, theirs in zip(expected, of_process, strict=False):
            assert torch.equal(ours.nan_to_num(-1), theirs.nan_to_num(-1))


def test_no_process_waits_for_one_with_bad_features(found) -> None:
    assert found[0][-1].startswith("process 1 of 2: 1 of 47 gallery features are NaN")
    assert found[1][-1].startswith("1 of 47 gallery features are NaN")
