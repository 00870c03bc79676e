"""A user's mistake ends in one paragraph, and leaves nothing behind."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import TINY, Ran

Run = Callable[..., Ran]
RESPLIT, ORIGINAL = "+split=resplit", "+split=original"


def one_paragraph(ran: Ran) -> str:
    assert ran.code not in (0, None)
    paragraph = ran.err.strip()
    assert "Traceback" not in ran.err + ran.out
    assert "\n" not in paragraph, paragraph
    assert not list(Path().glob("*/checkpoints"))
    assert not Path("r").exists()
    assert not Path("runs").exists()
    return paragraph


@pytest.fixture
def refused(run: Run, market: Path) -> Callable[..., str]:
    def command(*arguments: object) -> str:
        options = [f"data.root={market}", *TINY, "run_dir=r", *arguments]
        return one_paragraph(run("camreid-train", *options))

    return command


@pytest.mark.parametrize("command", ["camreid-train", "camreid-evaluate", "camreid-matrix"])
@pytest.mark.parametrize("typed", [(), ("split=reslit",), ("+split.seed=1",), ("+split={seed:1}",)])
def test_without_a_split_the_splits_are_listed(command: str, typed: tuple[str], run: Run) -> None:
    message = one_paragraph(run(command, *typed))
    assert "original" in message
    assert "resplit" in message


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("data.rot=x", "Did you mean root"),
        ("trainer.max_epoch=2", "Did you mean max_epochs"),
        ("distill.teachers=[a]", "+experiment=distill"),
        ("distill=3", "+experiment=distill"),
        ("model=smal", "sbs_r50_ibn, small, vit_base"),
        ("model=true", "--help"),
        ("+experiment=bots", "agw, bot, distill, finetune, intra_camera, mgn, sbs, vit"),
        ("init=checkpoint=x.ckpt", "init="),
        ("run_dir=m.csv/r", "m.csv"),
        ("seed=-1", "seed=1"),
        ("seed=99999999999", "seed=1"),
        ("trainer.max_epochs=0", "max_epochs"),
        ("trainer.max_epochs=-1", "max_epochs"),
        ("model.optimizer.lr=abc", "optimizer.lr=abc"),
        ("init=.", "no checkpoint at"),
        ("init=x.ckpt", "x.ckpt"),
        ("init=y.ckpt", "no checkpoint at"),
        ("resume=y.ckpt", "no checkpoint at"),
        ("init_dataset=others", "init_dataset=others"),
        ("init_dataset=other", "there is no init="),
        ("data.root=nowhere", "data=synthetic"),
        ("data.root=empty", "empty"),
        ("split.train_fraction=1.2", "train_fraction=1.2"),
        ("split.manifest=m.csv", "images that are not there"),
        ("split.manifest=none.csv", "none.csv"),
        ("split.exclude_seen=gone.ckpt", "gone.ckpt"),
        ("split.exclude_seen='*.pth'", "no file matches split.exclude_seen="),
        ("data.identities=500", "data.identities=12"),
        ("trainer.devices=4096", "starts 4096 processes"),
        ("trainer.devices=0", "trainer=cpu"),
        ("model.network.camera_norm=true trainer.sync_batchnorm=true", "sync_batchnorm=false"),
        ("data.augment.flip=7", "0..1"),
        ("callbacks.head_check.min_coverage=30", "min_coverage"),
        ("callbacks=early_stopping", "split.val_fraction=0.1"),
        ("evaluation.metric=manhattan", "cosine"),
        ("evaluation.flip=maybe", "flip=maybe"),
    ],
)
def test_the_paragraph_names_what_to_type(
    refused: Callable[..., str], typed: str, expected: str
) -> None:
    Path("m.csv").write_text("subset,path,pid,camera,row\ntrain,gone/0001_c1s1_1_1.jpg,1,1,0\n")
    Path("x.ckpt").write_bytes(b"no checkpoint")
    Path("empty").mkdir()
    message = refused(RESPLIT, "split.val_fraction=0", *typed.split())
    assert expected in message
    assert "HYDRA" not in message


@pytest.mark.parametrize(
    "typed",
    [
        "data.identities=abc", "data.instances=0", "data.workers=-1", "data.eval_batch_size=a",
        "+data.augment.foo=1", "data.augment=true", "data.root=null", "model=null",
        "model.image_size=[a,b]", "model.network.scale=abc", "model.network.backbone=resnet51",
        "model.unknown=ignore", "model.pixels=bgr", "model.optimizer.name=lion",
        "model.loss.triplet_margin=hard", "trainer.max_epochs=abc", "trainer.devices=foo",
        "trainer.strategy=foo", "trainer.precision=7", "split.camera=7", "split.val_fraction=abc",
        "+split.foo=1", "callbacks.head_check.min_coverage=abc", "evaluation.neck=behind",
    ],
)  # fmt: skip
def test_values_of_another_kind(refused: Callable[..., str], typed: str) -> None:
    assert refused(ORIGINAL, typed)


def test_a_folder_one_level_off(refused: Callable[..., str], market: Path) -> None:
    assert f"data.root={market}." in refused(RESPLIT, f"data.root={market}/query")


def test_nothing_to_test_on(refused: Callable[..., str], market: Path) -> None:
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        for place, pattern in (("one", "*_c1*"), *([("train_only", "*")] * ("train" in folder))):
            Path(place, folder).mkdir(parents=True)
            for image in (market / folder).glob(pattern):
                Path(place, folder, image.name).symlink_to(image)
    message = refused(ORIGINAL, "data.root=train_only")
    assert "0 query and 0 gallery" in message
    assert "test=false" in message
    message = refused(RESPLIT, "data.root=one", "split.val_fraction=0")
    assert "has a match in another camera" in message


def test_normalised_images_are_declared_but_raw_ones_come(run: Run, market: Path) -> None:
    options = [f"data.root={market}", *TINY, "run_dir=r", "trainer.max_epochs=1"]
    ran = run("camreid-train", ORIGINAL, *options, "model.pixels=imagenet")
    assert ran.code == 1
    assert "model.pixels=raw" in ran.err
    assert "Traceback" not in ran.err


def test_ddp_in_a_multirun(run: Run, market: Path) -> None:
    options = [f"data.root={market}", *TINY, "trainer=ddp", "trainer.accelerator=cpu", "run_dir=r"]
    ran = run("camreid-train", ORIGINAL, "split.camera=1,2", *options, "trainer.devices=2", "-m")
    assert ran.code == 1
    assert "trainer=gpu" in ran.err
    assert "Traceback" not in ran.err
