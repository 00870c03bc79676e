"""Two runs on one test: which is better, or why that is not decided."""

import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import pytest
import torch

from camreid.errors import InputError
from camreid.evaluation import Difference, FeatureTable, Images, RankOptions
from camreid.provenance import SplitRecord
from camreid.runs.compare import Pair, compare_runs
from camreid.runs.folder import RunFolder
from camreid.runs.metrics import HeadCheckRecord
from camreid.runs.table import Table, in_points
from tests.runs.folders import HEAD, change, features, make_run, records

TEST = records(range(1, 21))
GOOD, BAD = features(TEST, 0.2), features(TEST, 0.5, seed=1)


def pair_of(*paths: Path) -> Pair:
    (pair,) = compare_runs(paths).pairs
    return pair


def test_the_better_run_is_named_in_either_order(tmp_path: Path) -> None:
    good, bad = make_run(tmp_path / "good", GOOD), make_run(tmp_path / "bad", BAD)
    first, second = (RunFolder(path).metrics.retrieval for path in (good, bad))
    for pair in (pair_of(good, bad), pair_of(bad, good)):
        assert pair.better == str(good)
        assert f"{good} is better than {bad} by" in pair.verdict
        assert (pair.queries, pair.identities, pair.leaked) == (60, 20, 0)
        for name, difference in pair.differences.items():
            assert difference.value == pytest.approx(first[name] - second[name])
            assert difference.low <= difference.value <= difference.high


@pytest.mark.parametrize(
    ("identities", "found", "doubt"),
    [
        (90, Difference(0.02, 0.01, 0.03, 0.01), None),
        (90, Difference(0.02, 0.01, 0.03, 0.05), "p is not below 0.05"),
        (90, Difference(0.02, -0.01, 0.03, 0.04), "the interval includes 0"),
        (90, Difference(0.0004, 0.0001, 0.0007, 0.01), "below 0.1 points"),
        (5, Difference(0.02, 0.01, 0.03, 0.06), "at least 6 identities"),
        (1, Difference(0.02, math.nan, math.nan, 1.0), "at least 6 identities"),
    ],
)
def test_an_inconclusive_verdict_has_its_reason(
    identities: int, found: Difference, doubt: str | None
) -> None:
    pair = Pair("a", "b", 900, identities, differences={"mAP": found})
    assert pair.better == (None if doubt else "a")
    start = "No clear difference between a and b: " if doubt else "a is better than b by 2.0 points"
    assert pair.verdict.startswith(start)
    assert "-0.0 " not in pair.verdict
    assert (doubt or "") in pair.verdict


def test_other_tests_are_not_comparable(tmp_path: Path) -> None:
    q, g = GOOD.query, GOOD.gallery
    within = RankOptions(protocol="within-camera")
    others = {
        "30 of 60 and 60 queries": features(records(range(11, 31))),
        "0 of 60 and 60 gallery images": FeatureTable(q, replace(g, pids=g.pids.flip(0))),
        "0 of 60 and 0 gallery images": FeatureTable(q, replace(g, paths=())),
        "cross-camera and within-camera": FeatureTable(replace(q, sequences=q.sequences + 1), g),
    }
    a = make_run(tmp_path / "a", GOOD)
    for reason, table in others.items():
        options = within if "within" in reason else RankOptions()
        pair = pair_of(a, make_run(tmp_path / reason, table, options=options))
        assert "are not comparable: " in pair.verdict
        assert reason in pair.verdict
        assert ("within" in reason) or f"camreid-compare {a}/best.ckpt" in pair.verdict


def test_shared_queries_of_one_gallery_are_paired(tmp_path: Path) -> None:
    back = torch.arange(len(GOOD.query.pids)).flip(0)[:40]
    tensors = {name: tensor[back] for name, tensor in GOOD.query.tensors.items()}
    paths = (GOOD.query.paths[i].replace("/data", "/elsewhere") for i in back.tolist())
    some = FeatureTable(Images(**tensors, paths=tuple(paths)), GOOD.gallery)
    whole, part = make_run(tmp_path / "a", GOOD), make_run(tmp_path / "b", some)
    for pair in (pair_of(whole, part), pair_of(part, whole)):
        assert pair.queries == 40
        assert all(d.value == d.low == d.high == 0 for d in pair.differences.values())


def test_a_leaking_test_is_decided_on_unseen_identities(tmp_path: Path) -> None:
    # b is perfect on identities that it was trained on, and worse on the others
    noisy, clean = features(TEST, 0.9, seed=1), features(TEST, 0.0)
    known = (noisy.query.pids <= 10)[:, None]
    parts = ((noisy.query, clean.query), (noisy.gallery, clean.gallery))
    mixed = (p.with_features(torch.where(known, q.features, p.features)) for p, q in parts)
    a = make_run(tmp_path / "a", GOOD)
    b = make_run(tmp_path / "b", FeatureTable(*mixed), seen=range(1, 11))
    pair = pair_of(a, b)
    assert (pair.queries, pair.identities, pair.leaked) == (30, 10, 10)
    assert pair.better == str(a)
    assert "10 identities that one of them was trained on are left out" in pair.verdict
    change(a, seen_complete=False)
    found = compare_runs((a, b))
    assert "not all training identities" in found.pairs[0].verdict
    (scores,) = (table for table in found.tables() if table.title.startswith("Test"))
    rows = [row[0].removeprefix(f"{tmp_path}/") for row in scores.rows]
    assert rows == ["a", "b", "b, 10 seen identities", "b, 10 unseen identities"]
    c = make_run(tmp_path / "c", noisy, seen=range(1, 21))
    assert "trained on each of the 20 identities" in pair_of(a, c).verdict


def test_tables_and_files_hold_every_run(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", GOOD, split={"by": "image"}, model=None)
    b = make_run(tmp_path / "b", GOOD, split={"camera": 3}, model={"name": "small"})
    heads = [{**HEAD, "identities": 0, "coverage": 0.0}, {**HEAD, "coverage": 0.5}, HEAD]
    RunFolder(b).write(HeadCheckRecord("skip", heads))
    found = compare_runs((a, b, make_run(tmp_path / "c", GOOD, split={"camera": 1})))
    assert found.options["split.by"] == ["image", "(not set)", "(not set)"]
    assert not {"run_dir", "model.name"} & found.options.keys()  # not all have a model
    (checks,) = (table for table in found.tables() if table.title.startswith("Head check"))
    assert [row[-2] for row in checks.rows] == ["75.0 %", "50.0 %", "75.0 %"]
    assert all(len(row) == len(table.columns) for table in found.tables() for row in table.rows)
    pairs = json.loads(json.dumps(found.to_json(), allow_nan=False))["pairs"]
    assert [pair["verdict"] for pair in pairs] == [pair.verdict for pair in found.pairs]
    assert [pair["first"][-1] + pair["second"][-1] for pair in pairs] == ["ab", "ac", "bc"]


def test_what_is_not_two_tested_runs_is_refused(tmp_path: Path) -> None:
    run, other = make_run(tmp_path / "0", GOOD), make_run(tmp_path / "1", GOOD)
    for paths in ((), (run,), (run, tmp_path / "." / "0"), (run, tmp_path / "gone")):
        with pytest.raises(InputError):
            compare_runs(paths)
    for file in ("features.safetensors", "metrics.json"):
        (other / file).unlink()
        with pytest.raises(InputError, match=f"1 has no {file}"):
            compare_runs((run, other))


def test_seeds_are_one_row_with_mean_and_deviation(tmp_path: Path) -> None:
    seeds = [
        make_run(tmp_path / f"s{s}", features(TEST, 0.3, seed=s), seed=s, lr=1) for s in range(3)
    ]
    other = make_run(tmp_path / "other", BAD, seed=0, lr=2)
    found = compare_runs((*seeds, other))
    (pair,) = found.pairs
    assert pair.better == str(seeds[0])
    assert f"{seeds[0]} (lr 1, 3 seeds) is better than {other} (lr 2) by" in pair.verdict
    mAP = [RunFolder(path).metrics.retrieval["mAP"] for path in seeds]
    gain = mean(mAP) - RunFolder(other).metrics.retrieval["mAP"]
    assert pair.differences["mAP"].value == pytest.approx(gain)
    row = found.scores.rows[-1]
    assert row[2] == f"{100 * mean(mAP):.1f} %\n± {100 * stdev(mAP):.1f}"
    again = make_run(tmp_path / "tta", features(TEST, 0.3), seed=3, lr=1)
    change(again, evaluation={"metric": "euclidean"})  # another test is no seed
    assert len(compare_runs((*seeds, again)).methods) == 2


def test_words_name_the_split_and_the_unknown(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", GOOD, init="x.ckpt", model={"name": "m", "unknown": "skip"})
    b = make_run(tmp_path / "b", BAD, init=None, model={"name": "m", "unknown": "skip"})
    change(a, split=SplitRecord("resplit", {"train_fraction": 0.5, "seed": 0}).to_json())
    assert (
        f"{a} (re-split, skip) is better than {b} (original split, camera 3)"
        in pair_of(a, b).verdict
    )


@pytest.mark.parametrize(
    ("shares", "shown"),
    [
        ((0.0004, -0.001, 0.002), ["0.04", "-0.10", "0.20"]),
        ((-0.00001, 0.02, 0.3), ["0.0", "2.0", "30.0"]),
        ((0.0, 0.0), ["0.0", "0.0"]),
        ((0.021, math.nan), ["2.1", "nan"]),
    ],
)
def test_points_have_two_significant_digits(shares: list[float], shown: list[str]) -> None:
    assert in_points(*shares) == shown


def test_tables_are_written_for_papers_and_spreadsheets() -> None:
    table = Table("t", ("", "mAP"), [["a_b & c", "54.3 %\n50.0..60.0"], ["d", "1.0 %"]])
    assert table.text(".csv").splitlines() == [
        ",mAP,mAP interval",
        "a_b & c,54.3,50.0..60.0",
        "d,1.0,",
    ]
    assert r"a\_b \& c & 54.3 \% 50.0..60.0 \\" in table.text(".tex")
    assert "| a_b & c | 54.3 % 50.0..60.0 |" in table.text(".md")
