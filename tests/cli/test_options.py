"""What options take, by the files of `conf/`: defaults, comments, files, packages."""

import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import camreid
from camreid.cli import _entry
from camreid.cli.errors import leaves
from camreid.cli.options import check_values, choices, known_options, matching, relevant
from camreid.errors import InputError
from camreid.files import CONF
from camreid.labels import LabelMap
from tests.cli.conftest import accept, imported, refused
from tests.cli.test_configs import FILES
from tests.conftest import Ran

Run = Callable[..., Ran]


@pytest.mark.parametrize(
    "typed",
    [
        "trainer.devices=auto trainer.precision=32 trainer.limit_train_batches=5",
        "trainer.devices=[0,1] trainer.fast_dev_run=3 trainer.deterministic=warn compile=true",
        "model.loss.smoothing=adaptive model.loss.triplet_margin=soft data.instances=auto",
        "model=small model.loss.triplet_margin=0.3 model.schedule.warmup=2 compile=default",
        "model.schedule.warmup=0.1 model.schedule.milestones=[5] model.network.last_stride=null",
        "evaluation.rerank=k-reciprocal evaluation.rerank_k1=30 model.network.scale=64",
        "callbacks.best=null model.optimizer.name=sgd model.optimizer.momentum=0.8",
        "model.schedule.decay=cosine_steps model.schedule.final_factor=0 trainer.max_steps=100",
    ],
)
def test_what_a_comment_names_is_taken(typed: str) -> None:
    accept(*typed.split())


@pytest.mark.parametrize(
    "typed",
    [
        "trainer.max_epochs=abc", "trainer.max_epochs=1.5", "trainer.max_epochs=", "init=",
        "data.instances=true", "data.augment=true", "data.augment.flip=maybe", "test=1",
        "model.image_size=3", "model.unknown=ignore", "model.optimizer.lr=null", "compile=quick",
        "evaluation.metric=manhattan", "model.optimizer.momentum=0.8", "evaluation.rerank_k1=30",
        "model.schedule.delay=3", "model.loss.pair_scale=3", "model.network.weights=gone.pth",
        "init=gone.ckpt", "resume=gone.ckpt", "split.manifest=gone.csv",
    ],
)  # fmt: skip
def test_a_refusal_names_the_whole_option(typed: str) -> None:
    with pytest.raises(InputError) as refusal:
        accept(typed)
    assert typed in str(refusal.value)


def test_an_infinite_value_is_named_alone_where_its_group_is_typed() -> None:
    with pytest.raises(InputError, match=r"^trainer\.devices=Infinity: "):
        accept("trainer=cpu", "trainer.devices=inf")


@pytest.mark.parametrize("value", [math.inf, math.nan, -7, -0.5, 1e30, 10**12, [math.nan], ["", 0]])
@pytest.mark.parametrize("command", [p.stem for p in sorted(CONF.glob("*.yaml"))])
def test_no_option_takes_a_number_without_meaning(command: str, value: object) -> None:
    typed = {"import": ["model=small"], "train": ["+experiment=distill", "callbacks=ema"]}
    splits = ["+split=original"] * (command in ("train", "evaluate", "matrix"))
    overrides = [*typed.get(command, ()), *splits]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        given = dict(leaves(OmegaConf.to_container(compose(command, [*overrides, "run_dir=r"]))))
        known = relevant(given, known_options(command, overrides), ())
    assert len(known) > 5
    for name, option in known.items():
        with pytest.raises(InputError, match=name):
            check_values({**given, name: value}, {name: option}, [name])


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("+foo=bar", "foo"),
        ("+modell.name=x", "modell"),
        ("+data.rot=x", "data.root"),
        ("+split.cam=3", "split.camera"),
        ("+callbacks.best.save_topk=1", "callbacks.best.save_topk"),
        ("data.eval_batch_size=images", "data.eval_batch_size=images: expected"),
        ("trainer.max_epochs=only", "trainer.max_epochs=only: expected"),
        ("model.loss.smoothing=share", "model.loss.smoothing=share: expected"),
        ("trainer.num_nodes='1'", "trainer.num_nodes=1: expected"),
        ("trainer.threads=0", "1..1024"),
        ("data.cache=decoded", "data.cache=decoded: expected"),
        ("+model.loss.foo=1", "model.loss.foo"),
        ("+trainer.max_epoch=1", "trainer.max_epochs"),
        ("+trainer.val_check_interval=nan", "trainer.val_check_interval=NaN"),
        ("+callbacks.own={_target_:a.B,least:inf}", "callbacks.own"),
        ("+callbacks.own=3", "callbacks.own"),
        ("callbacks.best=3", "callbacks.best"),
        ("data.render={people:3}", "data.render"),
        ("init=a.ckpt resume=b.ckpt", "resume and init exclude"),
        ("split.manifest=a.csv split.camera=2", "split.manifest and split.camera exclude"),
        ("model.image_size=[256]", "model.image_size"),
        ("data.augment.flip=1.5", "0..1"),
        ("trainer.max_epochs=0", "1..2147483647"),
    ],
)
def test_unknown_names_and_conflicts_are_refused(typed: str, expected: str) -> None:
    with pytest.raises(InputError, match=re.escape(expected)):
        accept(*typed.split())


def test_options_of_other_classes_stay_open() -> None:
    accept(
        "+trainer.profiler=simple", "+callbacks.best.save_top_k=-1", "data.augment.flip=1",
        "+callbacks.own={_target_:mine.Own,least:-3}", "+logger.own._target_=mine.Logger",
        "data.augment={_target_:mine.Augment}", "+data.augment.least=-0.5", "callbacks.last=null",
        "model.network._target_=mine.Network", "+model.network.depth=3", "trainer.devices=-1",
        "model.loss.extra={_target_:mine.Loss,weight:-1}", "split.seed=4294967295",
    )  # fmt: skip


def test_checkpoints_beside_a_typed_name_are_listed(tmp_path: Path) -> None:
    (tmp_path / "best.ckpt").touch()
    with pytest.raises(InputError, match=r"no checkpoint at .*Beside it: best\.ckpt"):
        accept(f"init={tmp_path}/bets.ckpt")
    assert matching("experts", f"{tmp_path}/*.ckpt") == [f"{tmp_path}/best.ckpt"]
    with pytest.raises(InputError, match="no file matches experts="):
        matching("experts", [f"{tmp_path}/*.ckpt", f"{tmp_path}/*.pth"])


def test_options_of_a_model_in_a_folder_of_ones_own(run: Run, tmp_path: Path) -> None:
    (tmp_path / "own" / "model").mkdir(parents=True)
    text = "defaults: [small, _self_]\nname: mine\nunknown: drop # of mine\n"
    (tmp_path / "own" / "model" / "mine.yaml").write_text(text)
    ran = run("train", "--options", "model", "--config-dir", "own", "model=mine")
    assert ran.code == 0, ran.err
    assert "model.name=mine" in ran.out
    assert "# of mine" in ran.out
    assert "model.optimizer.lr=" in ran.out


CHEAP = (
    ("train", "+split=original", "init=gone.ckpt"),
    ("train", "+split=original", "trainer.max_epochs=abc"),
    ("train", "+split=original", "data.root=gone"),
    ("train", "--options", "model"),
    ("train", "--version"),
    ("evaluate", "+split=original", "checkpoint=gone.ckpt"),
    ("evaluate", "features=gone.safetensors"),
    ("matrix", "+split=original", "data.root=.", "experts=[]"),
    ("export", "checkpoint=gone.ckpt"),
    ("import_weights", "model=small", "path=gone.pth"),
    ("train", "+gone=bar"),
    ("train", "+split=original", "data.root=.", "+callbacks.best.gone=1"),
    ("evaluate", "evaluation.metric=gone"),
    ("matrix", "experts="),
    ("export", "for=gone"),
    ("export", "check=gone.onnx"),
    ("extract", "checkpoint=gone.ckpt", "images=x", "output=y.npz"),
    ("import_weights", "model=gone"),
)


def test_cheap_refusals_import_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from camreid.cli import _entry, compare, data, report\n"
        f"for name, *typed in {CHEAP}:\n"
        "    sys.argv = [name, *typed]\n"
        "    try: getattr(_entry, name)()\n"
        "    except SystemExit: pass\n"
        "for main in (compare.main, report.main, data.main):\n"
        "    sys.argv = ['command', *['check'] * (main is data.main), 'data.root=gone']\n"
        "    try: main()\n"
        "    except SystemExit: pass\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert found.returncode == 0, found.stderr
    messages = found.stderr.splitlines()
    assert len(messages) == len(CHEAP) - 2 + 3, found.stderr
    assert all("gone" in text or "abc" in text or "experts=" in text for text in messages)
    assert "model.schedule.gamma=0.1" in found.stdout
    assert f"camreid {camreid.__version__}\n" in found.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("lr=3", "model.optimizer.lr or"),
        ("precision=16", "mean trainer.precision?"),
        ("evaluation.metrics=x", "mean evaluation.metric?"),
        ("model.loss._target_=x", "There are model.loss.identity_weight"),
    ],
)
def test_hints_are_whole_names_of_options(run: Run, typed: str, expected: str) -> None:
    message = refused(run("camreid-train", "+split=original", typed))
    assert expected in message
    assert f"mean {typed.partition('=')[0]}" not in message


def test_hints_are_of_this_command(run: Run) -> None:
    assert "trainer" not in refused(run("camreid-export", "precision=float16"))


def test_a_model_that_lacks_parts(run: Run) -> None:
    Path("model").mkdir()
    Path("model/mine.yaml").write_text("name: mine\nimage_size: [64, 32]\nloss: {}\n")
    message = refused(run("camreid-train", "--config-dir", ".", "model=mine", "+split=original"))
    assert "model=mine lacks model.network, model.unknown" in message
    assert "model.loss.smoothing" in message
    assert "defaults: [small, _self_]" in message
    assert "small, " in refused(run("camreid-train", "model=_training", "+split=original"))


def test_models_are_listed_without_their_base(run: Run) -> None:
    shown = run("camreid-import", "--help").out
    assert all(name in shown for name in FILES["model"])
    assert "_training" not in shown + choices("model") + run("camreid-train", "--help").out
    assert set(dir(camreid)) >= {"load", "LabelMap", "FeatureExtractor"}


def test_packages_that_are_missing_are_named_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_entry, "find_spec", lambda name: None if name == "onnx" else name)
    _entry.require_packages("report", "jinja2")
    with pytest.raises(InputError, match=r"pip install onnx\.$"):
        _entry.require_packages("camreid-export", "onnx", "onnxruntime")


@pytest.mark.parametrize("typed", ["trainer=gpu", "trainer=ddp"])
def test_a_gpu_that_is_not_there(typed: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [typed, "run_dir=r"])
    with pytest.raises(InputError, match="has no GPU"):
        _entry.check_devices(config, on_cpu=True)


def test_the_config_shown_has_the_model_of_the_checkpoint(run: Run, tmp_path: Path) -> None:
    path = imported(tmp_path / "a.ckpt", None, LabelMap((1, 2)), seed=0)
    shown = run("camreid-train", "--cfg", "job", f"init={path}", "model.optimizer.lr=0.25")
    config = OmegaConf.create(shown.out)
    assert (config.model.name, config.model.optimizer.lr, config.init) == ("tiny", 0.25, str(path))
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("{data:msmt17,rot:x}", "no option data.also.rot. Did you mean data.also.root?"),
        ("{data:csv,path:gone.csv}", "data.also.path=gone.csv"),
        ("{data:folder,root:7}", "no folder at 7: data.also.root=7"),
        ("{data:msmt17,cache:quick}", "data.also.cache=quick: expected"),
        ("{data:msmts}", "Choose data= from csv"),
        ("{root:.}", "Choose data= from csv"),
        ("msmt17", "[{data:msmt17,root:FOLDER}"),
    ],
)
def test_the_options_of_more_datasets(run: Run, typed: str, expected: str) -> None:
    found = refused(run("camreid-data", "check", "data.root=.", f"data.also=[{typed}]"))
    assert expected in found
