"""camreid-import: the account of the keys, the check of the rows, and what it refuses."""

import json
import signal
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from omegaconf import OmegaConf

from camreid.checkpoints.io import load, read_checkpoint
from camreid.cli.import_weights import _check, read_labels
from camreid.data import Records
from camreid.labels import LabelMap
from tests.checkpoints.test_import import filled, write
from tests.conftest import TINY, Ran


@pytest.mark.slow
def test_the_command_imports_checks_and_feeds_training(
    run: Callable[..., Ran], market: Path, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    labels = LabelMap.of((r.pid for r in records.train if r.camera == 3), order="fastreid")
    write(Path("c3.pth"), filled("fastreid_bagtricks_R50", rows=len(labels)))
    common = ["camreid-import", "path=c3.pth", "model=bot_r50", "model.image_size=[64,32]"]
    ran = run(*common, f"labels.root={market}", "labels.camera=3", "run_dir=i")
    assert ran.code == 0, ran.err
    said = [ran.out.index(text) for text in ("Keys ", "Checking the rows: 0/", "accuracy on")]
    assert said == sorted(said)
    account = json.loads(Path("i/import.json").read_text())
    assert account["rows_checked"] is True
    assert account["left_over"] == account["missing"] == []
    assert account["rows"] == len(labels)
    assert load("i/checkpoints/imported.ckpt").labels == labels
    quiet = [a for a in TINY if not a.startswith("model")]
    trained = run(
        "camreid-train", "+split=resplit", f"data.root={market}", *quiet, "test=false",
        "init=i/checkpoints/imported.ckpt", "run_dir=t", "trainer.max_epochs=1",
        "trainer.limit_train_batches=1", "split.val_fraction=0",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    wrong = run(*common, f"labels.root={market}", "labels.camera=4", "run_dir=w")
    assert wrong.code == 1
    assert f"has {len(labels)} rows" in wrong.err
    assert "The head fits labels.camera=3." in wrong.err
    assert not Path("w").exists()
    monkeypatch.setattr("camreid.cli.import_weights.check_rows", interrupt)
    for folder, more in (("s", "labels.check=false"), ("k", "labels.check=true")):
        ran = run(*common, f"labels.root={market}", "labels.camera=3", f"run_dir={folder}", more)
        assert ran.code == 0, ran.err
        assert "UNCHECKED ROWS" in ran.out
        assert load(f"{folder}/checkpoints/imported.ckpt").labels == labels
        assert json.loads(Path(folder, "import.json").read_text())["rows_checked"] is False
    Path("pids.txt").write_text("\n".join(map(str, labels.pids)))
    ran = run(*common, "labels.pids=pids.txt", "labels.camera=3", "run_dir=p")
    assert ran.code == 0, ran.err
    assert read_checkpoint("p/checkpoints/imported.ckpt").provenance.split.camera == 3


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ([], "path=FILE and model=NAME"),
        (["labels.camera=3"], "labels.camera=3 do not go together"),
        (["labels.pids=p.txt", "labels.order=numeric"], "labels.root=FOLDER"),
        (["labels.pids=p.txt", "labels.manifest=p.txt"], "do not go together"),
        (["labels.pids=p.txt"], "[7]"),
        (["labels.pids=none.txt"], "none.txt"),
        (["labels.pids=p.txt", "labels.camera=0"], "labels.camera=0: expected"),
        (["+model.network.foo=1"], "there is no option model.network.foo"),
        (["source=torchreid"], "left over (heads.weight)"),
    ],
)
def test_mistakes_write_nothing(run: Callable[..., Ran], typed: list[str], expected: str) -> None:
    write(Path("c3.pth"), {"heads.weight": torch.ones(7, 96)})
    Path("p.txt").write_text("7 9 7 1 2 3 4")
    options = ["path=c3.pth", "model=small", "model.image_size=[64,32]"] if typed else []
    ran = run("camreid-import", *options, *typed, "run_dir=i")
    assert ran.code == 1
    assert expected in ran.err
    assert "\n" not in ran.err.strip()
    assert not Path("i").exists()


def test_the_container_and_what_was_not_used_are_printed(
    run: Callable[..., Ran], market: Path
) -> None:
    trunk = timm.create_model("test_vit", num_classes=0, img_size=(64, 32)).state_dict()
    teacher = {f"backbone.{k}": v for k, v in trunk.items()} | {"head.mlp.0.bias": torch.ones(2)}
    torch.save({"teacher": teacher, "student": teacher, "args": Namespace(lr=1)}, "dino.pth")
    small = ["model.network.backbone=test_vit", "model.image_size=[128,64]"]
    typed = ["camreid-import", "path=dino.pth", "source=timm", "model=vit_small", *small]
    ran = run(*typed, "run_dir=i")
    assert ran.code == 0, ran.err
    assert f"{len(trunk)} of {len(trunk)} tensors of the trunk, from teacher: backbone.*" in ran.out
    assert "student: backbone.* has the same names" in ran.out
    assert "positions of 4x2 patches resized to 8x4" in ran.out
    account = json.loads(Path("i/import.json").read_text())
    assert account["needless"].keys() == {"head.mlp.0.bias"}
    del teacher["backbone.norm.bias"]
    torch.save({"teacher": teacher}, "dino.pth")
    refused = run(*typed, "run_dir=r")
    assert refused.code == 1
    assert "allow_partial" in refused.err
    assert run(*typed, "run_dir=p", "allow_partial=true").code == 0
    train = ["camreid-train", "+split=original", "+experiment=human", *small, f"data.root={market}"]
    partial = run(*train, "model.network.weights=dino.pth", "run_dir=t", "trainer=cpu")
    assert partial.code == 1
    assert "Type model.network.allow_partial=true." in partial.err


@pytest.mark.slow
def test_training_prints_the_coverage_of_the_trunk(run: Callable[..., Ran], market: Path) -> None:
    trunk = timm.create_model("test_vit", num_classes=0, img_size=(64, 32)).state_dict()
    del trunk["norm.bias"]
    torch.save({"model": trunk}, "w.pth")
    ran = run(
        "camreid-train", "+split=original", "+experiment=human", f"data.root={market}", *TINY[2:],
        "model.network.backbone=test_vit", "model.network.weights=w.pth", "run_dir=t",
        "model.network.allow_partial=true", "trainer.max_epochs=1", "test=false",
        "trainer.limit_train_batches=1", "split.val_fraction=0", "data.instances=2",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert f"{len(trunk)} of {len(trunk) + 1} tensors of the trunk, from model: *" in ran.out


def test_identities_from_a_file_with_the_camera_of_their_expert(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("7 9 4")
    given = {"pids": str(tmp_path / "p.txt"), "camera": 3, "check": True}
    labels, split = read_labels(OmegaConf.create(given), "fastreid", OmegaConf.create())
    assert labels == LabelMap((7, 9, 4))
    assert split is None


def test_only_ctrl_c_leaves_out_the_check_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    module, split = Namespace(labels=None), Namespace(train=())
    monkeypatch.setattr("camreid.cli.import_weights.check_rows", interrupt)
    monkeypatch.setattr("camreid.cli.import_weights.stopped", [signal.SIGINT])
    assert not _check(True, module, split)
    monkeypatch.setattr("camreid.cli.import_weights.stopped", [signal.SIGTERM])
    with pytest.raises(KeyboardInterrupt):
        _check(True, module, split)
