"""Foreign files made for the purpose, in each naming, with every key accounted for."""

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from camreid import create_model
from camreid.checkpoints import import_weights
from camreid.checkpoints.foreign.importing import import_file
from camreid.checkpoints.io import load, read_checkpoint, save
from camreid.checkpoints.start import start_from
from camreid.data import OriginalSplit, Records, ReIDDataModule, Resplit
from camreid.errors import HeadMismatch, InputError
from camreid.labels import LabelMap, fit_labels
from camreid.provenance import Provenance
from camreid.training.head_check import HeadCheck
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


@pytest.mark.parametrize(
    ("config", "model", "size"),
    [("AGW_R50", "agw_r50", (128, 64)), ("bagtricks_vit", "vit_base", (256, 128))],
)
def test_features_and_losses_of_the_other_recipes(
    config: str, model: str, size: tuple[int, int], tmp_path: Path
) -> None:
    golden = json.loads((GOLDEN / "fastreid_more.json").read_text())[config]
    path = write(tmp_path / "model_final.pth", filled(f"fastreid_{config}"))
    people = LabelMap.of([2, 7, 10, 11, 20, 30, 100], order="fastreid")
    module = import_weights(path, model=model, labels=people)
    with torch.no_grad():
        features = module.model(torch.from_numpy(images("eval", 2, 256, 128))).features
    difference = features[:, ::64] - torch.tensor(golden["eval_features_every_64th"])
    assert difference.abs().max().item() < 1e-4 * golden["largest_feature"]
    module.log = module.log_dict = lambda *args, **options: None  # type: ignore[assignment]
    batch = {
        "images": torch.from_numpy(images("train", 8, *size)),
        "pids": torch.tensor([people.pids[t] for t in (0, 0, 3, 3, 5, 5, 6, 6)]),
        "camids": torch.zeros(8, dtype=torch.int64),
    }
    loss = module.double().train().training_step(batch, 0)
    assert loss.item() == pytest.approx(sum(golden["losses_float64"].values()), rel=1e-6)


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
    old["pixel_mean"] = torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1)
    old["pixel_std"] = torch.full((1, 3, 1, 1), 60.0)  # of a config of one's own
    imported = import_file(write(tmp_path / "o.pth", old), model="bot_r50", **SMALL)
    assert imported.generation == f"FastReID {generation}"
    assert imported.stem_padding == padding
    assert imported.left_over == imported.missing == ()
    state["pixel_std"] = old["pixel_std"]
    new = write(tmp_path / "n.pth", state)
    other = import_weights(new, model="bot_r50", stem_padding=padding, **SMALL)
    ours, theirs = imported.module.model.state_dict(), other.model.state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert (ours["pixel_norm.std"] == 60).all()


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
    module = import_weights(path, source="torchreid", model="osnet_x1_0")
    with torch.no_grad():
        output = module.model(torch.from_numpy(images("eval", 2, 256, 128)))
    theirs = torch.from_numpy(np.load(GOLDEN / "torchreid_osnet_x1_0_eval_feat.npy"))
    assert ((output.features - theirs).abs().max() / theirs.abs().max()).item() < 1e-4
    assert module.config.interpolation == "bilinear"
    bias = module.model.state_dict()["heads.identity.bias"]
    assert torch.equal(bias, state["classifier.bias"])


def test_another_architecture_names_what_does_not_fit(tmp_path: Path) -> None:
    path = write(tmp_path / "m.pth", filled("fastreid_bagtricks_R50"))
    with pytest.raises(InputError, match=r"is not a sbs_r50: \d+ .*closest is model=bot_r50 "):
        import_weights(path, model="sbs_r50", **SMALL)
    partial = import_file(path, model="sbs_r50", allow_partial=True, **SMALL)
    assert "backbone.pool.p" in partial.missing


@pytest.mark.parametrize("model", ["resnet50", "bot_r50"])
def test_torchreids_resnets_are_read_as_they_are(model: str, tmp_path: Path) -> None:
    state = filled("torchreid_resnet50")
    imported = import_file(write(tmp_path / "r.pth", state, "state_dict"), "torchreid", model)
    network = imported.module.model
    assert imported.left_over == imported.missing == ()
    assert network.backbone.trunk.layer4[0].conv2.stride == (2, 2)
    raw = torch.from_numpy(images("eval", 1, 128, 64))
    plain = timm.create_model("resnet50", num_classes=0)
    plain.load_state_dict({k: v for k, v in state.items() if not k.startswith("classifier")})
    normalised = (raw / 255 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    with torch.no_grad():
        expected = plain.eval()(normalised)
        output = network(raw)
    assert torch.allclose(output.features, expected, rtol=1e-4, atol=1e-4 * expected.abs().max())
    logits = expected @ state["classifier.weight"].T + state["classifier.bias"]
    assert torch.allclose(output.logits["identity"], logits, rtol=1e-3, atol=1e-3)


def test_torchreids_reduced_resnet_is_read(tmp_path: Path) -> None:
    state = filled("torchreid_resnet50")
    reduced = {"fc.0.weight": (512, 2048), "fc.0.bias": (512,), "classifier.weight": (7, 512)}
    norm = {f"fc.1.{k}": (512,) for k in ("weight", "bias", "running_mean", "running_var")}
    state |= {
        k: torch.rand(shape) - 0.5 * k.startswith("fc.0") for k, shape in (reduced | norm).items()
    }
    state["fc.1.num_batches_tracked"] = torch.tensor(4)
    path = write(tmp_path / "r.pth", state, "state_dict")
    imported = import_file(path, "torchreid", "resnet50_fc512", **SMALL)
    network = imported.module.model
    assert imported.left_over == imported.missing == ()
    assert network.backbone.trunk.layer4[0].conv2.stride == (1, 1)
    with torch.no_grad():
        features = network(torch.from_numpy(images("eval", 1, 128, 64))).features
    assert features.shape == (1, 512)
    assert features.min() == 0  # after the ReLU


def test_a_trunk_alone_has_no_rows_and_starts_a_model(tmp_path: Path) -> None:
    trunk = timm.create_model("resnet50", num_classes=0).state_dict()
    path = write(tmp_path / "lup.pth", {f"base.{k}": v for k, v in trunk.items()}, "state_dict")
    imported = import_file(path, "timm", "agw_r50", **SMALL)
    assert len(imported.loaded) == len(trunk)
    assert imported.left_over == imported.missing == ()
    assert len(imported.module.labels) == 0
    save(imported.module, tmp_path / "lup.ckpt")
    start, people = read_checkpoint(tmp_path / "lup.ckpt"), LabelMap((3, 5))
    labels = fit_labels(start.labels, people, "extend")
    module = create_model("agw_r50", labels, unknown="extend", **SMALL)
    start_from(module, start)
    assert torch.equal(module.model.backbone.trunk.conv1.weight, trunk["conv1.weight"])
    assert module.new_identities == people
    with pytest.raises(InputError, match="leave labels out"):
        import_file(path, "timm", "agw_r50", people, **SMALL)
    with pytest.raises(InputError, match=r"are missing .*closest"):
        import_file(path, "timm", "osnet_x1_0", **SMALL)
    second = {**{f"base.{k}": v for k, v in trunk.items()}, "other.weight": torch.ones(3)}
    path = write(tmp_path / "two.pth", second)
    with pytest.raises(InputError, match=r"1 of the file's are left over \(other.weight\)"):
        import_file(path, "timm", "agw_r50", **SMALL)


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
    whole = write(tmp_path / "whole.pth", filled("fastreid_bagtricks_R50"))
    (tmp_path / "short.pth").write_bytes(whole.read_bytes()[:100_000])
    for name in ("cut.pth", "short.pth"):
        with pytest.raises(InputError, match=r"bytes can't be read .* it is cut short"):
            import_weights(tmp_path / name, model="bot_r50")
    with pytest.raises(InputError, match=r"holds pickled code \(.*print\), which could"):
        import_weights(tmp_path / "trap.pth", model="bot_r50")
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
            with pytest.raises(HeadMismatch, match="is anonymous"):
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


def test_a_wrong_order_is_called_out(market: Path, records: Records) -> None:
    from camreid.cli.import_weights import check_rows

    split = OriginalSplit()(records)
    module = create_model("small", split.labels, network__backbone="test_resnet", **SMALL).eval()
    data = ReIDDataModule(split, (64, 32), workers=0)
    with torch.no_grad():  # rows that know their people: the mean features
        module.provenance = Provenance(inherited={"identity": ()})
        module.start_rows(data.eval_dataloader(split.train))
    numeric = LabelMap.of(split.labels.pids)
    with pytest.raises(HeadMismatch, match=r"labels\.order=fastreid"):
        check_rows(module, numeric, split.train, by_order=True)
    with pytest.raises(HeadMismatch, match="import again with its rows in fastreid order"):
        check_rows(module, numeric, split.train, by_order=False)
    told = check_rows(module, split.labels, split.train, by_order=True)
    assert "chance is" in str(told)
    assert "UNSURE" not in str(told)
    torch.nn.init.normal_(module.model.heads["identity"].weight)
    told = check_rows(module, split.labels, split.train, by_order=True)
    assert "UNSURE ROWS" in str(told)
    alike = LabelMap((1, 2, 3))
    module = create_model("small", alike, network__backbone="test_resnet", **SMALL).eval()
    assert "both orders are the same" in str(check_rows(module, alike, split.train[:4], True))


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["labels.camera=3"], "labels.camera=3 goes with a dataset"),
        (["labels.pids=p.txt", "labels.order=numeric"], "type labels.root=FOLDER with it"),
        (["labels.pids=p.txt", "labels.manifest=s.csv"], "labels.pids and labels."),
        (["labels.pids=p.txt"], "names [7] twice"),
        (["labels.pids=none.txt"], "expected one pid a line"),
        (["+model.network.foo=1"], "has no option network.foo"),
        (["source=torchreid"], "The closest is model=bot_r50 source=fastreid"),
        (["model=mgn_r50_ibn", "model.image_size=[96,32]"], "is not a mgn_r50_ibn"),
    ],
)
def test_what_is_typed_wrong_writes_nothing(
    run: Callable[..., Ran], typed: list[str], said: str
) -> None:
    write(Path("c3.pth"), filled("fastreid_bagtricks_R50"))
    Path("p.txt").write_text("7 9 7 1 2 3 4")
    options = ["path=c3.pth", "model=bot_r50", "model.image_size=[64,32]", "run_dir=i"]
    names = {a.partition("=")[0] for a in typed}
    options = [a for a in options if a.partition("=")[0] not in names]
    ran = run("camreid-import", *options, *typed)
    assert ran.code == 1
    assert said in ran.err
    assert "\n" not in ran.err.strip()
    assert not Path("i").exists()


def test_rows_that_do_not_fit_are_nobodys(tmp_path: Path) -> None:
    state = filled("fastreid_bagtricks_R50")
    del state["heads.weight"]
    path, people = write(tmp_path / "m.pth", state), LabelMap(range(7))
    with pytest.raises(HeadMismatch, match="has 0 rows, and the label map 7 people"):
        import_weights(path, model="bot_r50", labels=people, **SMALL)
    state["heads.weight"] = torch.ones(7, 768)
    path = write(tmp_path / "m.pth", state)
    with pytest.raises(HeadMismatch, match="would name rows of noise"):
        import_weights(path, model="bot_r50", labels=people, allow_partial=True, **SMALL)


def test_every_key_is_accounted_for(tmp_path: Path) -> None:
    state = renamed(filled("fastreid_bagtricks_R50"), *OLD["v0.1.1"])
    state["heads.classifier.t"] = torch.zeros(1)
    state["heads.pool_layer.p"] = torch.ones(1)
    state["heads.bottleneck.0.weight"] = state["heads.bnneck.weight"]
    imported = import_file(write(tmp_path / "m.pth", state), model="bot_r50", **SMALL)
    needless = {"heads.classifier.t", "heads.pool_layer.p", "heads.bnneck.weight"}
    assert imported.needless.keys() == needless
    assert imported.loaded.keys() | needless == state.keys()
    assert imported.stem_padding == 1


def test_the_padding_that_is_said_is_the_one_that_is_built(tmp_path: Path) -> None:
    path = write(tmp_path / "m.pth", filled("fastreid_bagtricks_R50"))
    imported = import_file(path, model="bot_r50", network__stem_padding=1, **SMALL)
    assert imported.stem_padding == imported.module.config.network["stem_padding"] == 1
    trunk = timm.create_model("resnet50", num_classes=5).state_dict()
    path = write(tmp_path / "t.pth", trunk, "state_dict")
    imported = import_file(path, "timm", "bot_r50", stem_padding=0, **SMALL)
    assert imported.module.model.backbone.trunk.maxpool.padding == 0
    assert imported.needless.keys() == {"fc.weight", "fc.bias"}


def test_starting_weights_keep_the_features_that_they_had(tmp_path: Path) -> None:
    path = write(tmp_path / "m.pth", filled("fastreid_bagtricks_R50"))
    people = LabelMap(range(7))
    save(import_weights(path, model="bot_r50", labels=people, **SMALL), tmp_path / "m.ckpt")
    start = read_checkpoint(tmp_path / "m.ckpt")
    for option, value in (("last_stride", None), ("pool", "gem"), ("stem_padding", 1)):
        options = {"network__stem_padding": 0, f"network__{option}": value, **SMALL}
        with pytest.raises(InputError, match=rf"Type model\.network\.{option}="):
            start_from(create_model("bot_r50", people, **options), start)
    with pytest.raises(InputError, match=r"Type camreid-import path=.*m\.pth"):
        read_checkpoint(path)
    torch.save({"state_dict": {}, "rank1": np.float64(0.9)}, tmp_path / "t.tar")
    with pytest.raises(InputError, match="Type camreid-import"):
        read_checkpoint(tmp_path / "t.tar")


@pytest.mark.parametrize("unknown", ["skip", "extend"])
def test_a_step_moves_each_persons_own_row_towards_them(
    expert: tuple[Path, LabelMap], records: Records, unknown: str
) -> None:
    start, split = read_checkpoint(expert[0]), Resplit(0.5, 0.2, 0)(records)
    labels = fit_labels(start.labels, split.labels, unknown)  # type: ignore[arg-type]
    options = {"network__stem_padding": 0, "loss__triplet_weight": 0.0, "loss__smoothing": 0.0}
    module = create_model("bot_r50", labels, unknown=unknown, **options, **SMALL)
    start_from(module, start)
    data = ReIDDataModule(split, (64, 32), workers=0, eval_batch_size=48)
    if unknown == "extend":
        new = [r for r in split.train if r.pid in module.new_identities]
        module.eval()
        module.start_rows(data.eval_dataloader(new))
    batch = next(iter(data.eval_dataloader(split.train)))
    module.log = module.log_dict = lambda *args, **options: None  # type: ignore[assignment]
    module.train()
    head = module.model.heads["identity"]
    rows, before = head.rows(batch["pids"]), head.weight.detach().clone()
    known = rows >= 0
    with torch.no_grad():  # what the gradient of the cross-entropy says
        features = module.model(batch["images"]).features[known]
        hits = F.one_hot(rows[known], len(labels)).float()
        expected = (hits - head(features).softmax(1)).T @ features / known.sum()
    optimizer = torch.optim.SGD([head.weight], lr=1.0)
    module.training_step(batch, 0).backward()
    optimizer.step()
    moved = head.weight.detach() - before
    assert (moved - expected).abs().max() < 1e-3 * expected.abs().max()
    assert bool(known.all()) == (unknown == "extend")
    for row in rows[known].unique().tolist():
        own = features[rows[known] == row].mean(0)
        assert F.cosine_similarity(moved[row], own, dim=0) > 0
