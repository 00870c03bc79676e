"""Runs side by side: folders as the commands leave them, with features made here."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml

from camreid.errors import InputError
from camreid.evaluation import FeatureTable, Images, RankOptions
from camreid.evaluation.summary import EvaluationResult
from camreid.runs.compare import compare_runs
from camreid.runs.folder import HeadCheckRecord, Metrics, RunFolder

IDENTITIES = tuple(range(1, 21))
CAMERAS = (1, 2, 3)


def features(identities: Sequence[int], noise: float, seed: int) -> FeatureTable:
    """A query and a gallery image of each identity and camera; noise mixes identities up."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for part in ("query", "gallery"):
        kinds = [(pid, camera) for pid in identities for camera in CAMERAS]
        pids, cameras = torch.tensor(kinds).T.contiguous()
        own = torch.nn.functional.one_hot(pids, 100).float()
        vectors = own + noise * torch.randn(own.shape, generator=generator)
        paths = tuple(f"/datasets/{part}/{pid:04d}_c{camera}s1_1_00.jpg" for pid, camera in kinds)
        parts.append(Images(vectors, pids, cameras, torch.ones_like(pids), paths))
    return FeatureTable(*parts)


def make_run(
    folder: Path,
    noise: float = 0.3,
    seed: int = 0,
    table: FeatureTable | None = None,
    seen: Sequence[int] = (90,),
    config: dict[str, object] | None = None,
    options: RankOptions = RankOptions(),  # noqa: B008
) -> Path:
    """What a run leaves behind."""
    table = features(IDENTITIES, noise, seed) if table is None else table
    table = FeatureTable(table.query, table.gallery, {"seen": list(seen)})
    result, protocols = options.rank(table)
    summary = EvaluationResult(result, frozenset(seen), None, protocols).summary()
    weights = f"{folder}/checkpoints/best.ckpt"
    split = {"kind": "custom", "digest": f"of {len(table.query.pids)}"}
    run = RunFolder(folder)
    run.write(Metrics(**summary, evaluation=vars(options), weights=weights, split=split))
    run.write_config(yaml.safe_dump({"run_dir": str(folder), "seed": seed, **(config or {})}))
    table.save(folder / "features.safetensors")
    return folder


def test_the_better_run_is_named_in_either_order(tmp_path: Path) -> None:
    good, bad = make_run(tmp_path / "good", 0.2), make_run(tmp_path / "bad", 0.5, seed=1)
    for order in ((good, bad), (bad, good)):
        (pair,) = compare_runs(order).pairs
        assert pair.better is not None
        assert pair.better.folder.path == good
        assert f"({good}) is better than" in pair.verdict
        assert "on the same 60 queries" in pair.verdict
        assert pair.shared is not None
        assert (pair.shared.queries, pair.shared.identities) == (60, len(IDENTITIES))


def test_the_difference_is_that_of_the_metrics(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / "a", 0.3), make_run(tmp_path / "b", 0.4, seed=1)]
    a, b = (json.loads((f / "metrics.json").read_text())["retrieval"] for f in folders)
    (pair,) = compare_runs(folders).pairs
    assert not pair.leaks
    for name in ("mAP", "rank1", "mINP"):
        difference = pair.shared.differences[name]
        assert difference.value == pytest.approx(a[name] - b[name])
        assert difference.low <= difference.value <= difference.high


def test_the_same_features_are_inconclusive(tmp_path: Path) -> None:
    table = features(IDENTITIES, 0.4, seed=2)
    found = compare_runs([make_run(tmp_path / name, table=table) for name in "ab"])
    assert found.pairs[0].better is None
    assert found.verdicts[0].startswith("inconclusive: ")
    assert "0.0 points mAP (95 % 0.0 .. 0.0, p = 1)" in found.verdicts[0]


def test_other_galleries_are_not_comparable(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a")
    b = make_run(tmp_path / "b", table=features(range(11, 31), 0.3, 0))
    found = compare_runs((a, b))
    assert found.pairs[0].shared is None
    assert found.verdicts[0].startswith("not comparable: ")
    assert "30 of 60 and 60 queries" in found.verdicts[0]
    assert f"exclude_seen=[{a}/checkpoints/best.ckpt,{b}/checkpoints/best.ckpt]" in str(
        found.caveats
    )


def test_shared_queries_of_one_gallery_are_paired(tmp_path: Path) -> None:
    table = features(IDENTITIES, 0.3, seed=0)
    q = table.query
    back = torch.arange(len(q.pids)).flip(0)[:40]
    some = Images(
        q.features[back], q.pids[back], q.cameras[back], q.sequences[back],
        tuple(q.paths[i].replace("/datasets", "/elsewhere") for i in back.tolist()),
    )  # fmt: skip
    expand = RankOptions(expand=1)
    whole = make_run(tmp_path / "a", table=table, options=expand)
    part = make_run(tmp_path / "b", table=FeatureTable(some, table.gallery), options=expand)
    for order in ((whole, part), (part, whole)):
        shared = compare_runs(order).pairs[0].shared
        assert shared.queries == 40
        # expansion sees the shared queries alone in both
        assert all(d.value == d.low == d.high == 0 for d in shared.differences.values())


def test_other_labels_and_nameless_images_are_not_comparable(tmp_path: Path) -> None:
    table = features(IDENTITIES, 0.3, seed=0)
    a = make_run(tmp_path / "a", table=table)
    g = table.gallery
    other = Images(g.features, g.pids.flip(0), g.cameras, g.sequences, g.paths)
    nameless = Images(g.features, g.pids, g.cameras, g.sequences)
    for name, gallery in (("b", other), ("c", nameless)):
        b = make_run(tmp_path / name, table=FeatureTable(table.query, gallery))
        assert compare_runs((a, b)).pairs[0].reason


def test_a_leaking_test_is_decided_on_unseen_identities(tmp_path: Path) -> None:
    # b is perfect on identities that it was trained on, and worse on the others
    honest, noisy = features(IDENTITIES, 0.2, seed=0), features(IDENTITIES, 0.9, seed=1)
    clean = features(IDENTITIES, 0.0, seed=0)
    known = noisy.query.pids <= 10
    mixed = [
        part.with_features(torch.where(known[:, None], ideal.features, part.features))
        for part, ideal in ((noisy.query, clean.query), (noisy.gallery, clean.gallery))
    ]
    a = make_run(tmp_path / "a", table=honest)
    b = make_run(tmp_path / "b", table=FeatureTable(*mixed), seen=range(1, 11))
    (pair,) = compare_runs((a, b)).pairs
    assert pair.leaks
    assert (pair.unseen.queries, pair.unseen.identities) == (30, 10)
    assert pair.better.letter == "A"
    assert "30 queries of the 10 identities" in pair.verdict
    c = make_run(tmp_path / "c", table=noisy, seen=IDENTITIES)
    assert compare_runs((a, c)).verdicts[0].startswith("not comparable: ")


def test_tables_and_files_hold_every_run(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", config={"split": {"by": "image"}, "model": None})
    b = make_run(tmp_path / "b", config={"split": {"camera": 3}, "model": {"name": "small"}})
    c = make_run(tmp_path / "c")
    for folder, unknown in ((a, 0), (b, 5)):
        head = {"head": "identity", "rows": 7, "shared": 5, "unknown": unknown, "identities": 9}
        shares = {"coverage": 5 / (5 + unknown), "image_coverage": 0.5}
        idle = {**head, "identities": 0, "coverage": 0.0, "image_coverage": 0.0}
        RunFolder(folder).write(HeadCheckRecord("skip", [idle, {**head, **shares}]))
    found = compare_runs((a, b))
    assert found.config == {
        "model": [None, {"name": "small"}],
        "split.by": ["image", "(not set)"],
        "split.camera": ["(not set)", 3],
    }
    tables = {table.title: table for table in found.tables()}
    assert [row[-2] for row in tables["Head check"].rows] == ["100.0 %", "50.0 %"]
    for table in tables.values():
        assert {len(row) for row in table.rows} == {len(table.columns)}
        assert table.title in found.to_markdown()
    content = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert content["verdicts"] == found.verdicts
    assert content["pairs"][0]["better"] is None
    several = compare_runs((a, b, c))
    assert [(p.first.letter, p.second.letter) for p in several.pairs] == [
        ("A", "B"), ("A", "C"), ("B", "C")
    ]  # fmt: skip


def test_a_run_without_numbers_or_features_is_shown_and_named(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", config={"seed": 5})
    (b / "features.safetensors").unlink()
    found = compare_runs((a, b))
    assert "features.safetensors" in found.missing[0]
    assert [len(t.rows) for t in found.tables() if t.title.startswith("Test")] == [2]
    (b / "metrics.json").unlink()
    found = compare_runs((a, b))
    assert "metrics.json" in found.missing[0]
    assert found.config == {"seed": [0, 5]}
    assert found.verdicts[0].startswith("not comparable: ")


def test_unknown_training_identities_are_part_of_the_verdict(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name, noise) for name, noise in (("a", 0.2), ("b", 0.5))]
    content = json.loads((folders[0] / "metrics.json").read_text())
    (folders[0] / "metrics.json").write_text(json.dumps({**content, "seen_complete": False}))
    assert "training identities of A" in compare_runs(folders).verdicts[0]


def test_fewer_than_two_different_runs_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "0")
    for paths in ((), (run,), (run, tmp_path / "." / "0"), (run, tmp_path / "gone")):
        with pytest.raises(InputError):
            compare_runs(paths)
