"""Experts by cameras in one command: every number again from the saved features."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from camreid.checkpoints.io import load, save
from camreid.data import OriginalSplit, Records, Split
from camreid.data.dataset import read_pixels
from camreid.evaluation import FeatureTable, compare, intervals, rank
from camreid.labels import LabelMap
from tests.cli.experts import content, imported, ranked, refused, typed
from tests.conftest import CONFIG, Ran, tiny_module, trained

Run = Callable[..., Ran]
pytestmark = pytest.mark.slow


def features(name: str) -> FeatureTable:
    return FeatureTable.load(Path("r", "features", f"{name}.safetensors"))


def done(ran: Ran) -> dict[str, Any]:
    assert ran.code == 0, ran.err
    return content()


def test_the_numbers_are_those_of_the_saved_features(matrix: Run, experts: list[Path]) -> None:
    found = done(matrix(typed(experts), "+split=original", "run_dir=r", "min_agreement=0"))
    split = Split.load("r/split.csv")
    assert list(found["experts"]) == ["c1", "c2"]
    for name, expert in found["experts"].items():
        table = features(name)
        result, cameras = ranked(table), table.query.cameras
        assert expert["retrieval"]["mAP"] == pytest.approx(result.mAP)
        assert [int(c) for c in expert["by_camera"]] == cameras.unique().tolist()
        for camera, part in expert["by_camera"].items():
            own = cameras == int(camera)
            ap, first = result.average_precision[own], result.first_match[own]
            assert part["retrieval"]["mAP"] == pytest.approx(ap[first > 0].mean().item())
            rank1 = (first[first > 0] == 1).double().mean().item()
            assert part["retrieval"]["rank1"] == pytest.approx(rank1)
            assert part["intervals"]["mAP"] == pytest.approx(intervals(result.of(own))["mAP"])
        head = set(load(expert["checkpoint"]).labels.pids)
        assert expert["coverage"] == len(set(split.labels.pids) & head) / len(split.labels)
        assert (expert["rows"], expert["camera"]) == (len(head), int(name[1:]))
        assert expert["leak"]["seen"]["identities"] == 0
        assert table.notes["seen"] == sorted(head)

    tables = [features(name) for name in found["experts"]]
    q, g = tables[0].query, tables[0].gallery
    assert set(found["fusions"]) == {"concat", "mean", "query_camera"}
    units = [
        [F.normalize(getattr(t, part).features) for t in tables] for part in ("query", "gallery")
    ]
    concat = rank(*(torch.cat(u, 1) for u in units), q.pids, g.pids, q.cameras, g.cameras)
    assert found["fusions"]["concat"]["retrieval"]["mAP"] == pytest.approx(concat.mAP)
    best = max(found["experts"], key=lambda n: found["experts"][n]["retrieval"]["mAP"])
    assert found["strongest"] == best
    assert set(found["differences"]) == {"c1", "c2", "concat", "mean", "query_camera"} - {best}
    paired = compare(concat, ranked(features(best)))["mAP"]
    assert found["differences"]["concat"]["mAP"]["value"] == pytest.approx(paired.value)

    again = matrix(typed(experts), "+split=original", "run_dir=r")
    assert again.code == 1
    assert "matrix.json" in again.err


def test_where_the_split_leaks_rows_are_compared_on_unseen_identities(
    matrix: Run, experts: list[Path]
) -> None:
    ran = matrix(typed(experts), "+split=resplit", "run_dir=r", "fusion=[concat]")
    found = done(ran)
    seen = {name: set(load(e["checkpoint"]).labels.pids) for name, e in found["experts"].items()}
    results = {name: ranked(features(name)) for name in seen}
    tested = set(results["c1"].query_pids.tolist())
    for name, row in found["experts"].items():
        assert row["leak"]["seen"]["identities"] == len(tested & seen[name]) > 0
    union = seen["c1"] | seen["c2"]
    assert found["fusions"]["concat"]["leak"]["seen"]["identities"] == len(tested & union)
    unseen = torch.tensor([p not in union for p in results["c1"].query_pids.tolist()])
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
    assert len(re.findall(rf"\d/{len(tested)}\b", ran.out)) == 4 * 3 + 2 + 2  # in every table row


def test_unknown_training_identities_are_not_counted_as_unseen(
    matrix: Run, experts: list[Path], tmp_path: Path
) -> None:
    unknown = imported(tmp_path / "mean.ckpt", None, LabelMap.anonymous(5), seed=9)
    ran = matrix(typed([*experts, unknown]), "+split=resplit", "run_dir=r", "fusion=[concat]")
    found = done(ran)
    row = found["experts"]["mean-2"]  # `mean` is a fusion
    assert (row["coverage"], row["camera"], row["seen_complete"]) == (None, None, False)
    assert not found["fusions"]["concat"]["seen_complete"]
    assert not found["compared"]["complete"]
    assert "≥ 0/" in ran.out


def test_where_all_identities_are_seen_nothing_is_compared(
    matrix: Run, experts: list[Path], records: Records
) -> None:
    for path in experts:
        pids = [r.pid for r in (*records.train, *records.query)]
        save(trained(load(path), pids=pids), path)
    found = done(matrix(typed(experts), "+split=resplit", "run_dir=r", "fusion=[]"))
    assert found["compared"]["rows"] == found["differences"] == {}
    assert found["strongest"] is None
    assert all(expert["retrieval"]["mAP"] > 0 for expert in found["experts"].values())


def test_baselines_are_not_fused(matrix: Run, experts: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "joint" / "checkpoints" / "best.ckpt"
    imported(path, 1, load(experts[0]).labels, seed=7)
    other = path.parents[2] / "small.ckpt"
    save(tiny_module(load(experts[0]).labels, image_size=[48, 24]).eval(), other)
    named = f"baselines=['{tmp_path}/joint*/checkpoints/*.ckpt',{other}]"
    twice = (experts[0], *experts)  # one row
    found = done(matrix(typed([*twice]), named, "+split=original", "run_dir=r", "fusion=[concat]"))
    assert (list(found["experts"]), list(found["baselines"])) == (["c1", "c2"], ["joint", "small"])
    assert found["baselines"]["joint"]["retrieval"]["mAP"] == pytest.approx(
        ranked(features("joint")).mAP
    )
    width = sum(features(name).query.features.shape[1] for name in ("c1", "c2"))
    assert width == 2 * features("joint").query.features.shape[1]
    assert "joint" in found["differences"]


def test_a_soup_is_a_checkpoint_with_the_mean_weights(
    matrix: Run, records: Records, tmp_path: Path
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
    found = done(matrix(typed(paths), "+split=original", "run_dir=r", "fusion=[soup]"))
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
    matrix: Run, experts: list[Path], tmp_path: Path
) -> None:
    labels = load(experts[0]).labels
    network = {**CONFIG["network"], "last_stride": None}
    save(trained(tiny_module(labels, network=network), 2).eval(), tmp_path / "other.ckpt")
    more = [*experts, tmp_path / "other.ckpt"]
    fusions = "fusion=[concat,mean,query_camera,soup]"
    ran = matrix(typed(more), "+split=original", "run_dir=r", fusions)
    found = done(ran)
    assert list(found["experts"]) == ["c1", "c2", "c2-2"]
    assert list(found["fusions"]) == ["concat"]
    assert set(found["left_out"]) == {"mean", "query_camera", "soup"}
    assert "No row soup: " in ran.out


def test_routed_queries_are_not_reranked(matrix: Run, experts: list[Path]) -> None:
    options = ("fusion=[concat,query_camera]", "evaluation.rerank=k-reciprocal")
    found = done(matrix(typed(experts), "+split=original", "run_dir=r", *options))
    assert (set(found["fusions"]), set(found["left_out"])) == ({"concat"}, {"query_camera"})


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((), "experts names no checkpoint"),
        (("experts=nowhere/*.ckpt",), "no file matches"),
        (("experts=[gone.ckpt]",), "no checkpoint at gone.ckpt"),
        (("experts=[1.ckpt]", "fusion=[sum]"), "concat"),
        (("experts=[1.ckpt]", "min_agreement=2"), "0..1"),
        (("experts=[1.ckpt]", "trainer.devices=2"), "one device"),
        (("experts=[1.ckpt,other.ckpt]",), "other.ckpt was trained on another dataset: 3 of"),
        (
            ("experts=[1.ckpt]", "trainer.limit_test_batches=1", "data.eval_batch_size=2"),
            "trainer.limit_test_batches",
        ),
    ],
)
def test_what_is_refused(
    arguments: tuple[str, ...], part: str, matrix: Run, experts: list[Path]
) -> None:
    imported(experts[0].with_name("other.ckpt"), 1, LabelMap((7001, 7002, 7003)), seed=5)
    assert part in refused(matrix("+split=original", "run_dir=r", *arguments))
