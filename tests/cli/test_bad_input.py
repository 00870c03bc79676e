"""A user's mistake ends in one paragraph, and leaves nothing behind."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from camreid.cli.errors import one_paragraph
from tests.cli.conftest import refused
from tests.conftest import TINY, Ran

Run = Callable[..., Ran]
RESPLIT, ORIGINAL = "+split=resplit", "+split=original"
TWO = "trainer=ddp trainer.accelerator=cpu trainer.devices=2"


@pytest.fixture
def train(run: Run, market: Path) -> Run:
    return partial(run, "camreid-train", f"data.root={market}", *TINY, "run_dir=r")


@pytest.mark.parametrize("command", ["camreid-train", "camreid-evaluate", "camreid-matrix"])
@pytest.mark.parametrize("typed", [(), ("split=reslit",), ("+split.seed=1",), ("+split={seed:1}",)])
def test_without_a_split_the_splits_are_listed(command: str, typed: tuple[str], run: Run) -> None:
    message = refused(run(command, *typed))
    assert "original" in message
    assert "resplit" in message


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("data.rot=x", "Did you mean data.root?"),
        ("trainer.max_epoch=2", "Did you mean trainer.max_epochs"),
        ("distill.teachers=[a]", "+experiment=distill"),
        ("distill=3", "+experiment=distill"),
        ("model=smal", "sbs_r50_ibn, small, solider_swin_base"),
        ("model=true", "--help"),
        (
            "+experiment=bots",
            "agw, bot, distill, finetune, from_scratch, human, intra_camera, mgn, sbs, vit",
        ),
        ("init=checkpoint=x.ckpt", "init="),
        ("run_dir=m.csv/r", "m.csv"),
        ("seed=-1", "such as seed=0"),
        ("seed=99999999999", "such as seed=0"),
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
        (f"{TWO} trainer.sync_batchnorm=true", "trainer.sync_batchnorm=false"),
        (f"{TWO} data.identities=8", "data.identities=6"),
        ("data.augment.flip=7", "0..1"),
        ("callbacks.head_check.min_coverage=30", "min_coverage"),
        ("callbacks=early_stopping", "split.val_fraction=0.1"),
        ("evaluation.metric=manhattan", "cosine"),
        ("evaluation.flip=maybe", "flip=maybe"),
        ("trainer.limit_test_batches=1e-320", "trainer.limit_test_batches=1.0"),
        ("+logger.x._target_=torch.nn.Linear", "is no pytorch_lightning.loggers.Logger"),
        ("data=null", "data=null: "),
        ("model.loss=[1]", "model.loss"),
        ("+callbacks.foo.bar=1", "There are split, model, trainer"),
        ("data.also=[{data:[1]}]", "there is no data=[1]"),
    ],
)
def test_the_paragraph_names_what_to_type(train: Run, typed: str, expected: str) -> None:
    Path("m.csv").write_text("subset,path,pid,camera,row\ntrain,gone/0001_c1s1_1_1.jpg,1,1,0\n")
    Path("x.ckpt").write_bytes(b"no checkpoint")
    Path("empty").mkdir()
    no_val = ["split.val_fraction=0"] * ("manifest" not in typed)
    message = refused(train(RESPLIT, *no_val, *typed.split()))
    assert expected in message
    assert "HYDRA" not in message
    assert "Did you mean model.loss?" not in message


@pytest.mark.parametrize(
    "typed",
    [
        "data.identities=abc", "data.instances=0", "data.workers=-1", "data.eval_batch_size=a",
        "+data.augment.foo=1", "data.augment=true", "data.root=null", "model=null",
        "model.image_size=[a,b]", "model.network.scale=abc", "model.network.backbone=resnet51",
        "model.unknown=ignore", "model.pixels=bgr", "model.optimizer.name=lion",
        "model.loss.triplet_margin=hard", "trainer.max_epochs=abc", "trainer.devices=foo",
        "trainer.devices=-1", "trainer.threads=0",
        "trainer.strategy=foo", "trainer.precision=7", "split.camera=7", "split.val_fraction=abc",
        "+split.foo=1", "callbacks.head_check.min_coverage=abc", "evaluation.neck=behind",
    ],
)  # fmt: skip
def test_values_of_another_kind(train: Run, typed: str) -> None:
    assert refused(train(ORIGINAL, typed))


def test_a_folder_one_level_off(train: Run, market: Path) -> None:
    assert f"data.root={market}." in refused(train(RESPLIT, f"data.root={market}/query"))


def test_nothing_to_test_on(train: Run, market: Path) -> None:
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        for place, pattern in (("one", "*_c1*"), *([("train_only", "*")] * ("train" in folder))):
            Path(place, folder).mkdir(parents=True)
            for image in (market / folder).glob(pattern):
                Path(place, folder, image.name).symlink_to(image)
    message = refused(train(ORIGINAL, "data.root=train_only"))
    assert "0 query and 0 gallery" in message
    assert "test=false" in message
    message = refused(train(RESPLIT, "data.root=one", "split.val_fraction=0"))
    assert "has a match in another camera" in message


@pytest.mark.parametrize(
    ("typed", "expected"),  # the images that come are raw
    [("model.pixels=imagenet", "model.pixels=raw"), (f"-m split.camera=1,2 {TWO}", "trainer=gpu")],
)
def test_what_is_found_late(train: Run, typed: str, expected: str) -> None:
    ran = train(ORIGINAL, "trainer.max_epochs=1", *typed.split())
    assert ran.code == 1
    assert expected in ran.err
    assert "Traceback" not in ran.err


def test_an_interrupt_ends_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def of_lightning() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    with pytest.raises(SystemExit) as stop, one_paragraph("camreid-evaluate"):
        of_lightning()
    assert stop.value.code == 130
    assert capsys.readouterr().err == "camreid-evaluate: interrupted.\n"


def test_an_interrupt_leaves_no_folder(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    Path("a.ckpt").touch()
    monkeypatch.setattr("camreid.cli.export.read_checkpoint", interrupt)
    ran = run("camreid-export", "checkpoint=a.ckpt", "run_dir=r")
    assert ran.code == 130
    assert refused(ran) == "camreid-export: interrupted."


def test_an_empty_run_folder_is_refused_for_features_too(run: Run) -> None:
    Path("f.npz").touch()
    assert "run_dir=: expected" in refused(run("camreid-evaluate", "features=f.npz", "run_dir="))
