"""What camreid-matrix says where a comparison would be unfair, or can't be had."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from camreid.checkpoints.io import load, save
from camreid.data import Records, Split
from camreid.evaluation import FeatureTable, compare
from camreid.training import ReIDModule
from tests.cli.experts import content, ranked, typed
from tests.conftest import Ran, trained

Run = Callable[..., Ran]
pytestmark = pytest.mark.slow


def test_where_it_leaks_rows_are_compared_on_those_whom_none_has_seen(
    matrix: Run, experts: list[Path]
) -> None:
    ran = matrix(typed(experts), "+split=resplit", "run_dir=r", "combine=[concat]")
    assert ran.code == 0, ran.err
    found, split = content(), Split.load("r/split.csv")
    seen = {p for path in experts for p in load(path).labels.pids}
    fair = {r.pid for r in split.query} - seen
    results = {
        name: ranked(FeatureTable.load(Path("r", e["features"])))
        for name, e in found["experts"].items()
    }
    unseen = torch.tensor([p in fair for p in results["c1"].query_pids.tolist()])
    results = {name: result.of(unseen) for name, result in results.items()}
    compared = found["compared"]
    people = {int(p) for p in results["c1"].query_pids[results["c1"].valid]}
    everyone = found["experts"]["c1"]["leak"]["all"]["identities"]
    assert compared["leaks"]
    assert compared["identities"] == len(people) < everyone
    assert compared["queries"] == int(results["c1"].valid.sum())
    for name, result in results.items():
        assert compared["rows"][name]["retrieval"]["mAP"] == pytest.approx(result.mAP)
    best, other = sorted(results, key=lambda name: -results[name].mAP)
    assert found["best"]["all"]["mAP"] == best
    told = found["differences"][other]["mAP"]
    paired = compare(results[other], results[best])["mAP"]
    assert told["value"] == pytest.approx(paired.value)
    assert told["p"] == pytest.approx(paired.p)
    assert f"go by the {len(people)} people whom none of the rows has seen" in ran.out


def test_where_everybody_was_seen_nothing_is_compared(
    matrix: Run, experts: list[Path], records: Records
) -> None:
    for path in experts:
        module = load(path)
        save(trained(module, pids=[r.pid for r in (*records.train, *records.query)]), path)
    ran = matrix(typed(experts), "+split=resplit", "run_dir=r", "combine=[concat]")
    assert ran.code == 0, ran.err
    found = content()
    assert found["compared"]["rows"] == found["differences"] == {}
    assert found["best"]["all"] == {"mAP": None, "rank1": None}
    assert all(expert["retrieval"]["mAP"] > 0 for expert in found["experts"].values())
    assert "there are no people whom none of the rows has seen" in ran.out


def test_a_part_without_any_match(matrix: Run, experts: list[Path]) -> None:
    ran = matrix(
        typed(experts), "+split=original", "run_dir=r", "trainer.limit_test_batches=1",
        "data.eval_batch_size=2",
    )  # fmt: skip
    assert ran.code == 1
    assert "type a larger trainer.limit_test_batches" in ran.err
    assert "Traceback" not in ran.err + ran.out
    assert not Path("r/matrix.json").exists()


def test_an_interrupted_matrix_keeps_what_it_has_tested(
    matrix: Run, experts: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, tested = ReIDModule.test_step, []

    def interrupted(self: ReIDModule, *arguments: object) -> object:
        if id(self) not in tested:
            tested.append(id(self))
        if len(tested) > 1:
            raise KeyboardInterrupt
        return step(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ReIDModule, "test_step", interrupted)
    ran = matrix(typed(experts), "+split=original", "run_dir=r")
    assert ran.code == 130, ran.err
    assert list(content()["experts"]) == ["c1"]
    assert "Interrupted: c2, concat," in " ".join(ran.out.split())
    tested.append(0)
    ran = matrix(typed(experts), "+split=original", "run_dir=s")
    assert ran.code == 130, ran.err
    assert not Path("s/matrix.json").exists()
    assert "before the first expert" in " ".join(ran.out.split())


def test_queries_of_several_spaces_are_not_reranked(matrix: Run, experts: list[Path]) -> None:
    ran = matrix(
        typed(experts), "+split=original", "run_dir=r", "combine=[concat,zscore,query_camera]",
        "evaluation.rerank=k-reciprocal",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert set(content()["combinations"]) == {"concat"}
    assert set(content()["left_out"]) == {"zscore", "query_camera"}
    assert "Leave evaluation.rerank=" in content()["left_out"]["zscore"]
