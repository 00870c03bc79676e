import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from camreid.checkpoints.io import load, read_checkpoint
from camreid.data import Records, Split
from camreid.evaluation import FeatureTable, rank
from tests.conftest import TINY, Ran

Run = Callable[..., Ran]
pytestmark = pytest.mark.slow


def metrics(folder: str) -> dict[str, object]:
    return json.loads((Path(folder) / "metrics.json").read_text())


@pytest.fixture
def train(run: Run, market: Path) -> Run:
    def command(*arguments: object) -> Ran:
        return run(
            "camreid-train", f"data.root={market}", *TINY, "trainer.max_epochs=1", *arguments
        )

    return command


def test_an_expert_then_the_resplit_with_every_unknown(train: Run, run: Run, market: Path) -> None:
    expert = train("+split=original", "split.camera=3", "run_dir=expert")
    assert expert.code == 0, expert.err
    assert "best.ckpt is the last epoch" in expert.out
    weights = Path("expert/checkpoints/best.ckpt")
    experts_people = set(load(weights).labels.pids)

    for unknown in ("skip", "drop", "extend", "reinit"):
        ran = train(
            "+split=resplit", "split.val_fraction=0.2", f"init={weights}",
            f"model.unknown={unknown}", f"run_dir={unknown}",
        )  # fmt: skip
        assert ran.code == 0, ran.err
        assert "Leakage:" in ran.out
        head = json.loads(Path(unknown, "head_check.json").read_text())["heads"][0]
        split = Split.load(Path(unknown, "split.csv"))
        shared = experts_people & set(split.labels.pids)
        expected = (len(shared), len(split.labels) - len(shared))
        if unknown == "reinit":
            expected = (0, len(split.labels))
        assert (head["shared"], head["unknown"]) == expected
        people = set(load(Path(unknown, "checkpoints/best.ckpt")).labels.pids)
        assert (
            people
            == {
                "skip": experts_people,
                "drop": experts_people,
                "extend": experts_people | set(split.labels.pids),
                "reinit": set(split.labels.pids),
            }[unknown]
        )

    refused = train("+split=resplit", f"init={weights}", "model.unknown=forbid", "run_dir=forbid")
    assert refused.code == 1
    assert "model.unknown=forbid" in refused.err
    assert "+split=original split.camera=3" in refused.err
    assert "Traceback" not in refused.err
    assert not Path("forbid/checkpoints").exists()
    assert json.loads(Path("forbid/head_check.json").read_text())["faults"]

    again = run(
        "camreid-evaluate", "checkpoint=skip/checkpoints/best.ckpt", "+split=resplit",
        "split.val_fraction=0.2", f"data.root={market}", "data.workers=0", "trainer=cpu",
        "trainer.enable_progress_bar=false", "run_dir=again",
    )  # fmt: skip
    assert again.code == 0, again.err
    first, second = metrics("skip"), metrics("again")
    for key in ("retrieval", "identity", "leak", "split"):
        assert first[key] == second[key]
    flipped = run(
        "camreid-evaluate", "checkpoint=skip/checkpoints/best.ckpt", "+split=resplit",
        "split.val_fraction=0.2", f"data.root={market}", "data.workers=0", "trainer=cpu",
        "trainer.enable_progress_bar=false", "run_dir=flip", "evaluation=torchreid",
        "evaluation.flip=true",
    )  # fmt: skip
    assert flipped.code == 0, flipped.err
    assert metrics("flip")["evaluation"]["flip"] is True
    assert metrics("flip")["retrieval"] != first["retrieval"]
    for key in ("intervals", "protocols", "camera_pairs"):
        assert first[key] == second[key]
    low, high = first["intervals"]["mAP"]
    assert low <= first["retrieval"]["mAP"] <= high
    assert first["camera_pairs"]["cameras"] == [1, 2, 3, 4, 5, 6]
    assert "cross-camera, without distractors" in first["protocols"]
    saved = "features=skip/features.safetensors"
    ranked = run("camreid-evaluate", saved, "run_dir=ranked", "trainer=cpu")
    assert ranked.code == 0, ranked.err
    for key in ("retrieval", "intervals", "protocols", "camera_pairs", "leak", "split"):
        assert metrics("ranked")[key] == first[key]
    assert metrics("ranked")["identity"] is None
    table = FeatureTable.load("skip/features.safetensors")
    assert table.notes["model"] == "small"
    result = rank(
        table.query.features, table.gallery.features, table.query.pids, table.gallery.pids,
        table.query.cameras, table.gallery.cameras,
    )  # fmt: skip
    assert result.mAP == first["retrieval"]["mAP"]
    again = run("camreid-evaluate", saved, "run_dir=rr", "evaluation.rerank=k-reciprocal")
    assert again.code == 0, again.err
    assert metrics("rr")["retrieval"] != first["retrieval"]
    assert metrics("rr").get("protocols") is None
    wrong = run("camreid-evaluate", saved, "run_dir=w", "evaluation.rerank=k-reciprocal",
                "evaluation.rerank_k1=100000")  # fmt: skip
    assert wrong.code == 1
    assert "\n" not in wrong.err.strip()
    assert not Path("w").exists()


def test_the_run_folder_holds_everything(train: Run, records: Records) -> None:
    ran = train("+split=resplit", "split.val_fraction=0.2", "run_dir=r", "trainer.max_epochs=2")
    assert ran.code == 0, ran.err
    held = {str(p.relative_to("r")) for p in Path("r").rglob("*") if p.is_file()}
    assert held >= {
        "config.yaml", "split.csv", "head_check.json", "metrics.json", "metrics.csv",
        "checkpoints/best.ckpt", "checkpoints/last.ckpt", "camreid-train.log",
    }  # fmt: skip
    assert {p.name for p in Path().iterdir()} == {"r"}
    config = yaml.safe_load(Path("r/config.yaml").read_text())
    assert config["split"]["val_fraction"] == 0.2
    kept = read_checkpoint("r/checkpoints/best.ckpt")
    split = Split.load("r/split.csv")
    assert kept.provenance.split.digest == split.digest == metrics("r")["split"]["digest"]
    assert yaml.safe_load(kept.notes["config"])["split"]["val_fraction"] == 0.2
    assert kept.notes["versions"]["torch"]
    assert "val/mAP" in Path("r/metrics.csv").read_text().splitlines()[0]


def test_the_same_seed_gives_the_same_model(train: Run) -> None:
    states = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        common = ("+split=original", f"run_dir={name}", f"seed={seed}", "test=false")
        assert train(*common).code == 0
        states.append(load(f"{name}/checkpoints/last.ckpt").model.state_dict())
    a, b, c = states
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], c[k]) for k in a)


def test_resume_is_the_uninterrupted_run(train: Run) -> None:
    options = (
        "+split=original",
        "test=false",
        "model.schedule.decay=constant",
        "model.schedule.warmup=0",
    )
    assert train(*options, "run_dir=whole", "trainer.max_epochs=2").code == 0
    assert train(*options, "run_dir=first", "trainer.max_epochs=1").code == 0
    last = "first/checkpoints/last.ckpt"
    assert train(*options, "trainer.max_epochs=2", f"resume={last}").code == 0
    assert not list(Path("first").glob("metrics.*.csv"))
    with Path("first/metrics.csv").open(newline="") as file:
        losses = [line["epoch"] for line in csv.DictReader(file) if line["train/loss"]]
    assert losses == ["0", "1"]
    whole, second = (
        load(f"{r}/checkpoints/last.ckpt").model.state_dict() for r in ("whole", "first")
    )
    assert all(torch.allclose(whole[k].float(), second[k].float(), atol=1e-6) for k in whole)


def test_a_finished_run_is_not_resumed(train: Run) -> None:
    assert train("+split=original", "run_dir=a", "test=false").code == 0
    before = {p: p.stat().st_mtime_ns for p in Path("a/checkpoints").iterdir()}
    ran = train("+split=original", "resume=a/checkpoints/last.ckpt")
    assert ran.code == 1
    assert "has finished 1 epochs" in ran.err
    again = train("+split=original", "run_dir=a")
    assert again.code == 1
    assert "holds another run" in again.err
    assert before == {p: p.stat().st_mtime_ns for p in Path("a/checkpoints").iterdir()}


def test_numbers_of_a_part_say_so(train: Run) -> None:
    ran = train("+split=original", "run_dir=a", "trainer.limit_test_batches=3")
    assert ran.code == 0, ran.err
    assert "Test on a part of the images only" in ran.out
    assert metrics("a")["partial"] is True


def test_the_log_keeps_what_was_said(train: Run) -> None:
    assert train("+split=original", "run_dir=a").code == 0
    log = Path("a/camreid-train.log").read_text()
    for said in ("Split  original", "mAP", "Written to"):
        assert said in log


def test_resume_on_another_split_is_refused(train: Run) -> None:
    assert train("+split=original", "split.camera=1", "run_dir=a", "test=false").code == 0
    other = train(
        "+split=original", "split.camera=2", "resume=a/checkpoints/last.ckpt", "run_dir=b"
    )
    assert other.code == 1
    assert "+split=original split.camera=1" in other.err
    assert not Path("b").exists()


def test_a_manifest_can_be_the_split(train: Run) -> None:
    options = ("+split=resplit", "test=false")
    assert train(*options, "run_dir=a", "split.val_fraction=0.2").code == 0
    assert train(*options, "run_dir=b", "split.manifest=a/split.csv").code == 0
    assert Path("a/split.csv").read_text() == Path("b/split.csv").read_text()


def test_the_checkpoints_own_model_is_used_unless_one_is_typed(
    train: Run, run: Run, market: Path
) -> None:
    assert train("+split=original", "run_dir=a", "test=false").code == 0
    quiet = [a for a in TINY if not a.startswith("model")]
    ran = run(
        "camreid-train", "+split=resplit", "split.val_fraction=0.2", f"data.root={market}", *quiet,
        "init=a/checkpoints/best.ckpt", "run_dir=b", "trainer.max_epochs=1", "test=false",
        "model.optimizer.lr=0.001", "model.unknown=extend",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    theirs, ours = (
        read_checkpoint("a/checkpoints/best.ckpt"),
        read_checkpoint("b/checkpoints/best.ckpt"),
    )
    assert ours.config.network == theirs.config.network
    assert ours.config.image_size == theirs.config.image_size
    assert (ours.config.optimizer["lr"], ours.config.unknown) == (0.001, "extend")
    ran = run(
        "camreid-train", "+split=resplit", f"data.root={market}", *quiet, "experiment=finetune",
        "init=a/checkpoints/best.ckpt", "run_dir=c", "trainer.max_epochs=1", "test=false",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    tuned = read_checkpoint("c/checkpoints/best.ckpt")
    assert tuned.config.network == theirs.config.network
    assert (tuned.config.optimizer["lr"], tuned.config.schedule["decay"]) == (3.5e-5, "cosine")
    assert tuned.config.loss == theirs.config.loss
    other = train(
        "+split=original", "init=a/checkpoints/best.ckpt", "model.network.backbone=resnet10t"
    )
    assert other.code == 1
    assert "tensors differ" in other.err


def test_multirun_over_cameras(train: Run) -> None:
    ran = train("-m", "+split=original", "split.camera=1,4", "run_dir=sweep", "test=false")
    assert ran.code == 0, ran.err
    counts = [len(load(f"sweep/{job}/checkpoints/best.ckpt").labels) for job in (0, 1)]
    assert counts[1] < counts[0]


def test_early_stopping_stops(train: Run) -> None:
    ran = train(
        "+split=resplit", "split.val_fraction=0.2", "callbacks=early_stopping", "test=false",
        "callbacks.early_stopping.patience=1", "+callbacks.early_stopping.min_delta=1.0",
        "trainer.max_epochs=9", "run_dir=r",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert torch.load("r/checkpoints/last.ckpt", weights_only=True)["epoch"] < 4


def test_a_resumed_drop_still_drops(train: Run) -> None:
    assert train("+split=original", "split.camera=4", "run_dir=e", "test=false").code == 0
    init = "init=e/checkpoints/best.ckpt"
    options = ("+split=resplit", init, "test=false", "data.identities=2")
    assert train(*options, "model.unknown=drop", "run_dir=d").code == 0
    resumed = "resume=d/checkpoints/last.ckpt"
    ran = train(*options, resumed, "trainer.max_epochs=2")  # unknown= not typed again
    assert ran.code == 0, ran.err
    kept = read_checkpoint("d/checkpoints/last.ckpt")
    assert (kept.epochs, kept.config.unknown) == (2, "drop")
    people = {r.pid for r in Split.load("d/split.csv").train}
    assert not (kept.provenance.seen - set(kept.labels.pids)) & people


def test_what_is_typed_counts_though_it_is_the_default_models(
    train: Run, run: Run, market: Path
) -> None:
    assert train("+split=original", "run_dir=a", "test=false").code == 0
    quiet = [a for a in TINY if not a.startswith("model")]
    ran = run(
        "camreid-train", "+split=original", f"data.root={market}", *quiet, "test=false",
        "init=a/checkpoints/best.ckpt", "run_dir=b", "trainer.max_epochs=1",
        "model.optimizer.lr=3.5e-4", "model.loss.triplet_margin=0.3",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    config = read_checkpoint("b/checkpoints/best.ckpt").config
    assert (config.optimizer["lr"], config.loss["triplet_margin"]) == (3.5e-4, 0.3)
    written = yaml.safe_load(Path("b/config.yaml").read_text())["model"]
    assert written["network"]["backbone"] == "test_resnet"
    assert written["optimizer"]["lr"] == 3.5e-4


@pytest.mark.parametrize("val_fraction", [0, 0.3])
def test_the_last_epoch_is_kept_whenever_validation_is(train: Run, val_fraction: float) -> None:
    ran = train(
        "+split=original", f"split.val_fraction={val_fraction}", "trainer.max_epochs=3",
        "trainer.check_val_every_n_epoch=2", "run_dir=a", "data.identities=2",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert read_checkpoint("a/checkpoints/last.ckpt").epochs == 3
    assert Path("a/checkpoints/best.ckpt").is_file()


def test_groups_can_be_left_out(train: Run) -> None:
    assert train("+split=original", "~callbacks", "~logger", "test=false", "run_dir=a").code == 0
    assert train("+split=original", "~logger", "test=false", "run_dir=b").code == 0


def test_the_model_of_an_experiment_is_built(train: Run, run: Run, market: Path) -> None:
    assert train("+split=original", "run_dir=a", "test=false").code == 0
    for typed in ("+experiment=mgn", "model=mgn_r50"):
        ran = run(
            "camreid-train", "+split=original", f"data.root={market}", "trainer=cpu", typed,
            "init=a/checkpoints/best.ckpt", "run_dir=b", "trainer.max_epochs=1", "data.workers=0",
        )  # fmt: skip
        assert ran.code == 1, ran.out
        assert "tensors differ" in ran.err
