"""Runs side by side: folders as the commands leave them, with features made here."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml

from camreid.errors import InputError
from camreid.evaluation import FeatureTable, Images, RankOptions
from camreid.evaluation.report import Evidence
from camreid.runs.comparing import (
    compare_runs,
    differing,
    grids,
    markdown,
    pair,
    read_run,
    rich_table,
)

PEOPLE = tuple(range(1, 21))
CAMERAS = (1, 2, 3)


def features(people: Sequence[int], noise: float, seed: int) -> FeatureTable:
    """A query and a gallery image of each person under each camera; noise hides who is who."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for part in ("query", "gallery"):
        kinds = [(pid, camera) for pid in people for camera in CAMERAS]
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
    people: Sequence[int] = PEOPLE,
    seen: Sequence[int] = (90,),
    table: FeatureTable | None = None,
    config: dict[str, object] | None = None,
    options: RankOptions = RankOptions(),  # noqa: B008
    images_seen: int | None = None,
) -> Path:
    """What a run leaves behind."""
    table = features(people, noise, seed) if table is None else table
    split = {"digest": f"of {len(people)}", "strategy": "by hand"}
    notes = {"seen": list(seen), "split": split, "weights": f"{folder}/checkpoints/best.ckpt"}
    table = FeatureTable(table.query, table.gallery, notes)
    result, protocols = options.rank(table)
    summary = Evidence(result, frozenset(seen), None, protocols).summary()
    folder.mkdir(parents=True)
    table.save(folder / "features.safetensors")
    content = {**notes, "evaluation": vars(options), "partial": False, **summary}
    content["images_seen"] = images_seen
    content.pop("seen")
    (folder / "metrics.json").write_text(json.dumps(content))
    config = {"run_dir": str(folder), "seed": seed, **(config or {})}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def test_the_better_run_is_named_in_either_order(tmp_path: Path) -> None:
    good, bad = make_run(tmp_path / "good", 0.2), make_run(tmp_path / "bad", 0.5, seed=1)
    for order in ((good, bad), (bad, good)):
        compared = compare_runs(order)
        (found,), (line,) = compared.pairs, compared.verdicts
        assert order["AB".index(found.better)] == good
        assert f"({good}) is better than" in line
        assert "points mAP (95 %" in line
        assert "on the same 60 queries." in line
        assert found.shared.queries == 60
        assert found.shared.people == len(PEOPLE)


def test_the_difference_is_that_of_the_metrics(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / "a", 0.3), make_run(tmp_path / "b", 0.4, seed=1)]
    a, b = (json.loads((f / "metrics.json").read_text())["retrieval"] for f in folders)
    (found,) = compare_runs(folders).pairs
    for name in ("mAP", "rank1", "mINP"):
        difference = found.shared.differences[name]
        assert difference.value == pytest.approx(a[name] - b[name])
        assert difference.low <= difference.value <= difference.high
    assert not found.leaks


def test_the_same_features_can_not_be_told_apart(tmp_path: Path) -> None:
    table = features(PEOPLE, 0.4, seed=2)
    folders = [make_run(tmp_path / name, table=table) for name in "ab"]
    compared = compare_runs(folders)
    assert compared.pairs[0].better is None
    assert "can't be told: 0.0 points mAP (95 % 0.0..0.0, p = 1) between them" in str(
        compared.verdicts
    )


def test_other_galleries_are_not_paired_and_it_is_said_why(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", people=range(11, 31))
    compared = compare_runs((a, b))
    assert compared.pairs[0].shared is None
    (line,) = compared.verdicts
    assert "can't be told: they were tested on other images" in line
    assert "30 queries are in both (60 of 20 people in A, 60 of 20 in B; 10 people" in line
    caveats = " ".join(compared.caveats)
    assert "Overlapping intervals are no test" in caveats
    assert f"split.exclude_seen=[{a}/checkpoints/best.ckpt,{b}/checkpoints/best.ckpt]" in caveats


def test_shared_queries_of_one_gallery_are_paired(tmp_path: Path) -> None:
    table = features(PEOPLE, 0.3, seed=0)
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


def test_labels_and_protocols_that_differ_are_not_paired(tmp_path: Path) -> None:
    table = features(PEOPLE, 0.3, seed=0)
    a = make_run(tmp_path / "a", table=table)
    g = table.gallery
    other = Images(g.features, g.pids.flip(0), g.cameras, g.sequences, g.paths)
    b = make_run(tmp_path / "b", table=FeatureTable(table.query, other))
    assert "bear other identities" in compare_runs((a, b)).pairs[0].reason
    nameless = Images(g.features, g.pids, g.cameras, g.sequences)
    c = make_run(tmp_path / "c", table=FeatureTable(table.query, nameless))
    assert "do not name each of their images" in compare_runs((a, c)).pairs[0].reason


def test_with_a_leak_the_verdict_goes_by_the_people_whom_neither_has_seen(tmp_path: Path) -> None:
    # what B has learnt by heart is better, the rest is worse
    honest, noisy = features(PEOPLE, 0.2, seed=0), features(PEOPLE, 0.9, seed=1)
    clean = features(PEOPLE, 0.0, seed=0)
    known = noisy.query.pids <= 10
    mixed = [
        part.with_features(torch.where(known[:, None], ideal.features, part.features))
        for part, ideal in ((noisy.query, clean.query), (noisy.gallery, clean.gallery))
    ]
    a = make_run(tmp_path / "a", table=honest)
    b = make_run(tmp_path / "b", table=FeatureTable(*mixed), seen=range(1, 11))
    compared = compare_runs((a, b))
    (found,) = compared.pairs
    assert found.leaks
    assert (found.unseen.queries, found.unseen.people) == (30, 10)
    assert found.better == "A"
    assert "queries of 10 people whom neither has seen" in compared.verdicts[0]
    assert "B: its weights were trained on 10 of the 20 people" in " ".join(compared.caveats)
    c = make_run(tmp_path / "c", table=noisy, seen=PEOPLE)
    (line,) = compare_runs((a, c)).verdicts
    assert "can't be told: the weights of one or both were trained on all" in line


def test_what_differs_in_the_config_is_named(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", config={"split": {"by": "image"}, "model": None})
    b = make_run(tmp_path / "b", config={"split": {"camera": 3}, "model": {"name": "small"}})
    compared = compare_runs((a, b))
    assert compared.config == {
        "model": [None, {"name": "small"}],
        "split.by": ["image", "(not set)"],
        "split.camera": ["(not set)", 3],
    }
    assert "configs differ in 3 options" in " ".join(compared.caveats)
    assert differing([{"a": {"b": 1}}, {"a": {"b": 1}}]) == {}


def test_three_runs_make_three_pairs_and_no_p_is_adjusted(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name, seed=i) for i, name in enumerate("abc")]
    compared = compare_runs(folders)
    assert [(p.first, p.second) for p in compared.pairs] == [("A", "B"), ("A", "C"), ("B", "C")]
    assert "3 paired differences, and no p is adjusted" in " ".join(compared.caveats)
    assert pair(compared.runs[1], compared.runs[2]) == compared.pairs[2]


def test_every_form_holds_the_verdict_and_every_table_its_columns(tmp_path: Path) -> None:
    compared = compare_runs([make_run(tmp_path / "a"), make_run(tmp_path / "b", 0.5, seed=1)])
    (line,) = compared.verdicts
    page = markdown(compared)
    assert line in page
    assert "## What this does not show" in page
    content = json.loads(json.dumps(compared.summary()))
    assert content["verdicts"] == [line]
    assert content["pairs"][0]["better"] == compared.pairs[0].better
    assert content["lacks"] is None
    titles = [grid.title for grid in grids(compared)]
    assert titles[0] == "Runs"
    assert not any("Head check" in title for title in titles)
    for grid in grids(compared):
        assert {len(row) for row in grid.rows} == {len(grid.header)}
        assert rich_table(grid).row_count == len(grid.rows)


NAMED = {"head": "identity", "dim": 8, "identities": 10, "misplaced": 0}


def test_head_checks_are_shown_by_the_head_with_the_least_coverage(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name) for name in "ab"]
    heads = [
        {
            **NAMED,
            "rows": 7,
            "shared": 5,
            "unknown": n,
            "coverage": 5 / (5 + n),
            "image_coverage": 0.5,
        }
        for n in (0, 5)
    ]
    heads.append({**heads[0], "identities": 0, "coverage": 0.0})  # nobody to learn
    check = {"unknown": "skip", "heads": heads, "faults": []}
    (folders[0] / "head_check.json").write_text(json.dumps(check))
    (grid,) = [g for g in grids(compare_runs(folders)) if g.title == "Head check"]
    assert grid.rows == [["A", "skip", "3", "7", "5", "5", "50.0 %", "50.0 %"]]


def test_untested_runs_are_shown_with_what_they_have(tmp_path: Path) -> None:
    done, open_ = make_run(tmp_path / "a"), make_run(tmp_path / "b", config={"seed": 5})
    (open_ / "metrics.json").unlink()
    (open_ / "checkpoints").mkdir()
    (open_ / "checkpoints" / "last.ckpt").touch()
    compared = compare_runs((done, open_))
    assert compared.config == {"seed": [0, 5]}
    assert f"resume={open_}/checkpoints/last.ckpt" in compared.lacks
    assert f"split.manifest={open_}/split.csv run_dir={open_}-test" in compared.lacks
    assert "there are no features of B" in compared.verdicts[0]
    assert {len(row) for grid in grids(compared) for row in grid.rows}
    assert compared.lacks in markdown(compared)


def test_runs_without_features_keep_their_numbers(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name) for name in "ab"]
    (folders[1] / "features.safetensors").unlink()
    compared = compare_runs(folders)
    assert "evaluation.save_features=false" in compared.lacks
    (scores,) = [g for g in grids(compared) if g.title.startswith("Test")]
    assert [row[0] for row in scores.rows] == ["A", "B"]


def test_features_that_were_ranked_from_a_file_are_found(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", 0.5, seed=1)
    moved = (b / "features.safetensors").rename(tmp_path / "kept.safetensors")
    content = json.loads((b / "metrics.json").read_text())
    (b / "metrics.json").write_text(json.dumps({**content, "features": str(moved)}))
    assert compare_runs((a, b)).pairs[0].shared is not None


def test_features_of_another_test_are_refused(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", 0.8, seed=1)
    (b / "features.safetensors").replace(a / "features.safetensors")
    with pytest.raises(InputError, match=r"are not those of .*: they give weights .*/b/checkp"):
        read_run("A", a)
    content = json.loads((b / "metrics.json").read_text())
    own = json.loads((a / "metrics.json").read_text())
    own["weights"] = content["weights"]
    (a / "metrics.json").write_text(json.dumps(own))
    with pytest.raises(InputError, match=r"they give mAP [\d.]+ % of 60 queries, and that file"):
        read_run("A", a)


NUMBERS = ("mAP", "mINP", "rank1", "rank5", "rank10", "valid_queries")
BARE = json.dumps(
    {"retrieval": dict.fromkeys(NUMBERS, 0.5), "intervals": {}, "leak": {}, "evaluation": {}}
)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("metrics.json", "{", "can't be read"),
        ("metrics.json", "[]", "holds a list"),
        ("metrics.json", "{}", "lacks retrieval, intervals, leak, evaluation"),
        ("metrics.json", BARE, "leak lacks all, seen, unseen"),
        ("head_check.json", '{"unknown": "skip", "heads": 3}', "heads is a int, expected a list"),
        ("config.yaml", "a: [", "can't be read"),
        ("head_check.json", "3", "holds a int"),
        ("features.safetensors", "x", "can't be read as features"),
    ],
)
def test_broken_files_are_refused(name: str, text: str, says: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    (run / name).write_text(text)
    with pytest.raises(InputError, match=says):
        read_run("A", run)


def test_folders_that_can_not_be_compared_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "sweep" / "0")
    with pytest.raises(InputError, match="no run was given"):
        compare_runs(())
    with pytest.raises(InputError, match=r"only .* was given"):
        compare_runs((run,))
    with pytest.raises(InputError, match="are the same run"):
        compare_runs((run, run.parent / "." / "0"))
    with pytest.raises(InputError, match=rf"is no run folder: it holds 0; .*such as {run}\."):
        compare_runs((run, run.parent))
    with pytest.raises(InputError, match=rf"is a file: type its run folder, {run}\."):
        compare_runs((run, run / "metrics.json"))
    with pytest.raises(InputError, match="gone is not there"):
        compare_runs((run, tmp_path / "gone"))


def test_unequal_numbers_of_images_are_said(tmp_path: Path) -> None:
    counts = {"a": 9000, "b": 20000, "c": 20000, "d": None}
    paths = {name: make_run(tmp_path / name, images_seen=n) for name, n in counts.items()}
    unequal = compare_runs([paths["a"], paths["b"], paths["d"]])
    (said,) = [text for text in unequal.caveats if "unequal numbers of images" in text]
    assert "(A 9,000, B 20,000)" in said
    assert [row[-1] for row in grids(unequal)[0].rows] == ["9,000", "20,000", "n/a"]
    equal = compare_runs([paths["b"], paths["c"]])
    assert not [text for text in equal.caveats if "numbers of images" in text]


def test_few_people_and_unknown_pasts_are_part_of_the_verdict(tmp_path: Path) -> None:
    good, bad = features((1, 2, 3), 0.0, 0), features((1, 2, 3), 3.0, 1)
    a = make_run(tmp_path / "a", table=good)
    b = make_run(tmp_path / "b", table=bad)
    (said,) = compare_runs((a, b)).verdicts
    assert "can't be told" in said
    assert "So few people can't show a difference." in said
    c = make_run(tmp_path / "c", noise=0.1, seen=())
    d = make_run(tmp_path / "d", noise=2.0)
    (said,) = compare_runs((c, d)).verdicts
    assert "is better than" in said
    assert said.endswith("It may be memory: nobody knows whom A was trained on.")


def test_one_tested_person_has_no_interval(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / n, people=(4,), seed=i) for i, n in enumerate("ab")]
    compared = compare_runs(paths)
    assert "nan" not in markdown(compared)
    assert "NaN" not in json.dumps(compared.summary()["pairs"])
    for grid in grids(compared):
        rich_table(grid)


def test_a_matrix_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "matrix.json").write_text("{}")
    with pytest.raises(InputError, match="is the folder of a matrix"):
        compare_runs((tmp_path / "m", make_run(tmp_path / "a")))
