import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from camreid.checkpoints.io import load, read_checkpoint
from camreid.checkpoints.start import start_from
from camreid.errors import HeadMismatch, InputError
from camreid.labels import LabelMap
from camreid.training import ReIDModule
from camreid.training.head_check import CheckpointNotes
from tests.conftest import tiny_module


def save(module: ReIDModule, path: Path) -> Path:
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        callbacks=[CheckpointNotes({"k": 1})],
    )
    trainer.strategy.connect(module)
    module.trainer = trainer
    trainer.save_checkpoint(path)
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save(tiny_module(LabelMap((10, 2, 7))), tmp_path / "m.ckpt")


def test_a_model_comes_back_with_its_people(checkpoint: Path) -> None:
    module, original = load(checkpoint), tiny_module(LabelMap((10, 2, 7)))
    images = torch.randint(0, 256, (2, 3, 64, 32), dtype=torch.uint8)
    assert module.labels.pids == (10, 2, 7)
    assert not module.training
    assert torch.equal(module.model(images).features, original.eval().model(images).features)
    assert read_checkpoint(checkpoint).notes["k"] == 1


def test_rows_follow_the_person_into_another_order(checkpoint: Path) -> None:
    module = tiny_module(LabelMap((7, 99, 10)), unknown="extend")
    start_from(module, read_checkpoint(checkpoint))
    theirs, ours = (m.model.heads["identity"].weight for m in (load(checkpoint), module))
    assert torch.equal(ours[0], theirs[2])
    assert torch.equal(ours[2], theirs[0])
    assert module.new_identities.pids == (99,)


def test_another_architecture_is_refused(checkpoint: Path) -> None:
    network = {"_target_": "camreid.models.Baseline", "backbone": "resnet10t", "last_stride": 1}
    module = tiny_module(LabelMap((10, 2)), name="other", network=network)
    with pytest.raises(
        InputError, match=r"is a tiny model and this run builds a other: \d+ tensors"
    ):
        start_from(module, read_checkpoint(checkpoint))


def test_a_head_whose_rows_are_not_its_peoples_is_refused(checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["model.heads.identity.pids"] = torch.tensor([10, 2])
    torch.save(content, checkpoint)
    with pytest.raises(HeadMismatch, match=r"\(3, 96\), but its label map names 2 identities"):
        start_from(tiny_module(LabelMap((10, 2))), read_checkpoint(checkpoint))


def test_files_that_are_no_checkpoint_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no checkpoint at .*In that folder: m.ckpt"):
        load(tmp_path / "best.ckpt")
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(InputError, match="its 1000 bytes can't be read"):
        load(cut)
    torch.save({"epoch": 3}, cut)
    with pytest.raises(InputError, match="is no camreid checkpoint: it holds epoch"):
        load(cut)
    torch.save([1, 2], cut)
    with pytest.raises(InputError, match="holds a list"):
        load(cut)
    torch.save({"state_dict": {}, "hyper_parameters": {}}, cut)
    with pytest.raises(InputError, match="not of a camreid model"):
        load(cut)


def test_a_checkpoint_without_provenance_is_refused(checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    del content["camreid"]["provenance"]
    torch.save(content, checkpoint)
    with pytest.raises(InputError, match=r"m.ckpt was written by camreid 0\.1"):
        load(checkpoint)


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("the trap was sprung",)

    torch.save({"state_dict": Trap()}, tmp_path / "trap.ckpt")
    with pytest.raises(InputError, match=r"holds pickled code \(.*print\), which could"):
        load(tmp_path / "trap.ckpt")


def with_config(checkpoint: Path, **network: object) -> Path:
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"]["config"]["network"].update(network)
    torch.save(content, checkpoint)
    return checkpoint


def test_a_class_that_a_file_names_is_not_imported(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil.py").write_text("open('sprung', 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    for target in ("evil.Network", "evil:Network", "os.system", ["evil.Network"], None):
        with pytest.raises(InputError, match="_target_"):
            load(with_config(checkpoint, _target_=target))
    assert not Path("sprung").exists()
    assert "evil" not in sys.modules


def test_a_network_that_the_user_names_is_built(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text("from camreid.models import Baseline as Network\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert load(with_config(checkpoint, _target_="mine.Network"), ["mine.Network"]).labels


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("config", "text"),
        ("config", {"network": "text"}),
        ("config", {"network": {}, "more": 1}),
        ("config", {"name": "${oc.env:HOME}", "network": {}}),
        ("labels", 3),
        ("labels", ["1"]),
    ],
)
def test_hyperparameters_of_another_form_are_refused(
    checkpoint: Path, key: str, value: object
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"][key] = value
    torch.save(content, checkpoint)
    with pytest.raises(InputError, match=r"m\.ckpt|model"):
        load(checkpoint)


def test_tensors_that_do_not_fit_the_network_are_refused(checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    name, tensor = next(iter(content["state_dict"].items()))
    other = torch.zeros(3, 3), tensor.long(), None
    for value in other:
        state = {k: v for k, v in {**content["state_dict"], name: value}.items() if v is not None}
        torch.save({**content, "state_dict": state}, checkpoint)
        with pytest.raises(InputError, match=name.removeprefix("model.")):
            load(checkpoint)
