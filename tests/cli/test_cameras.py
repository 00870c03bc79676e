"""One model for all cameras through the commands: train, evaluate, fine-tune, export."""

import json
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import torch
import yaml

from camreid.checkpoints.io import load, read_checkpoint
from camreid.data import Split
from camreid.training import ReIDModule
from tests.cli.conftest import metrics
from tests.conftest import TINY, Ran

Run = Callable[..., Ran]
pytestmark = pytest.mark.slow

OPTIONS = {
    "norm": ("model.network.camera_norm=true",),
    "heads": ("+experiment=intra_camera",),
    "embedding": (
        "model=vit_base", "model.network.backbone=vit_tiny_patch16_224",
        "model.network.pretrained=false", "model.network.camera_embedding=3.0",
        "model.image_size=[64,32]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS)
def test_train_evaluate_and_fine_tune(option: str, run: Run, market: Path) -> None:
    common = (f"data.root={market}", *TINY, "trainer.max_epochs=1")
    typed = OPTIONS[option]
    if option == "embedding":
        common = (f"data.root={market}", *TINY[3:], "trainer.max_epochs=1")
    ran = run("camreid-train", "+split=original", *common, *typed, "run_dir=a")
    assert ran.code == 0, ran.err
    best = "a/checkpoints/best.ckpt"
    network = read_checkpoint(best).config.network
    assert network["cameras"] == [1, 2, 3, 4, 5, 6]
    written = yaml.safe_load(Path("a/config.yaml").read_text())["model"]["network"]
    assert {**network, "allow_partial": False} == written  # of this run's weights alone
    assert load(best).model.cameras == (1, 2, 3, 4, 5, 6)

    ran = run(
        "camreid-evaluate", f"checkpoint={best}", "+split=original", f"data.root={market}",
        "data.workers=0", "trainer=cpu", "trainer.enable_progress_bar=false", "run_dir=again",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    for key in ("retrieval", "identity", "camera_pairs"):
        assert metrics("again")[key] == metrics("a")[key]

    # on other identities, without the options, which are the checkpoint's own
    own = [o for o in common if not o.startswith("model")]
    if option == "heads":
        own.append("data.within_camera=true")
    ran = run(
        "camreid-train", "+split=resplit", "split.val_fraction=0.2", *own, f"init={best}",
        "model.unknown=extend", "run_dir=b",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    split = Split.load("b/split.csv")
    tuned = load("b/checkpoints/best.ckpt")
    before = load(best)
    assert tuned.config.network == network
    if option == "heads":
        check_heads(tuned, before, split)
    else:
        assert tuned.labels.pids == before.labels.pids + (split.labels - before.labels).pids


def check_heads(tuned: ReIDModule, before: ReIDModule, split: Split) -> None:
    heads = json.loads(Path("b/head_check.json").read_text())["heads"]
    assert [fit["camera"] for fit in heads] == [1, 2, 3, 4, 5, 6]
    for fit in heads:
        camera = fit["camera"]
        old, own = before.camera_labels[camera], split.camera_labels[camera]
        assert tuned.camera_labels[camera].pids == old.pids + (own - old).pids
        assert (fit["shared"], fit["unknown"]) == (len(own & old), len(own - old))


@pytest.mark.parametrize("option", ["norm", "heads"])
def test_resume_is_the_uninterrupted_run_and_keeps_the_cameras(
    option: str, run: Run, market: Path
) -> None:
    constant = ("model.schedule.decay=constant", "model.schedule.warmup=0")
    common = ("camreid-train", "+split=original", f"data.root={market}", *TINY[3:], *constant)
    same = ("test=false", *TINY[:3], *OPTIONS[option])
    for name, epochs in (("whole", 2), ("first", 1)):
        ran = run(*common, *same, f"run_dir={name}", f"trainer.max_epochs={epochs}")
        assert ran.code == 0, ran.err
    resume = ("resume=first/checkpoints/last.ckpt", "trainer.max_epochs=2")
    for other in ((*same, "model.network.cameras=[2,1,3,4,5,6]"), TINY[:3]):
        ran = run(*common, *other, *resume, "run_dir=other")
        assert ran.code == 1
        assert "Leave model= out" in ran.err
        assert not Path("other").exists()
    own = same if option == "norm" else ("data.within_camera=true", "test=false")
    ran = run(*common, *own, *resume)  # leaving model= out is the same as typing it again
    assert ran.code == 0, ran.err
    whole, second = (
        load(f"{r}/checkpoints/last.ckpt").model.state_dict() for r in ("whole", "first")
    )
    assert all(torch.allclose(whole[k].float(), second[k].float(), atol=1e-6) for k in whole)


def test_an_export_is_of_an_unknown_camera_and_a_plain_model_can_be_given_cameras(
    run: Run, market: Path
) -> None:
    common = ("+split=original", f"data.root={market}", *TINY, "trainer.max_epochs=1")
    ran = run("camreid-train", *common, "split.camera=3", "test=false", "run_dir=plain")
    assert ran.code == 0, ran.err
    ran = run(
        "camreid-train", "+split=original", f"data.root={market}", *TINY[3:],
        "trainer.max_epochs=1", "init=plain/checkpoints/best.ckpt", "model.unknown=extend",
        "model.network.camera_norm=true", "test=false", "run_dir=a",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    ran = run("camreid-export", "checkpoint=a/checkpoints/best.ckpt", "path=m.onnx", "run_dir=x")
    assert ran.code == 0, ran.err
    session = onnxruntime.InferenceSession("m.onnx", providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["cameras"]) == [1, 2, 3, 4, 5, 6]
    assert "unknown" in metadata["camera_of_images"]
    images = torch.randint(0, 256, (3, 3, 64, 32), dtype=torch.uint8)
    (found,) = session.run(["features"], {"images": images.numpy()})
    network = load("a/checkpoints/best.ckpt").model
    with torch.inference_mode():
        expected = network(images).features
        by_camera = network(images, cameras=torch.tensor([1, 2, 3])).features
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(by_camera, expected, atol=1e-2)
