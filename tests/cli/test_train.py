"""camreid-train and camreid-evaluate, from the split to the numbers."""

import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

from camreid import create_model
from camreid.checkpoints.io import load, read_checkpoint, save
from camreid.data import OriginalSplit, Records, Split
from camreid.evaluation import FeatureTable, rank
from tests.cli.conftest import metrics
from tests.conftest import TINY, Ran, trained

Run = Callable[..., Ran]
ORIGINAL, RESPLIT = "+split=original", "+split=resplit"


def leaves(node: object, name: str = "") -> dict[str, object]:
    """The values of nested lists and mappings by name."""
    if not isinstance(node, dict | list):
        return {name: node}
    items = node.items() if isinstance(node, dict) else enumerate(node)
    return {k: v for key, part in items for k, v in leaves(part, f"{name}.{key}").items()}


def weights(path: str) -> dict[str, torch.Tensor]:
    return load(path).model.state_dict()


@pytest.fixture
def train(run: Run, market: Path) -> Run:
    return partial(run, "camreid-train", f"data.root={market}", *TINY, "trainer.max_epochs=1")


@pytest.fixture
def passed(train: Run) -> Run:
    def command(*arguments: object) -> Ran:
        ran = train(*arguments)
        assert ran.code == 0, ran.err
        return ran

    return command


@pytest.fixture
def expert(records: Records) -> Callable[[], str]:
    """A checkpoint of camera 3, without any training."""

    def build() -> str:
        labels = OriginalSplit(camera=3)(records).labels
        tiny = {"network__backbone": "test_resnet", "image_size": [64, 32]}
        save(trained(create_model("small", labels, **tiny), 3).eval(), "expert.ckpt")
        return "expert.ckpt"

    return build


@pytest.mark.slow
@pytest.mark.parametrize("unknown", ["skip", "drop", "extend", "reinit"])
def test_the_resplit_with_every_unknown(
    unknown: str, passed: Run, expert: Callable[[], str]
) -> None:
    init = (f"init={expert()}", f"model.unknown={unknown}", "split.val_fraction=0.2")
    assert "Leakage" in passed(RESPLIT, *init, "run_dir=r").out
    head = json.loads(Path("r/head_check.json").read_text())["heads"][0]
    split, own = Split.load("r/split.csv").labels, load("expert.ckpt").labels
    shared = 0 if unknown == "reinit" else len(split & own)
    assert (head["shared"], head["unknown"]) == (shared, len(split) - shared)
    union = {*own.pids, *split.pids}
    expected = {"extend": union, "reinit": set(split.pids)}.get(unknown, set(own.pids))
    assert set(load("r/checkpoints/best.ckpt").labels.pids) == expected


def test_forbid_refuses_unknown_identities(train: Run, expert: Callable[[], str]) -> None:
    refused = train(RESPLIT, f"init={expert()}", "model.unknown=forbid", "run_dir=r")
    assert refused.code == 1
    assert "model.unknown=forbid" in refused.err
    assert "+split=original split.camera=3" in refused.err
    assert "Traceback" not in refused.err
    assert not Path("r/checkpoints").exists()
    assert json.loads(Path("r/head_check.json").read_text())["faults"]


@pytest.mark.slow
def test_evaluation_repeats_the_test_of_a_training(passed: Run, run: Run, market: Path) -> None:
    passed(RESPLIT, "split.val_fraction=0.2", "run_dir=r")
    best, saved = "checkpoint=r/checkpoints/best.ckpt", "features=r/features.safetensors"
    quiet = ("trainer=cpu", "trainer.enable_progress_bar=false")
    split = (RESPLIT, "split.val_fraction=0.2", f"data.root={market}", "data.workers=0", *quiet)
    for typed in (
        (best, *split, "run_dir=again"),
        (best, *split, "run_dir=flip", "evaluation=torchreid", "evaluation.flip=true"),
        (saved, *quiet, "run_dir=ranked"),
        (saved, *quiet, "run_dir=rerank", "evaluation.rerank=k-reciprocal"),
    ):
        ran = run("camreid-evaluate", *typed)
        assert ran.code == 0, ran.err
    first = metrics("r")
    keys = ("retrieval", "intervals", "protocols", "camera_pairs", "leak", "split", "verification")
    for key in keys:
        expected = {  # sums in float64 depend on the number of threads
            name: pytest.approx(value, rel=1e-12) if isinstance(value, float) else value
            for name, value in leaves(first[key]).items()
        }
        assert leaves(metrics("again")[key]) == expected
        assert leaves(metrics("ranked")[key]) == expected
    assert metrics("again")["identity"] == first["identity"]
    assert metrics("ranked")["identity"] is None
    for other in ("flip", "rerank"):
        assert metrics(other)["retrieval"] != first["retrieval"]
    assert metrics("rerank").get("protocols") is None
    assert metrics("rerank")["verification"] == metrics("ranked")["verification"]
    again = leaves(metrics("again")["reliability"])  # means of float32 cosines
    assert again == pytest.approx(leaves(first["reliability"]), rel=1e-6)
    assert again
    assert metrics("ranked")["reliability"] is None
    low, high = first["intervals"]["mAP"]
    assert low <= first["retrieval"]["mAP"] <= high
    table = FeatureTable.load("r/features.safetensors")
    q, g = table.query, table.gallery
    result = rank(q.features, g.features, q.pids, g.pids, q.cameras, g.cameras)
    assert result.mAP == pytest.approx(first["retrieval"]["mAP"])
    for wrong in ("evaluation.rerank_k1=100000", "evaluation.flip=true"):
        ran = run("camreid-evaluate", saved, "run_dir=w", "evaluation.rerank=k-reciprocal", wrong)
        assert ran.code == 1
        assert "\n" not in ran.err.strip()
        assert not Path("w").exists()


@pytest.mark.slow
def test_the_run_folder_holds_everything(passed: Run) -> None:
    ran = passed(RESPLIT, "split.val_fraction=0.2", "run_dir=r", "trainer.limit_test_batches=3")
    held = {str(p.relative_to("r")) for p in Path("r").rglob("*") if p.is_file()}
    assert held >= {
        "config.yaml", "split.csv", "head_check.json", "metrics.json", "metrics.csv",
        "checkpoints/best.ckpt", "checkpoints/last.ckpt", "camreid-train.log",
    }  # fmt: skip
    assert {p.name for p in Path().iterdir()} == {"r"}
    kept, split = read_checkpoint("r/checkpoints/best.ckpt"), Split.load("r/split.csv")
    assert kept.provenance.split.digest == split.digest == metrics("r")["split"]["digest"]
    for text in (Path("r/config.yaml").read_text(), kept.notes["config"]):
        assert yaml.safe_load(text)["split"]["val_fraction"] == 0.2
    assert kept.notes["versions"]["torch"]
    assert "val/mAP" in Path("r/metrics.csv").read_text().splitlines()[0]
    assert "on a part of the images only" in ran.out
    assert metrics("r")["partial"] is True
    log = Path("r/camreid-train.log").read_text()
    assert all(text in log for text in ("Split  re-split", "mAP", "Written to"))
    passed(RESPLIT, "split.manifest=r/split.csv", "test=false", "run_dir=b")
    assert Path("r/split.csv").read_text() == Path("b/split.csv").read_text()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_model(passed: Run) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        passed(ORIGINAL, f"run_dir={name}", f"seed={seed}", "test=false")
    a, b, c = (weights(f"{name}/checkpoints/last.ckpt") for name in "abc")
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], c[k]) for k in a)


@pytest.mark.slow
def test_resume_is_the_uninterrupted_run(passed: Run, train: Run) -> None:
    constant = ("model.schedule.decay=constant", "model.schedule.warmup=0")
    common = (ORIGINAL, "test=false", *constant)
    last = "resume=first/checkpoints/last.ckpt"
    passed(*common, "run_dir=whole", "trainer.max_epochs=2")
    passed(*common, "run_dir=first")
    before = {p: p.stat().st_mtime_ns for p in Path("first/checkpoints").iterdir()}
    for typed, expected in (
        ((last,), "has finished 1 epochs"),
        (("run_dir=first",), "files of a run"),
        ((last, "split.camera=2", "trainer.max_epochs=2", "run_dir=b"), "another split"),
    ):
        ran = train(*common, *typed)
        assert ran.code == 1
        assert expected in ran.err
        assert not Path("b").exists()
    assert before == {p: p.stat().st_mtime_ns for p in Path("first/checkpoints").iterdir()}
    passed(*common, "trainer.max_epochs=2", last)
    assert len(list(Path("first").glob("metrics*.csv"))) == 1
    with Path("first/metrics.csv").open(newline="") as file:
        epochs = [line["epoch"] for line in csv.DictReader(file) if line["train/loss"]]
    assert epochs == ["0", "1"]
    whole, second = (weights(f"{r}/checkpoints/last.ckpt") for r in ("whole", "first"))
    assert all(torch.allclose(whole[k].float(), second[k].float(), atol=1e-6) for k in whole)


@pytest.mark.slow
def test_the_checkpoints_own_model_with_what_is_typed(
    run: Run, market: Path, expert: Callable[[], str]
) -> None:
    common = (RESPLIT, f"data.root={market}", *TINY[3:], f"init={expert()}", "trainer.max_epochs=1")
    started = read_checkpoint("expert.ckpt").config
    for name, typed, lr, margin in (
        ("a", ("model.optimizer.lr=0.001", "model.unknown=extend"), 0.001, "soft"),
        ("b", ("experiment=finetune", "model.loss.triplet_margin=0.2"), 3.5e-5, 0.2),
        ("c", ("model.optimizer.lr=3.5e-4",), 3.5e-4, "soft"),  # the default of another model
    ):
        ran = run("camreid-train", *common, *typed, "test=false", f"run_dir={name}")
        assert ran.code == 0, ran.err
        ours = read_checkpoint(f"{name}/checkpoints/last.ckpt").config
        assert (ours.network, ours.image_size) == (started.network, started.image_size)
        assert (ours.optimizer["lr"], ours.loss["triplet_margin"]) == (lr, margin)
        assert ours.unknown == ("extend" if name == "a" else "skip")
        written = yaml.safe_load(Path(name, "config.yaml").read_text())["model"]
        assert written["network"]["backbone"] == "test_resnet"


@pytest.mark.parametrize(
    "typed", ["+experiment=mgn", "+experiment=bot", "model=mgn_r50", "+experiment=[finetune,agw]"]
)
def test_the_model_of_an_experiment_or_typed_is_built(
    typed: str, run: Run, market: Path, expert: Callable[[], str]
) -> None:
    common = (ORIGINAL, f"data.root={market}", "trainer=cpu", "data.workers=0", "run_dir=b")
    ran = run("camreid-train", *common, f"init={expert()}", typed, "model.unknown=reinit")
    assert ran.code == 1, ran.out
    assert "tensors differ" in ran.err


@pytest.mark.slow
def test_multirun_over_cameras(passed: Run) -> None:
    passed("-m", ORIGINAL, "split.camera=1,4", "run_dir=sweep", "test=false")
    counts = [len(load(f"sweep/{job}/checkpoints/best.ckpt").labels) for job in (0, 1)]
    assert counts[1] < counts[0]


@pytest.mark.slow
def test_a_resumed_drop_still_drops(passed: Run, expert: Callable[[], str]) -> None:
    options = (RESPLIT, "test=false", "data.identities=2")
    passed(*options, f"init={expert()}", "model.unknown=drop", "run_dir=d")
    passed(*options, "resume=d/checkpoints/last.ckpt", "trainer.max_epochs=2")
    kept = read_checkpoint("d/checkpoints/last.ckpt")
    assert (kept.epochs, kept.config.unknown) == (2, "drop")
    train_pids = {r.pid for r in Split.load("d/split.csv").train}
    assert not (kept.provenance.seen - set(kept.labels.pids)) & train_pids


@pytest.mark.slow
@pytest.mark.parametrize("val_fraction", [0, 0.3])
def test_the_last_epoch_is_kept_whenever_validation_is(passed: Run, val_fraction: float) -> None:
    passed(
        ORIGINAL, f"split.val_fraction={val_fraction}", "trainer.max_epochs=3",
        "trainer.check_val_every_n_epoch=2", "run_dir=a", "data.identities=2",
    )  # fmt: skip
    assert read_checkpoint("a/checkpoints/last.ckpt").epochs == 3
    assert Path("a/checkpoints/best.ckpt").is_file()


@pytest.mark.slow
def test_groups_can_be_left_out(passed: Run) -> None:
    for name, left_out in enumerate((("~callbacks", "~logger"), ("logger=null",), ("~callbacks",))):
        passed(ORIGINAL, *left_out, "test=false", f"run_dir=r{name}")


def test_synchronised_norms_keep_the_activations_of_timm(passed: Run) -> None:
    efficientnet = ("model.network.backbone=test_efficientnet", "model.network.last_stride=null")
    for folder, on in (("a", "false"), ("b", "true")):
        sync = (f"trainer.sync_batchnorm={on}", f"run_dir={folder}", "trainer.max_steps=2")
        ran = passed(RESPLIT, "test=false", "data.instances=auto", *efficientnet, *sync)
        assert "Batch  4 identities x 4 images" in ran.out
    a, b = weights("a/checkpoints/last.ckpt"), weights("b/checkpoints/last.ckpt")
    assert all(torch.equal(value, b[name]) for name, value in a.items())
