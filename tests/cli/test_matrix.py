"""Experts by cameras in one command: every number again from the saved features."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from camreid.checkpoints.io import load, save
from camreid.data import OriginalSplit, Records, Split
from camreid.data.dataset import read_pixels
from camreid.evaluation import (
    Calibration,
    FeatureTable,
    RankingResult,
    RankOptions,
    compare,
    intervals,
)
from camreid.evaluation.fusion import fuse
from camreid.labels import LabelMap
from tests.cli.conftest import imported
from tests.conftest import CONFIG, Ran, tiny_module, trained

Run = Callable[..., Ran]
Tested = Callable[..., dict[str, Any]]
QUIET = ("trainer=cpu", "trainer.enable_progress_bar=false", "data.workers=0")
pytestmark = pytest.mark.slow


@pytest.fixture
def matrix(run: Run, market: Path) -> Run:
    def command(*arguments: object) -> Ran:
        fixed = (f"data.root={market}", "run_dir=r", *QUIET)
        return run("camreid-matrix", *fixed, *arguments)

    return command


def features(name: str) -> FeatureTable:
    return FeatureTable.load(Path("r", "features", f"{name}.safetensors"))


def ranked(table: FeatureTable) -> RankingResult:
    return RankOptions().rank(table)[0]


@pytest.fixture
def tested(matrix: Run) -> Tested:
    """What `matrix.json` holds, and `out`, after a run on a split."""

    def command(paths: list[Path], *arguments: str, split: str = "original") -> dict[str, Any]:
        ran = matrix(f"experts=[{','.join(map(str, paths))}]", f"+split={split}", *arguments)
        assert ran.code == 0, ran.err
        return {**json.loads(Path("r/matrix.json").read_text()), "out": ran.out}

    return command


def test_the_numbers_are_those_of_the_saved_features(
    matrix: Run, tested: Tested, experts: list[Path]
) -> None:
    found = tested(experts, "min_agreement=0")
    split = Split.load("r/split.csv")
    tables = {name: features(name) for name in ("c1", "c2")}
    assert found["experts"].keys() == tables.keys()
    for name, expert in found["experts"].items():
        result, cameras = ranked(tables[name]), tables[name].query.cameras
        assert expert["retrieval"] == pytest.approx(result.scalars())
        assert [int(c) for c in expert["by_camera"]] == cameras.unique().tolist()
        for camera, part in expert["by_camera"].items():
            own = result.of(cameras == int(camera))
            assert part["retrieval"] == pytest.approx(own.scalars())
            assert part["intervals"]["mAP"] == pytest.approx(intervals(own)["mAP"])
        head = set(load(expert["checkpoint"]).labels.pids)
        assert expert["coverage"] == len(set(split.labels.pids) & head) / len(split.labels)
        assert (expert["rows"], expert["camera"]) == (len(head), int(name[1:]))
        assert expert["leak"]["seen"]["identities"] == 0
        assert tables[name].notes["seen"] == sorted(head)

    results = {name: ranked(table) for name, table in tables.items()}
    for fusion in ("concat", "mean", "query_camera"):
        results[fusion] = ranked(fuse(fusion, tables, {"c1": 1, "c2": 2}, 0, {}))
        mAP = found["fusions"][fusion]["retrieval"]["mAP"]
        assert mAP == pytest.approx(results[fusion].mAP)
    best = max(tables, key=lambda name: results[name].mAP)
    assert found["strongest"] == best
    assert set(found["differences"]) == results.keys() - {best}
    assert "no calibration of c1, c2" in found["left_out"]["calibrated"]
    paired = compare(results["concat"], results[best])["mAP"]
    assert found["differences"]["concat"]["mAP"]["value"] == pytest.approx(paired.value)

    again = matrix("experts=1.ckpt", "+split=original")
    assert again.code == 1
    assert "matrix.json" in again.err


def test_calibrated_experts_have_a_row(tested: Tested, experts: list[Path]) -> None:
    for path, slope in zip(experts, (20.0, 5.0), strict=True):
        module = load(path)
        module.calibration = Calibration(slope, -3.0, 200)
        save(module, path)
    found = tested(experts, "fusion=[calibrated]")["fusions"]["calibrated"]
    tables = {name: features(name) for name in ("c1", "c2")}
    expected = ranked(fuse("calibrated", tables, {}, 0, {"c1": 20.0, "c2": 5.0}))
    assert found["retrieval"]["mAP"] == pytest.approx(expected.mAP)


def test_where_the_split_leaks_rows_are_compared_on_unseen_identities(
    tested: Tested, experts: list[Path]
) -> None:
    found = tested(experts, "fusion=[concat]", split="resplit")
    seen = {name: set(load(e["checkpoint"]).labels.pids) for name, e in found["experts"].items()}
    results = {name: ranked(features(name)) for name in seen}
    queries = results["c1"].query_pids.tolist()
    for name, row in found["experts"].items():
        assert row["leak"]["seen"]["identities"] == len({*queries} & seen[name]) > 0
    union = seen["c1"] | seen["c2"]
    assert found["fusions"]["concat"]["leak"]["seen"]["identities"] == len({*queries} & union)
    unseen = torch.tensor([pid not in union for pid in queries])
    fair = {name: result.of(unseen) for name, result in results.items()}
    compared = found["compared"]
    assert (compared["leaks"], compared["queries"]) == (True, fair["c1"].valid_queries)
    assert compared["identities"] == len(set(fair["c1"].query_pids[fair["c1"].valid].tolist()))
    for name, result in fair.items():
        assert compared["rows"][name]["retrieval"]["mAP"] == pytest.approx(result.mAP)
    best, other = sorted(fair, key=lambda name: -fair[name].mAP)
    assert found["strongest"] == best
    paired = compare(fair[other], fair[best])["mAP"]
    assert found["differences"][other]["mAP"]["p"] == pytest.approx(paired.p)
    cells = re.findall(rf"\d/{len({*queries})}\b", found["out"])
    assert len(cells) == 4 * 3 + 2 + 2  # one in each row of each table


def test_unknown_training_identities_are_not_counted_as_unseen(
    tested: Tested, experts: list[Path], tmp_path: Path
) -> None:
    unknown = imported(tmp_path / "mean.ckpt", None, LabelMap.anonymous(5), seed=9)
    found = tested([*experts, unknown], "fusion=[concat]", split="resplit")
    row = found["experts"]["mean-2"]  # `mean` is a fusion
    assert (row["coverage"], row["camera"], row["seen_complete"]) == (None, None, False)
    assert not found["fusions"]["concat"]["seen_complete"]
    assert not found["compared"]["complete"]
    assert "≥ 0/" in found["out"]


def test_where_all_identities_are_seen_nothing_is_compared(
    tested: Tested, experts: list[Path], records: Records
) -> None:
    pids = [r.pid for r in (*records.train, *records.query)]
    for path in experts:
        save(trained(load(path), pids=pids), path)
    found = tested(experts, "fusion=[]", split="resplit")
    assert found["compared"]["rows"] == found["differences"] == {}
    assert found["strongest"] is None
    assert all(expert["retrieval"]["mAP"] > 0 for expert in found["experts"].values())


def test_baselines_are_not_fused(tested: Tested, experts: list[Path], tmp_path: Path) -> None:
    path, other = tmp_path / "joint" / "checkpoints" / "best.ckpt", tmp_path / "small.ckpt"
    labels = load(experts[0]).labels
    imported(path, 1, labels, seed=7)
    save(tiny_module(labels, image_size=[48, 24]).eval(), other)
    named = f"baselines=['{tmp_path}/joint*/checkpoints/*.ckpt',{other}]"
    found = tested([experts[0], *experts], named, "fusion=[concat]")  # the first twice: one row
    assert (list(found["experts"]), list(found["baselines"])) == (["c1", "c2"], ["joint", "small"])
    mAP = found["baselines"]["joint"]["retrieval"]["mAP"]
    assert mAP == pytest.approx(ranked(features("joint")).mAP)
    concat = ranked(fuse("concat", {name: features(name) for name in ("c1", "c2")}, {}, 0, {}))
    assert found["fusions"]["concat"]["retrieval"]["mAP"] == pytest.approx(concat.mAP)
    assert "joint" in found["differences"]


def test_a_soup_is_a_checkpoint_with_the_mean_weights(
    tested: Tested, records: Records, tmp_path: Path
) -> None:
    paths = []
    for camera in (1, 2, 3):  # of one starting point, a little apart
        module = tiny_module(OriginalSplit(camera=camera)(records).labels)
        draw = torch.Generator().manual_seed(camera)
        with torch.no_grad():
            for parameter in module.model.parameters():
                parameter += 0.003 * torch.randn(parameter.shape, generator=draw)
        paths.append(tmp_path / f"{camera}.ckpt")
        save(trained(module).eval(), paths[-1])
    found = tested(paths, "fusion=[soup]")
    table, kept = features("soup"), load("r/soups/soup.ckpt")
    assert found["fusions"]["soup"]["retrieval"]["mAP"] == pytest.approx(ranked(table).mAP)
    images = torch.stack([read_pixels(p, kept.config.image_size) for p in table.query.paths[:5]])
    with torch.inference_mode():
        output = kept.model(images)
    torch.testing.assert_close(output.features, table.query.features[:5], rtol=1e-3, atol=1e-4)
    states = [load(path).model.state_dict() for path in paths]
    weight = next(name for name in states[0] if name.endswith("conv1.weight"))
    mean = torch.stack([state[weight] for state in states]).mean(0)
    torch.testing.assert_close(kept.model.state_dict()[weight], mean)
    assert kept.provenance.seen >= set(kept.labels.pids)


def test_fusions_that_experts_do_not_allow_are_left_out_with_the_reason(
    tested: Tested, experts: list[Path], tmp_path: Path
) -> None:
    network = {**CONFIG["network"], "last_stride": None}
    module = tiny_module(load(experts[0]).labels, network=network)
    save(trained(module, 2).eval(), tmp_path / "other.ckpt")
    fusions = ["concat", "mean", "query_camera", "soup"]
    found = tested([*experts, tmp_path / "other.ckpt"], f"fusion=[{','.join(fusions)}]")
    assert list(found["experts"]) == ["c1", "c2", "c2-2"]
    assert (list(found["fusions"]), list(found["left_out"])) == (fusions[:1], fusions[1:])
    assert "No row soup: " in found["out"]


def test_routed_queries_are_not_reranked(tested: Tested, experts: list[Path]) -> None:
    options = ("fusion=[concat,query_camera]", "evaluation.rerank=k-reciprocal")
    found = tested(experts, *options)
    assert (set(found["fusions"]), set(found["left_out"])) == ({"concat"}, {"query_camera"})


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("", "experts= is missing"),
        ("experts=nowhere/*.ckpt", "no file matches"),
        ("experts=[gone.ckpt]", "no checkpoint at gone.ckpt"),
        ("experts=[1.ckpt] fusion=[sum]", "concat"),
        ("experts=[1.ckpt] min_agreement=2", "0..1"),
        ("experts=[1.ckpt] trainer.devices=2", "one device"),
        ("experts=[1.ckpt,other.ckpt]", "other.ckpt was trained on another dataset: 3 of"),
        ("experts=[1.ckpt] trainer.limit_test_batches=1 data.eval_batch_size=2", "limit_test"),
    ],
)
def test_what_is_refused(arguments: str, part: str, matrix: Run, experts: list[Path]) -> None:
    imported(experts[0].with_name("other.ckpt"), 1, LabelMap((7001, 7002, 7003)), seed=5)
    ran = matrix("+split=original", *arguments.split())
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert part in ran.err
    assert not Path("r").exists()
