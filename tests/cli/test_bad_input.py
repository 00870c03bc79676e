"""What a user gets wrong ends in one paragraph, and leaves nothing behind."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import TINY, Ran

Run = Callable[..., Ran]
RESPLIT = "+split=resplit"


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


def test_no_split(run: Run) -> None:
    for command in ("camreid-train", "camreid-evaluate"):
        said = one_paragraph(run(command))
        assert "no split was chosen" in said
        assert "+split=original" in said
        assert "+split=resplit" in said


@pytest.mark.parametrize("typed", ["+split=reslit", "split=reslit", "+split=original,reslit"])
def test_unknown_split(run: Run, typed: str) -> None:
    said = one_paragraph(run("camreid-train", typed))
    assert "there is no split 'reslit'" in said
    assert "+split=resplit" in said


@pytest.mark.parametrize("typed", ["+split.seed=1", "+split={seed:1}"])
def test_a_split_without_a_strategy(run: Run, typed: str) -> None:
    assert "has no strategy" in one_paragraph(run("camreid-train", typed))


def test_missing_dataset(refused: Callable[..., str]) -> None:
    said = refused(RESPLIT, "data.root=nowhere")
    assert "nowhere: there is no such folder" in said
    assert "data=synthetic" in said


def test_folder_one_level_off(refused: Callable[..., str], market: Path) -> None:
    assert f"data.root={market}." in refused(RESPLIT, f"data.root={market}/query")


def test_empty_folder(refused: Callable[..., str]) -> None:
    Path("empty").mkdir()
    assert "found nothing" in refused(RESPLIT, "data.root=empty")


def test_camera_that_there_is_not(refused: Callable[..., str]) -> None:
    assert "the cameras are 1, 2, 3, 4, 5, 6" in refused("+split=original", "split.camera=7")


def test_fraction_above_one(refused: Callable[..., str]) -> None:
    assert "train_fraction=1.2" in refused(RESPLIT, "split.train_fraction=1.2")


def test_manifest_of_missing_files(refused: Callable[..., str]) -> None:
    Path("m.csv").write_text("subset,path,pid,camera,row\ntrain,gone/0001_c1s1_1_1.jpg,1,1,0\n")
    assert "images that are not there" in refused(RESPLIT, "split.manifest=m.csv")
    assert "no split manifest at" in refused(RESPLIT, "split.manifest=none.csv")


def test_init_that_is_no_checkpoint(refused: Callable[..., str]) -> None:
    Path("x.ckpt").write_bytes(b"no checkpoint")
    assert "can't be read as a checkpoint" in refused(RESPLIT, "init=x.ckpt")
    assert "no checkpoint at" in refused(RESPLIT, "init=y.ckpt")
    assert "no checkpoint at" in refused(RESPLIT, "resume=y.ckpt")


def test_p_by_k_larger_than_the_identities(refused: Callable[..., str]) -> None:
    said = refused(RESPLIT, "split.val_fraction=0", "data.identities=500")
    assert "data.identities=12" in said


def test_batches_of_one_image(refused: Callable[..., str]) -> None:
    said = refused(RESPLIT, "split.val_fraction=0", "data.identities=1", "data.instances=1")
    assert "data.instances=4" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
@pytest.mark.parametrize("trainer", ["gpu", "ddp"])
def test_cuda_where_there_is_none(refused: Callable[..., str], trainer: str) -> None:
    said = refused(RESPLIT, "split.val_fraction=0", f"trainer={trainer}")
    assert "finds 0 here" in said
    assert "trainer=cpu" in said


def test_early_stopping_without_validation(refused: Callable[..., str]) -> None:
    said = refused("+split=original", "callbacks=early_stopping")
    assert "split.val_fraction=0.1" in said


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("model.unknown=ignore", "skip, drop, extend, reinit, forbid"),
        ("model.pixels=bgr", "model.pixels=raw"),
        ("model.network.backbone=resnet51", "is no timm model"),
        ("model.network.classifier=softmax", "linear, cosine, arc, circle"),
        ("model.optimizer.name=lion", "adam, adamw, sgd"),
        ("model.loss.triplet_margin=hard", "expected a number or soft"),
        ("data.augment.flip=7", "expected a number in 0..1"),
        ("callbacks.head_check.min_coverage=30", "expected a share in 0..1"),
    ],
)
def test_options_out_of_range(refused: Callable[..., str], option: str, expected: str) -> None:
    assert expected in refused("+split=original", option)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("data.rot=x", "Did you mean root"),
        ("trainer.max_epoch=2", "Did you mean max_epochs"),
        ("split.camera=3", "chosen with +split=original"),
        ("model=smal", "sbs_r50_ibn small vit_base"),
        ("init=checkpoint=x.ckpt", "in quotes of their own"),
        ("seed=abc", "expected a whole number from 0"),
        ("seed=-1", "expected a whole number from 0"),
        ("model.optimizer.lr=abc", "model.optimizer.lr=abc: expected a number"),
        ("trainer.max_epochs=0", "expected 1 or more"),
        ("trainer.devices=4096", "starts 4096 processes"),
        ("trainer.max_epochs=-1", "expected 1 or more"),
        ("run_dir=m.csv/r", "m.csv is a file"),
        ("init=.", "is a folder; type the checkpoint in it"),
    ],
)
def test_what_was_typed_wrongly(run: Run, market: Path, typed: str, expected: str) -> None:
    Path("m.csv").touch()
    options = [f"data.root={market}", *TINY, "split.val_fraction=0", typed]
    said = one_paragraph(run("camreid-train", RESPLIT, *options))
    assert expected in said
    assert "HYDRA" not in said


def test_normalised_images_are_declared_but_raw_ones_come(run: Run, market: Path) -> None:
    options = [f"data.root={market}", *TINY, "run_dir=r", "trainer.max_epochs=1"]
    ran = run("camreid-train", "+split=original", *options, "model.pixels=imagenet")
    assert ran.code == 1
    assert "uint8 images from 0 to 255" in ran.err
    assert "model.pixels=raw" in ran.err
    assert "Traceback" not in ran.err


def test_a_dataset_without_a_test_set(refused: Callable[..., str], market: Path) -> None:
    Path("train_only").mkdir()
    Path("train_only/bounding_box_train").symlink_to(market / "bounding_box_train")
    said = refused("+split=original", "data.root=train_only")
    assert "0 query and 0 gallery" in said
    assert "test=false" in said


def test_evaluate_without_a_checkpoint(run: Run) -> None:
    assert "no checkpoint was given" in one_paragraph(run("camreid-evaluate", RESPLIT))


def test_ddp_in_a_multirun(run: Run, market: Path) -> None:
    options = [f"data.root={market}", *TINY, "trainer=ddp", "trainer.accelerator=cpu", "run_dir=r"]
    ran = run("camreid-train", "-m", "+split=original", "split.camera=1,2", *options)
    assert ran.code == 1
    assert "-m runs jobs one after another" in ran.err


def test_a_dataset_of_one_camera_is_not_trained_for_nothing(
    refused: Callable[..., str], market: Path
) -> None:
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (Path("one") / folder).mkdir(parents=True)
        for image in (market / folder).glob("*_c1*"):
            (Path("one") / folder / image.name).symlink_to(image)
    said = refused(RESPLIT, "data.root=one", "split.val_fraction=0")
    assert "has a match in another camera" in said
    assert "1 cameras in all" in said
    assert "test=false" in said


@pytest.mark.parametrize(
    "typed",
    [
        "data.identities=abc", "data.identities=1.5", "data.instances=0", "data.workers=-1",
        "data.eval_batch_size=a", "data.augment.flip=abc", "+data.augment.foo=1", "data.root=null",
        "model.image_size=[a,b]", "model.network.scale=abc", "trainer.max_epochs=abc", "model=null",
        "trainer.devices=foo", "trainer.strategy=foo", "split.val_fraction=abc", "+split.foo=1",
        "callbacks.head_check.min_coverage=abc", "trainer.precision=7", "data.augment=true",
    ],
)  # fmt: skip
def test_values_of_another_kind(refused: Callable[..., str], typed: str) -> None:
    assert refused("+split=original", typed)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("evaluation.neck=behind", "evaluation.neck=after"),
        ("evaluation.metric=manhattan", "type one of cosine, euclidean"),
        ("evaluation.flip=maybe", "evaluation.flip=maybe: type true or false"),
        ("model.interpolation=nearest", "model.interpolation=bicubic"),
        ("model.loss.triplet_mining=soft", "hard, weighted, weighted_fastreid"),
        ("model.optimizer.clip=-1", "model.optimizer.clip=-1"),
        ("+experiment=bots", "agw bot distill finetune intra_camera mgn sbs vit"),
    ],
)
def test_options_of_recipes(refused: Callable[..., str], typed: str, said: str) -> None:
    assert said in refused(RESPLIT, typed)
