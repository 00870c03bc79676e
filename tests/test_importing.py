"""Foreign files made for the purpose, in each naming, with every key accounted for."""

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from camreid import create_model
from camreid.callbacks import HeadCheck
from camreid.checkpoints import import_weights, load, read_checkpoint, save, start_from
from camreid.data import OriginalSplit, Records, ReIDDataModule, Resplit
from camreid.errors import HeadMismatch, InputError
from camreid.importing import import_file
from camreid.labels import LabelMap, fit_labels
from tests.conftest import GOLDEN, TINY, Ran
from tests.golden.fill_rule import fill, images

SMALL = {"image_size": [64, 32]}


def filled(config: str, rows: int = 7) -> dict[str, Tensor]:
    keys = json.loads((GOLDEN / "keys" / f"{config}.json").read_text())
    state = OrderedDict()
    for name, key in keys.items():
        shape = list(key["shape"])
        if name.endswith(("heads.weight", "_head.weight", "classifier.weight", "classifier.bias")):
            shape[0] = rows
        state[name] = torch.from_numpy(np.asarray(fill(name, shape)))
    return state


def renamed(state: dict[str, Tensor], *pairs: tuple[str, str]) -> dict[str, Tensor]:
    new = OrderedDict()
    for name, value in state.items():
        for old, other in pairs:
            name = name.replace(old, other)
        new[name] = value
    return new


def write(path: Path, state: dict[str, Tensor], key: str = "model") -> Path:
    torch.save({key: state, "epoch": 59, "metric": 0.9} if key else state, path)
    return path


@pytest.mark.parametrize(
    ("config", "model"),
    [("bagtricks_R50", "bot_r50"), ("sbs_R50-ibn", "sbs_r50_ibn"), ("mgn_R50-ibn", "mgn_r50_ibn")],
)
def test_features_are_fastreids(config: str, model: str, tmp_path: Path) -> None:
    path = write(tmp_path / "model_final.pth", filled(f"fastreid_{config}"))
    module = import_weights(path, model=model, image_size=[256, 128])
    with torch.no_grad():
        ours = module.model(torch.from_numpy(images("eval", 2, 256, 128))).features
    theirs = torch.from_numpy(np.load(GOLDEN / f"fastreid_{config}_eval_feat.npy"))
    assert ((ours - theirs).abs().max() / theirs.abs().max()).item() < 1e-4
    assert module.labels.is_anonymous
    assert not module.training


OLD = {
    "v1.0": [("heads.weight", "heads.classifier.weight")],
    "v0.1.1": [("heads.weight", "heads.classifier.weight"), ("bottleneck.0.", "bnneck.")],
}


@pytest.mark.parametrize(("generation", "padding"), [("v1.0", 0), ("v0.1.1", 1)])
def test_old_names_are_read_with_the_pooling_of_their_time(
    generation: str, padding: int, tmp_path: Path
) -> None:
    state = filled("fastreid_bagtricks_R50")
    old = renamed(state, *OLD[generation])
    old["pixel_mean"] = old["pixel_std"] = torch.zeros(1, 3, 1, 1)
    imported = import_file(write(tmp_path / "o.pth", old), model="bot_r50", **SMALL)
    assert imported.generation == f"FastReID {generation}"
    assert imported.stem_padding == padding
    assert imported.left_over == imported.missing == ()
    new = write(tmp_path / "n.pth", state)
    other = import_weights(new, model="bot_r50", stem_padding=padding, **SMALL)
    ours, theirs = imported.module.model.state_dict(), other.model.state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_hybrid_zoo_files_are_read(tmp_path: Path) -> None:
    state = renamed(filled("fastreid_bagtricks_R50"), ("heads.weight", "heads.classifier.weight"))
    del state["heads.bottleneck.0.num_batches_tracked"]
    state["heads.bnneck.num_batches_tracked"] = torch.tensor(9)
    state["heads.pool_layer.p"] = torch.tensor([2.9])
    imported = import_file(write(tmp_path / "z.pth", state), model="bot_r50", **SMALL)
    assert imported.stem_padding == 1
    assert imported.left_over == imported.missing == ()


def test_mgn_of_the_first_release_keeps_its_extra_norm(tmp_path: Path) -> None:
    state = OrderedDict()
    for name, value in filled("fastreid_mgn_R50-ibn").items():
        part = name.split("_head.")[0]
        name = name.replace(f"{part}_head.pool_layer.p", f"{part}_pool.0.p")
        name = name.replace(f"{part}_head.bottleneck.0.", f"{part}_pool.1.")
        if "_head.bottleneck.1." in name:
            state[name.replace("_head.bottleneck.1.", "_pool.2.")] = value
        name = name.replace("_head.bottleneck.1.", "_head.bnneck.")
        state[name.replace("_head.weight", "_head.classifier.weight")] = value
    path = write(tmp_path / "m.pth", state)
    imported = import_file(path, model="mgn_r50_ibn", image_size=[96, 32])
    assert imported.left_over == imported.missing == ()
    assert imported.module.model.norms.keys() == imported.module.model.heads.keys()


def test_torchreid_files_are_read(tmp_path: Path) -> None:
    state = renamed(filled("torchreid_osnet_x1_0"))
    prefixed = OrderedDict((f"module.{k}", v) for k, v in state.items())
    path = tmp_path / "model-best.pth.tar"
    torch.save({"state_dict": prefixed, "epoch": 3, "rank1": np.float64(0.9)}, path)
    options = {"network__neck": "none", "network__bias": True}
    module = import_weights(path, source="torchreid", model="osnet_x1_0", **options)
    with torch.no_grad():
        output = module.model(torch.from_numpy(images("eval", 2, 256, 128)))
    theirs = torch.from_numpy(np.load(GOLDEN / "torchreid_osnet_x1_0_eval_feat.npy"))
    assert ((output.features - theirs).abs().max() / theirs.abs().max()).item() < 1e-4
    bias = module.model.state_dict()["heads.identity.bias"]
    assert torch.equal(bias, state["classifier.bias"])


def test_another_architecture_names_what_does_not_fit(tmp_path: Path) -> None:
    path = write(tmp_path / "m.pth", filled("fastreid_bagtricks_R50"))
    with pytest.raises(InputError, match=r"is not a sbs_r50: \d+ of the model"):
        import_weights(path, model="sbs_r50", **SMALL)
    partial = import_file(path, model="sbs_r50", allow_partial=True, **SMALL)
    assert "backbone.pool.p" in partial.missing


def test_rows_and_people_that_disagree_stop(tmp_path: Path) -> None:
    path = write(tmp_path / "m.pth", filled("fastreid_bagtricks_R50", rows=702))
    with pytest.raises(HeadMismatch, match="has 702 rows, and the label map 751 people"):
        import_weights(path, model="bot_r50", labels=LabelMap(range(751)), **SMALL)


def test_files_that_can_not_be_read_are_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("the trap was sprung",)

    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 cut short")
    torch.save({"model": Trap()}, tmp_path / "trap.pth")
    for name in ("cut.pth", "trap.pth"):
        with pytest.raises(InputError, match="pickled code, which is not run"):
            import_weights(tmp_path / name, model="bot_r50")
    with pytest.raises(InputError, match="no file at"):
        import_weights(tmp_path / "none.pth", model="bot_r50")


@pytest.fixture
def expert(records: Records, tmp_path: Path) -> tuple[Path, LabelMap]:
    """A FastReID-format file of camera 3's expert, saved as a checkpoint with its labels."""
    labels = LabelMap.of((r.pid for r in records.train if r.camera == 3), order="fastreid")
    path = write(tmp_path / "c3.pth", filled("fastreid_bagtricks_R50", rows=len(labels)))
    module = import_weights(path, model="bot_r50", labels=labels, **SMALL)
    save(module, tmp_path / "c3.ckpt")
    return tmp_path / "c3.ckpt", labels


@pytest.mark.slow
@pytest.mark.parametrize("unknown", ["skip", "extend"])
def test_an_imported_expert_trains_each_persons_own_row(
    expert: tuple[Path, LabelMap], records: Records, unknown: str
) -> None:
    path, people = expert
    split = Resplit(0.5, 0.2, 0)(records)
    start = read_checkpoint(path)
    labels = fit_labels(start.labels, split.labels, unknown)  # type: ignore[arg-type]
    module = create_model("bot_r50", labels, unknown=unknown, network__stem_padding=0, **SMALL)
    start_from(module, start)
    head = module.model.heads["identity"]
    theirs = load(path).model.heads["identity"].weight
    for pid in people.pids:
        assert torch.equal(head.weight[head.labels.row(pid)], theirs[people.row(pid)])
    module.log = module.log_dict = lambda *args, **options: None  # type: ignore[assignment]
    known = (people & split.labels).pids
    records_of = [r for r in split.train if r.pid == known[0]]
    data = ReIDDataModule(split, (64, 32), workers=0)
    batch = next(iter(data.eval_dataloader(records_of)))
    module.train()
    module.training_step(batch, 0).backward()
    features = module.model(batch["images"]).features.mean(0)
    assert int((-(head.weight.grad @ features)).argmax()) == people.row(known[0])


def test_an_anonymous_head_is_trained_with_reinit_alone(
    records: Records, tmp_path: Path, trainer: Callable[..., pl.Trainer]
) -> None:
    path = write(tmp_path / "m.pth", filled("fastreid_bagtricks_R50", rows=9))
    save(import_weights(path, model="bot_r50", **SMALL), tmp_path / "m.ckpt")
    split, start = OriginalSplit()(records), read_checkpoint(tmp_path / "m.ckpt")
    data = ReIDDataModule(split, (64, 32), identities=2, instances=2, workers=0)
    for unknown in ("skip", "extend", "reinit"):
        labels = fit_labels(start.labels, split.labels, unknown)  # type: ignore[arg-type]
        module = create_model("bot_r50", labels, unknown=unknown, network__stem_padding=0, **SMALL)
        start_from(module, start)
        runner = trainer(callbacks=[HeadCheck()], limit_train_batches=0)
        if unknown == "reinit":
            runner.fit(module, data)
            assert module.labels == split.labels
        else:
            with pytest.raises(HeadMismatch, match="is anonymous: the file"):
                runner.fit(module, data)


@pytest.mark.slow
def test_the_command_imports_checks_and_feeds_training(
    run: Callable[..., Ran], market: Path, records: Records
) -> None:
    people = LabelMap.of((r.pid for r in records.train if r.camera == 3), order="fastreid")
    state = filled("fastreid_bagtricks_R50", rows=len(people))
    write(Path("c3.pth"), state)
    common = ["camreid-import", "path=c3.pth", "model=bot_r50", "model.image_size=[64,32]"]
    ran = run(*common, f"labels.root={market}", "labels.camera=3", "run_dir=i")
    assert ran.code == 0, ran.err
    assert "accuracy on" in ran.out
    assert "chance is" in ran.out
    account = json.loads(Path("i/import.json").read_text())
    assert account["left_over"] == account["missing"] == []
    assert account["rows"] == len(people)
    assert load("i/checkpoints/imported.ckpt").labels == people
    quiet = [a for a in TINY if not a.startswith("model")]
    trained = run(
        "camreid-train", "+split=resplit", f"data.root={market}", *quiet, "test=false",
        "init=i/checkpoints/imported.ckpt", "run_dir=t", "trainer.max_epochs=1",
        "trainer.limit_train_batches=1", "split.val_fraction=0",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    wrong = run(*common, f"labels.root={market}", "labels.camera=4", "run_dir=w")
    assert wrong.code == 1
    assert f"has {len(people)} rows" in wrong.err
    assert not Path("w").exists()
    assert "needs path=FILE and model=NAME" in run("camreid-import").err


def test_a_wrong_order_is_called_out(
    market: Path, records: Records, capsys: pytest.CaptureFixture[str]
) -> None:
    from camreid.cli.importer import _say_rows

    split = OriginalSplit()(records)
    module = create_model("small", split.labels, network__backbone="test_resnet", **SMALL).eval()
    data = ReIDDataModule(split, (64, 32), workers=0)
    with torch.no_grad():  # rows that know their people: the mean features
        module.new_people = split.labels
        module.start_rows(data.eval_dataloader(split.train))
    numeric = LabelMap.of(split.labels.pids)
    _say_rows(module, numeric, split.train)
    assert "WRONG ROWS: fastreid order" in capsys.readouterr().out
    _say_rows(module, split.labels, split.train)
    assert "WRONG" not in capsys.readouterr().out
