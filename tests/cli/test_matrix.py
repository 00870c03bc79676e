"""Experts by cameras in one command: every number again from the saved features."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from camreid.checkpoints.io import load, save
from camreid.data import OriginalSplit, Records, Split, SyntheticMarket, read_market1501
from camreid.data.dataset import read_pixels
from camreid.evaluation import FeatureTable, intervals, rank
from camreid.labels import LabelMap
from camreid.provenance import Provenance, SplitRecord
from camreid.training import ReIDModule
from tests.cli.conftest import QUIET
from tests.cli.experts import content, imported, listed, ranked, refused, typed
from tests.conftest import CONFIG, TINY, Ran, tiny_module, trained

Run = Callable[..., Ran]
pytestmark = pytest.mark.slow


def test_the_numbers_are_those_of_the_saved_features(
    matrix: Run, experts: list[Path], records: Records
) -> None:
    ran = matrix(typed(experts), "+split=original", "run_dir=r")
    assert ran.code == 0, ran.err
    found = content()
    assert list(found["experts"]) == ["c1", "c2"]
    split = Split.load("r/split.csv")
    tested = {r.pid for r in split.query}
    for name, expert in found["experts"].items():
        table = FeatureTable.load(Path("r", expert["features"]))
        result = ranked(table)
        assert expert["retrieval"]["mAP"] == pytest.approx(result.mAP)
        assert set(expert["by_camera"]) == {str(c) for c in table.query.cameras.unique().tolist()}
        for camera, part in expert["by_camera"].items():
            own = table.query.cameras == int(camera)
            assert part["retrieval"]["mAP"] == pytest.approx(
                result.average_precision[own & result.valid].mean().item()
            )
            assert part["retrieval"]["rank1"] == pytest.approx(
                (result.first_match[own & result.valid] == 1).double().mean().item()
            )
            assert part["intervals"]["mAP"] == pytest.approx(intervals(result.of(own))["mAP"])
        head = load(expert["checkpoint"]).labels
        assert expert["coverage"] == len(set(split.labels.pids) & set(head.pids)) / len(
            split.labels
        )
        assert expert["rows"] == len(head)
        assert expert["camera"] == int(name[1:])
        assert expert["leak"]["seen"]["identities"] == len(tested & set(head.pids)) == 0
        assert table.notes["seen"] == sorted(head.pids)
        assert table.notes["split"]["digest"] == split.digest
    assert "leaks" not in ran.out
    assert len({e["retrieval"]["mAP"] for e in found["experts"].values()}) == 2


def test_of_several_rendered_datasets_the_run_s_own_is_checked(run: Run, tmp_path: Path) -> None:
    root, options = tmp_path / "synthetic", {"people": 12, "images_per_person": 6, "junk": 0}
    renders = [SyntheticMarket(**options, distractors=2, seed=seed).render(root) for seed in (0, 1)]
    own = OriginalSplit(camera=1)(read_market1501(renders[1])).labels
    expert = imported(tmp_path / "c1.ckpt", 1, own, seed=1)
    data = (
        "data=synthetic", f"data.root={root}", "data.render.people=12", "data.render.junk=0",
        "data.render.images_per_person=6", "data.render.distractors=2", "data.render.seed=1",
        "+split=original",
    )  # fmt: skip
    ran = run("camreid-matrix", *data, *QUIET, typed([expert]), "combine=[]", "run_dir=m")
    assert ran.code == 0, ran.err
    assert "are not in this dataset" not in ran.out
    taught = ("+experiment=distill", f"distill.teachers=[{expert}]", "data.identities=2")
    tiny = [option for option in TINY if "identities" not in option]
    ran = run("camreid-train", *data, *tiny, *taught, "trainer.max_epochs=1", "run_dir=r")
    assert ran.code == 0, ran.err
    assert "are not in this dataset" not in ran.out
    other = imported(tmp_path / "c2.ckpt", 2, LabelMap((7001, 7002)), seed=2)
    said = run("camreid-matrix", *data, *QUIET, typed([expert, other]), "run_dir=n").err
    assert f"of data.root={renders[1]}, where a number is another person's" in said
    assert "type data=market1501 data.root=FOLDER with its dataset" in said


def test_combinations_are_those_of_the_saved_features(matrix: Run, experts: list[Path]) -> None:
    ran = matrix(typed(experts), "+split=original", "run_dir=r", "least_agreement=0")
    assert ran.code == 0, ran.err
    found = content()
    tables = [FeatureTable.load(Path("r", e["features"])) for e in found["experts"].values()]
    q, g = tables[0].query, tables[0].gallery

    assert set(found["combinations"]) == {
        "concat",
        "zscore",
        "mean",
        "query_camera",
        "image_camera",
    }
    people = (q.pids, g.pids, q.cameras, g.cameras)
    together = rank(
        torch.cat([F.normalize(t.query.features) for t in tables], 1),
        torch.cat([F.normalize(t.gallery.features) for t in tables], 1),
        *people,
    )
    assert found["combinations"]["concat"]["retrieval"]["mAP"] == pytest.approx(together.mAP)
    alone = [ranked(t) for t in tables]
    routed = torch.stack([r.average_precision for r in (*alone, together)])
    which = torch.tensor([{1: 0, 2: 1}.get(c, 2) for c in q.cameras.tolist()])
    valid = alone[0].valid
    assert found["combinations"]["query_camera"]["retrieval"]["mAP"] == pytest.approx(
        routed.gather(0, which[None])[0][valid].mean().item(), abs=1e-6
    )
    best = max(("c1", "c2"), key=lambda n: found["experts"][n]["retrieval"]["mAP"])
    assert found["best"]["all"]["mAP"] == best
    assert set(found["differences"]) == {*found["combinations"], "c1", "c2"} - {best}
    concat = found["differences"]["concat"]["mAP"]
    assert concat["value"] == pytest.approx(
        together.mAP - found["experts"][best]["retrieval"]["mAP"]
    )
    nearest = F.normalize(tables[0].gallery.features) @ F.normalize(tables[1].gallery.features).T
    hits = (nearest.argmax(1) == torch.arange(len(nearest))).double().mean().item()
    assert found["spaces"]["agreement"][0][1] == pytest.approx(hits)


def test_spaces_that_are_not_comparable_are_not_mixed(matrix: Run, experts: list[Path]) -> None:
    ran = matrix(typed(experts), "+split=original", "run_dir=r", "combine=[concat,mean]")
    assert ran.code == 0, ran.err
    assert set(content()["combinations"]) == {"concat"}
    assert "are not comparable" in content()["left_out"]["mean"]
    assert "No row mean: the features of c" in ran.out


def test_a_split_that_leaks_says_so_in_every_title(matrix: Run, experts: list[Path]) -> None:
    ran = matrix(typed(experts), "+split=resplit", "run_dir=r", "combine=[concat]")
    assert ran.code == 0, ran.err
    found, split = content(), Split.load("r/split.csv")
    tested = {r.pid for r in split.query}
    for expert in found["experts"].values():
        seen = tested & set(load(expert["checkpoint"]).labels.pids)
        assert expert["leak"]["seen"]["identities"] == len(seen) > 0
        table = FeatureTable.load(Path("r", expert["features"]))
        unseen = torch.tensor([p not in seen for p in table.query.pids.tolist()])
        result = ranked(table).of(unseen)
        assert expert["leak"]["unseen"]["mAP"] == pytest.approx(result.mAP)
    together = {p for e in found["experts"].values() for p in load(e["checkpoint"]).labels.pids}
    concat = found["combinations"]["concat"]["leak"]
    assert concat["seen"]["identities"] == len(tested & together)
    assert ran.out.count("This split leaks") == 6


def test_an_anonymous_checkpoint_has_features_but_neither_coverage_nor_leak(
    matrix: Run, experts: list[Path], tmp_path: Path
) -> None:
    nobody = imported(tmp_path / "nobody.ckpt", None, LabelMap.anonymous(5), seed=9)
    ran = matrix(typed([*experts, nobody]), "+split=resplit", "run_dir=r", "combine=[concat]")
    assert ran.code == 0, ran.err
    found = content()["experts"]["nobody"]
    assert (found["coverage"], found["leak"], found["camera"]) == (None, None, None)
    concat = content()["combinations"]["concat"]
    assert not concat["seen_complete"]
    assert concat["leak"]["seen"]["identities"] > 0
    assert "at least" in ran.out
    assert "whom no row is known to have seen" in ran.out
    assert not content()["compared"]["complete"]
    assert "nobody: " in ran.out
    assert found["retrieval"]["mAP"] > 0


def test_sizes_may_differ(matrix: Run, experts: list[Path], tmp_path: Path) -> None:
    labels = load(experts[0]).labels
    save(tiny_module(labels, image_size=[48, 24]).eval(), tmp_path / "small.ckpt")
    ran = matrix(typed([*experts, tmp_path / "small.ckpt"]), "+split=original", "run_dir=r")
    assert ran.code == 0, ran.err
    assert list(content()["experts"]) == ["c1", "c2", "small"]


def test_one_expert_alone_has_a_row_and_no_combination(matrix: Run, experts: list[Path]) -> None:
    ran = matrix(f"experts={experts[0]}", "+split=original", "run_dir=r")
    assert ran.code == 0, ran.err
    assert content()["combinations"] == content()["differences"] == {}
    assert "one expert alone" in ran.out


def test_no_experts(matrix: Run) -> None:
    for none in ((), ("experts=[]",)):
        assert "no experts were given" in refused(matrix(*none, "+split=original", "run_dir=r"))
    said = refused(matrix("experts=nowhere/*.ckpt", "+split=original", "run_dir=r"))
    assert "no file matches" in said


def test_repeated_checkpoints(matrix: Run, experts: list[Path], tmp_path: Path) -> None:
    said = refused(matrix(typed([experts[0], *experts]), "+split=original", "run_dir=r"))
    assert f"experts= names {experts[0]} 2 times" in said
    assert typed(experts) in said
    copy = tmp_path / "copy.ckpt"
    copy.write_bytes(experts[0].read_bytes())
    said = refused(matrix(typed([*experts, copy]), "+split=original", "run_dir=r"))
    assert "hold the same weights" in said
    assert "Leave the second out" in said


def test_a_missing_file_names_the_others(matrix: Run, experts: list[Path]) -> None:
    said = refused(matrix(typed([*experts, Path("gone.ckpt")]), "+split=original", "run_dir=r"))
    assert "no checkpoint at gone.ckpt" in said
    assert f"without it: {listed(experts)}" in said


def test_an_expert_of_another_dataset(matrix: Run, experts: list[Path], tmp_path: Path) -> None:
    other = imported(tmp_path / "other.ckpt", 1, LabelMap((7001, 7002, 7003)), seed=5)
    said = refused(matrix(typed([*experts, other]), "+split=original", "run_dir=r"))
    assert "of another dataset: 3 of its 3 people" in said
    assert listed(experts) in said
    assert f"camreid-evaluate checkpoint={other}" in said


def test_options_that_there_are_not(matrix: Run, experts: list[Path]) -> None:
    for option, part in (("combine=[sum]", "concat"), ("least_agreement=2", "0..1")):
        assert part in refused(matrix(typed(experts), "+split=original", "run_dir=r", option))
    said = refused(matrix(typed(experts), "+split=original", "run_dir=r", "trainer.devices=2"))
    assert "runs on one device" in said


def test_another_matrix_is_not_written_over(matrix: Run, experts: list[Path]) -> None:
    assert matrix(typed(experts), "+split=original", "run_dir=r", "combine=[]").code == 0
    ran = matrix(typed(experts), "+split=original", "run_dir=r")
    assert ran.code == 1
    assert "matrix.json" in ran.err


def test_soups_are_networks_with_rows_of_their_own(
    matrix: Run, records: Records, tmp_path: Path
) -> None:
    paths = []
    for camera in (1, 2, 3):  # of one starting point, a little apart
        module = tiny_module(OriginalSplit(camera=camera)(records).labels)
        draw = torch.Generator().manual_seed(camera)
        with torch.no_grad():
            for parameter in module.model.parameters():
                parameter += 0.003 * torch.randn(parameter.shape, generator=draw)
        trained(module)
        paths.append(tmp_path / f"{camera}.ckpt")
        save(module.eval(), paths[-1])
    ran = matrix(
        typed(paths), "+split=original", "split.val_fraction=0.3", "run_dir=r",
        "combine=[soup]", "evaluation.save_features=true",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    found = content()["combinations"]
    assert found["soup"]["ingredients"] == ["1", "2", "3"]
    for name, row in found.items():
        table = FeatureTable.load(Path("r", row["features"]))
        assert row["retrieval"]["mAP"] == pytest.approx(ranked(table).mAP)
        assert table.notes["kind"] == "combination"
        assert table.notes["split"]["digest"] == Split.load("r/split.csv").digest
        kept = load(Path("r", row["checkpoint"]))
        size = kept.config.image_size
        images = torch.stack([read_pixels(p, size) for p in table.query.paths[:5]])
        with torch.inference_mode():
            features = kept.model(images).features
        torch.testing.assert_close(features, table.query.features[:5], rtol=1e-3, atol=1e-4)
        assert kept.provenance.seen >= set(kept.labels.pids), name
    soup = load("r/soups/soup.ckpt").model.state_dict()
    weight = next(k for k in soup if k.endswith("conv1.weight"))
    mean = torch.stack([load(p).model.state_dict()[weight] for p in paths]).mean(0)
    torch.testing.assert_close(soup[weight], mean)


def test_a_soup_that_can_not_be_made_says_why(
    matrix: Run, experts: list[Path], tmp_path: Path
) -> None:
    network = {**CONFIG["network"], "last_stride": None}
    labels = load(experts[1]).labels
    save(tiny_module(labels, network=network).eval(), tmp_path / "other.ckpt")
    paths = [experts[0], tmp_path / "other.ckpt"]
    ran = matrix(typed(paths), "+split=original", "run_dir=s", "combine=[soup]")
    assert ran.code == 0, ran.err
    assert "can't be averaged" in content("s")["left_out"]["soup"]


def test_controls_stand_beside_the_experts_and_are_not_put_together(
    matrix: Run, experts: list[Path], tmp_path: Path
) -> None:
    labels = load(experts[0]).labels
    joint = imported(tmp_path / "joint" / "checkpoints" / "best.ckpt", 1, labels, seed=7)
    arguments = (typed(experts), "+split=original", "combine=[concat,mean]")
    said = refused(matrix(*arguments, "run_dir=r", f"controls=[{experts[0]}]"))
    assert f"{experts[0]} is named by experts= and by controls=" in said
    assert matrix(*arguments, "run_dir=alone").code == 0
    ran = matrix(*arguments, "run_dir=r", f"controls='{tmp_path}/joint*/checkpoints/*.ckpt'")
    assert ran.code == 0, ran.err
    found, alone = content(), content("alone")
    assert list(found["experts"]) == ["c1", "c2"]
    assert list(found["controls"]) == ["joint"]
    assert found["combinations"] == alone["combinations"]
    assert found["left_out"] == alone["left_out"]
    table = FeatureTable.load(Path("r", found["controls"]["joint"]["features"]))
    assert found["controls"]["joint"]["retrieval"]["mAP"] == pytest.approx(ranked(table).mAP)
    assert found["controls"]["joint"]["checkpoint"] == str(joint)
    assert "joint" in found["differences"]


def test_what_is_odd_about_the_experts_is_noted(
    matrix: Run, experts: list[Path], tmp_path: Path
) -> None:
    assert matrix(typed(experts), "+split=original", "run_dir=a", "combine=[]").code == 0
    (lacking,) = content("a")["notes"]
    assert "No expert is of camera 3, 4, 5, 6" in lacking
    labels = load(experts[0]).labels
    resplit, original = SplitRecord("resplit"), SplitRecord("original", {"camera": 2, "seed": 7})
    for name, split in (("x", resplit), ("y", original)):
        torch.manual_seed(ord(name))
        module = ReIDModule(CONFIG, labels).eval()
        module.provenance = Provenance(split=split)
        save(module, tmp_path / f"{name}.ckpt")
    more = [*experts, tmp_path / "x.ckpt", tmp_path / "y.ckpt"]
    ran = matrix(typed(more), "+split=original", "run_dir=b", "combine=[concat,query_camera]")
    assert ran.code == 0, ran.err
    splits, lacking, twice = content("b")["notes"]
    assert "x on resplit; c2-2 on original, seed=7" in splits
    assert "camera 3, 4, 5, 6" in lacking
    assert "Several experts are of camera 2 (c2-1, c2-2)" in twice
    assert list(content("b")["combinations"]) == ["concat"]
    assert "several experts are of camera 2" in content("b")["left_out"]["query_camera"]
    assert "different splits" in " ".join(ran.out.split())
