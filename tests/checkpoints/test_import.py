"""Foreign files made for the purpose, in each naming, with every key accounted for."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from camreid import create_model
from camreid.checkpoints import import_weights
from camreid.checkpoints.foreign.importing import import_file
from camreid.checkpoints.io import read_checkpoint, save
from camreid.checkpoints.start import start_from
from camreid.errors import HeadMismatch, InputError
from camreid.labels import LabelMap, fit_labels
from tests.conftest import GOLDEN
from tests.golden.fill_rule import fill, images

SMALL = {"image_size": [64, 32]}


def filled(config: str, rows: int = 7) -> dict[str, Tensor]:
    keys = json.loads((GOLDEN / "keys" / f"{config}.json").read_text())
    state = {}
    for name, key in keys.items():
        shape = list(key["shape"])
        if name.endswith(("heads.weight", "_head.weight", "classifier.weight", "classifier.bias")):
            shape[0] = rows
        state[name] = torch.from_numpy(np.asarray(fill(name, shape)))
    return state


def renamed(state: dict[str, Tensor], *pairs: tuple[str, str]) -> dict[str, Tensor]:
    for old, new in pairs:
        state = {name.replace(old, new): value for name, value in state.items()}
    return state


def write(path: Path, state: dict[str, Tensor], key: str = "model") -> Path:
    torch.save({key: state, "epoch": 59, "metric": 0.9}, path)
    return path


@pytest.mark.parametrize(
    ("config", "model"),
    [
        ("fastreid_bagtricks_R50", "bot_r50"),
        ("fastreid_sbs_R50-ibn", "sbs_r50_ibn"),
        pytest.param("fastreid_mgn_R50-ibn", "mgn_r50_ibn", marks=pytest.mark.slow),
        ("torchreid_osnet_x1_0", "osnet_x1_0"),
    ],
)
def test_features_are_those_of_the_other_program(config: str, model: str, tmp_path: Path) -> None:
    source = config.split("_")[0]
    path, key = tmp_path / "model.pth.tar", "model" if source == "fastreid" else "state_dict"
    parallel = {f"module.{name}": value for name, value in filled(config).items()}
    torch.save({key: parallel, "epoch": 3, "rank1": np.float64(0.9)}, path)
    module = import_weights(path, source, model, image_size=[256, 128])
    with torch.no_grad():
        ours = module.model(torch.from_numpy(images("eval", 2, 256, 128))).features
    golden = torch.from_numpy(np.load(GOLDEN / f"{config}_eval_feat.npy"))
    assert ((ours - golden).abs().max() / golden.abs().max()).item() < 1e-4
    assert module.labels.is_anonymous
    assert not module.training
    assert module.config.interpolation == ("bilinear" if source == "torchreid" else "bicubic")


@pytest.mark.parametrize(
    ("config", "model", "size"),
    [
        ("AGW_R50", "agw_r50", (128, 64)),
        pytest.param("bagtricks_vit", "vit_base", (256, 128), marks=pytest.mark.slow),
    ],
)
def test_features_and_losses_of_the_other_recipes(
    config: str, model: str, size: tuple[int, int], tmp_path: Path
) -> None:
    golden = json.loads((GOLDEN / "fastreid_more.json").read_text())[config]
    path = write(tmp_path / "model_final.pth", filled(f"fastreid_{config}"))
    labels = LabelMap.of([2, 7, 10, 11, 20, 30, 100], order="fastreid")
    module = import_weights(path, model=model, labels=labels)
    with torch.no_grad():
        features = module.model(torch.from_numpy(images("eval", 2, 256, 128))).features
    difference = features[:, ::64] - torch.tensor(golden["eval_features_every_64th"])
    assert difference.abs().max().item() < 1e-4 * golden["largest_feature"]
    module.log = module.log_dict = lambda *args, **options: None  # type: ignore[assignment]
    batch = {
        "images": torch.from_numpy(images("train", 8, *size)),
        "pids": torch.tensor([labels.pids[t] for t in (0, 0, 3, 3, 5, 5, 6, 6)]),
        "camids": torch.zeros(8, dtype=torch.int64),
    }
    loss = module.double().train().training_step(batch, 0)
    assert loss.item() == pytest.approx(sum(golden["losses_float64"].values()), rel=1e-6)


OLDER = {
    "v1.0": [("heads.weight", "heads.classifier.weight")],
    "v0.1.1": [("heads.weight", "heads.classifier.weight"), ("bottleneck.0.", "bnneck.")],
}


@pytest.mark.parametrize(("generation", "padding"), [("v1.0", 0), ("v0.1.1", 1)])
def test_older_names_are_read_with_the_pooling_of_their_time(
    generation: str, padding: int, tmp_path: Path
) -> None:
    state = filled("fastreid_bagtricks_R50")
    state["pixel_mean"] = torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1)
    state["pixel_std"] = torch.full((1, 3, 1, 1), 60.0)
    older = write(tmp_path / "o.pth", renamed(state, *OLDER[generation]))
    imported = import_file(older, "fastreid", "bot_r50", **SMALL)
    assert imported.generation == f"FastReID {generation}"
    assert imported.left_over == imported.missing == ()
    latest = write(tmp_path / "n.pth", state)
    other = import_weights(latest, model="bot_r50", stem_padding=padding, **SMALL)
    assert imported.module.config == other.config
    state = imported.module.model.state_dict()
    assert all(torch.equal(state[k], value) for k, value in other.model.state_dict().items())
    assert (state["pixel_norm.std"] == 60).all()


def test_every_key_of_a_hybrid_file_is_accounted_for(tmp_path: Path) -> None:
    state = renamed(filled("fastreid_bagtricks_R50"), *OLDER["v0.1.1"])
    state["heads.classifier.t"] = torch.zeros(1)
    state["heads.pool_layer.p"] = torch.ones(1)
    state["heads.bottleneck.0.weight"] = state["heads.bnneck.weight"]
    imported = import_file(write(tmp_path / "m.pth", state), "fastreid", "bot_r50", **SMALL)
    needless = {"heads.classifier.t", "heads.pool_layer.p", "heads.bnneck.weight"}
    assert imported.needless.keys() == needless
    assert imported.loaded.keys() | needless == state.keys()
    assert imported.left_over == imported.missing == ()
    assert imported.module.config.network["stem_padding"] == 1


@pytest.mark.slow
def test_mgn_of_the_first_release_keeps_its_extra_norm(tmp_path: Path) -> None:
    names = [
        ("_head.pool_layer.p", "_pool.0.p"),
        ("_head.bottleneck.0.", "_pool.1."),
        ("_head.bottleneck.1.", "_head.bnneck."),
        ("_head.weight", "_head.classifier.weight"),
    ]
    state = renamed(filled("fastreid_mgn_R50-ibn"), *names)
    norms = {name: value for name, value in state.items() if "_head.bnneck." in name}
    state |= renamed(norms, ("_head.bnneck.", "_pool.2."))
    path = write(tmp_path / "m.pth", state)
    imported = import_file(path, "fastreid", "mgn_r50_ibn", image_size=[96, 32])
    assert imported.left_over == imported.missing == ()
    assert imported.module.model.norms.keys() == imported.module.model.heads.keys()


@pytest.mark.parametrize("is_reduced", [False, True])
def test_torchreids_resnet_is_read_as_it_is(is_reduced: bool, tmp_path: Path) -> None:
    state = filled("torchreid_resnet50")
    plain = timm.create_model("resnet50", num_classes=0)
    plain.load_state_dict({k: v for k, v in state.items() if not k.startswith("classifier")})
    reduction = nn.Sequential(nn.Linear(2048, 512), nn.BatchNorm1d(512), nn.ReLU()).eval()
    if is_reduced:
        plain.layer4[0].conv2.stride = plain.layer4[0].downsample[0].stride = (1, 1)
        state |= {f"fc.{name}": value for name, value in reduction.state_dict().items()}
        state["classifier.weight"] = torch.rand(7, 512)
    path, model = tmp_path / "r.pth", "resnet50_fc512" if is_reduced else "bot_r50"
    imported = import_file(write(path, state, "state_dict"), "torchreid", model)
    assert imported.left_over == imported.missing == ()
    raw = torch.from_numpy(images("eval", 1, 128, 64))
    mean, std = (torch.tensor(plain.pretrained_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        expected = plain.eval()((raw / 255 - mean) / std)
        expected, output = (
            reduction(expected) if is_reduced else expected,
            imported.module.model(raw),
        )
    assert torch.allclose(output.features, expected, rtol=1e-4, atol=1e-4 * expected.abs().max())
    logits = expected @ state["classifier.weight"].T + state["classifier.bias"]
    assert torch.allclose(output.logits["identity"], logits, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_a_trunk_alone_has_no_rows_and_starts_a_model(tmp_path: Path) -> None:
    trunk = timm.create_model("resnet50", num_classes=5).state_dict()
    path = write(tmp_path / "lup.pth", {f"base.{k}": v for k, v in trunk.items()}, "state_dict")
    imported = import_file(path, "timm", "agw_r50", stem_padding=0, **SMALL)
    assert imported.needless.keys() == {"base.fc.weight", "base.fc.bias"}
    assert len(imported.loaded) == len(trunk) - 2
    assert imported.left_over == imported.missing == ()
    assert imported.module.model.backbone.trunk.maxpool.padding == 0
    assert len(imported.module.labels) == 0
    save(imported.module, tmp_path / "lup.ckpt")
    start, labels = read_checkpoint(tmp_path / "lup.ckpt"), LabelMap((3, 5))
    rows = fit_labels(start.labels, labels, "extend")
    module = create_model("agw_r50", rows, unknown="extend", network__stem_padding=0, **SMALL)
    start_from(module, start)
    assert torch.equal(module.model.backbone.trunk.conv1.weight, trunk["conv1.weight"])
    assert module.new_identities == labels
    with pytest.raises(HeadMismatch, match="no class rows that fit"):
        import_file(path, "timm", "agw_r50", labels, **SMALL)
    second = {f"base.{k}": v for k, v in trunk.items()} | {"other.weight": torch.ones(3)}
    path = write(tmp_path / "two.pth", second)
    with pytest.raises(InputError, match=r"1 of the file's are left over \(other.weight\)"):
        import_file(path, "timm", "agw_r50", **SMALL)


def test_another_architecture_names_what_does_not_fit(tmp_path: Path) -> None:
    bot = write(tmp_path / "bot.pth", filled("fastreid_bagtricks_R50"))
    with pytest.raises(InputError, match=r"1 of the model's tensors are missing \(backbone.pool.p"):
        import_weights(bot, model="sbs_r50", network__non_local=False, **SMALL)
    partial = import_file(bot, "fastreid", "sbs_r50", allow_partial=True, **SMALL)
    assert "backbone.pool.p" in partial.missing


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ((702, 2048), "has 702 rows, and the label map 7 identities"),
        (None, "has 0 rows, and the label map 7 identities"),
        ((7, 768), "no class rows that fit"),
    ],
)
def test_rows_that_do_not_fit_the_labels_are_refused(
    weight: tuple[int, int] | None, message: str, tmp_path: Path
) -> None:
    state = filled("fastreid_bagtricks_R50")
    del state["heads.weight"]
    if weight is not None:
        state["heads.weight"] = torch.ones(weight)
    path, labels = write(tmp_path / "m.pth", state), LabelMap(range(7))
    with pytest.raises(HeadMismatch, match=message):
        import_weights(path, model="bot_r50", labels=labels, allow_partial=True, **SMALL)


def test_a_variance_below_0_which_gives_nan_features_is_refused(tmp_path: Path) -> None:
    state = timm.create_model("test_resnet", num_classes=0).state_dict()
    next(v for k, v in state.items() if k.endswith("running_var"))[0] = -1e-3
    with pytest.raises(InputError, match=r"variances below 0.*running_var"):
        import_file(
            write(tmp_path / "w.pth", state), "timm", "small", network__backbone="test_resnet"
        )


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    state = timm.create_model("test_resnet", num_classes=0).state_dict()
    next(iter(state.values())).flatten()[0] = value
    with pytest.raises(InputError, match="1 tensors hold NaN, infinity"):
        import_file(
            write(tmp_path / "w.pth", state), "timm", "small", network__backbone="test_resnet"
        )
