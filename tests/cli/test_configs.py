"""Every config file composes, and says what its class says."""

import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import OmegaConf

from camreid import create_model
from camreid.cli import CONF
from camreid.data import Augment, OriginalSplit, Resplit, SyntheticMarket
from camreid.errors import InputError
from camreid.labels import LabelMap
from camreid.models import ModelConfig
from camreid.training.head_check import HeadCheck
from tests.conftest import Ran

GROUPS = ["split", "data", "model", "trainer", "callbacks", "logger", "experiment"]
FILES = [(g, p.stem) for g in GROUPS for p in sorted(Path(CONF, g).glob("[!_]*.yaml"))]


@pytest.mark.parametrize(("group", "name"), FILES, ids=lambda f: str(f))
def test_composes_through_the_command(group: str, name: str, run: Callable[..., Ran]) -> None:
    typed = [f"+split={name}"] if group == "split" else ["+split=original", f"{group}={name}"]
    ran = run("camreid-train", *typed, "--cfg", "job")
    assert ran.code == 0, ran.err
    assert "trainer:" in ran.out


@pytest.mark.parametrize(
    ("kind", "file", "keys"),
    [
        (OriginalSplit, "split/original", "split"),
        (Resplit, "split/resplit", "split"),
        (SyntheticMarket, "data/synthetic", "data.render"),
        (Augment, "data/market1501", "data.augment"),
    ],
)
def test_numbers_are_those_of_the_class(kind: type, file: str, keys: str) -> None:
    with initialize_config_dir(CONF, version_base="1.3"):
        overrides = {"split": [f"+{file.replace('/', '=')}"], "data": [file.replace("/", "=")]}
        config = compose("train", [*overrides[file.partition("/")[0]], "run_dir=r"])
    given = OmegaConf.to_container(OmegaConf.select(config, keys))
    defaults = dataclasses.asdict(kind())
    assert {k: v for k, v in given.items() if k in defaults}.items() <= defaults.items()
    assert set(given) - set(defaults) <= {"_target_", "manifest", "exclude_seen"}
    if "_target_" in given:
        assert get_class(given["_target_"]) is kind


def test_head_checks_least_coverage_is_that_of_the_class() -> None:
    with initialize_config_dir(CONF, version_base="1.3"):
        config = compose("train", ["run_dir=r"])
    assert config.callbacks.head_check.min_coverage == HeadCheck().min_coverage


def test_no_experiment_names_a_split() -> None:
    for path in Path(CONF, "experiment").glob("*.yaml"):
        assert "split:" not in path.read_text()


@pytest.mark.parametrize("name", [n for g, n in FILES if g == "experiment"])
def test_what_an_experiment_freezes_is_there(name: str) -> None:
    with initialize_config_dir(CONF, version_base="1.3"):
        config = compose("train", [f"+experiment={name}", "run_dir=r"])
    frozen = config.callbacks.get("freeze", {}).get("modules", ())
    assert bool(frozen) == (name in ("sbs", "mgn"))
    if frozen:
        there = dict(create_model(config.model.name, [1, 2]).model.named_modules())
        assert set(frozen) <= set(there)


@pytest.mark.parametrize("name", [n for g, n in FILES if g == "model"])
def test_models_are_built_by_name(name: str) -> None:
    module = create_model(name, labels=LabelMap((3, 1, 2)))
    assert module.labels.pids == (3, 1, 2)
    assert isinstance(module.config, ModelConfig)
    assert module.config.name == name


def test_models_take_options_and_refuse_others() -> None:
    module = create_model("small", [1, 2], network__backbone="test_resnet", unknown="extend")
    assert module.model.widths == {"identity": 96}
    with pytest.raises(InputError, match="has no option"):
        create_model("small", [1, 2], network__depth=3)
    with pytest.raises(InputError, match=r"choose one of .*bot_r50"):
        create_model("bot", [1, 2])


def test_the_default_is_the_strong_baseline_and_synthetic_brings_a_small_model() -> None:
    with initialize_config_dir(CONF, version_base="1.3"):
        usual, demo = (
            compose("train", [f"data={d}", "run_dir=r"]) for d in ("market1501", "synthetic")
        )
        chosen = compose(
            "train", ["data=synthetic", "model=bot_r50", "trainer.max_epochs=2", "run_dir=r"]
        )
    assert (usual.model.name, usual.trainer.max_epochs) == ("bot_r50", 120)
    assert demo.model.name == "small"
    assert demo.trainer.max_epochs < 60
    assert (chosen.model.name, chosen.trainer.max_epochs) == ("bot_r50", 2)


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("_entry:train", "+split=resplit"),
        ("_entry:export", "path=expert.onnx"),
        ("_entry:matrix", "query_camera"),
        ("report:main", "both.html"),
        ("compare:main", "-o FILE"),
    ],
)
def test_help_is_quick_and_imports_no_torch(place: str, says: str) -> None:
    module, _, function = place.partition(":")
    code = (
        f"import sys; sys.argv = ['command', '--help']\n"
        f"from camreid.cli.{module} import {function}\n"
        f"try: {function}()\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    start = time.perf_counter()
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert says in found.stdout
    assert time.perf_counter() - start < 10  # 0.7 s on an idle machine; this one may be busy
