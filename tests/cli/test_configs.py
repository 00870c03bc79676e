"""Every config file composes, and its numbers are those of its class."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from camreid import create_model
from camreid.data import Augment, OriginalSplit, Resplit, SyntheticMarket
from camreid.errors import InputError
from camreid.files import CONF
from camreid.labels import LabelMap
from camreid.models.human import TRUNKS
from camreid.training.head_check import HeadCheck
from tests.cli.conftest import accept

GROUPS = ["split", "data", "model", "trainer", "callbacks", "logger", "experiment"]
FILES = {g: [p.stem for p in sorted(Path(CONF, g).glob("[!_]*.yaml"))] for g in GROUPS}


def composed(*typed: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [*typed, "run_dir=r"])


@pytest.mark.parametrize("group", GROUPS)
def test_every_file_composes(group: str) -> None:
    for name in FILES[group]:
        plus = "+" if group in ("split", "experiment") else ""
        teachers = [f"distill.teachers={CONF}/*.yaml"] * (name == "distill")
        assert accept(f"{plus}{group}={name}", *teachers).trainer


@pytest.mark.parametrize(
    ("kind", "typed", "keys"),
    [
        (OriginalSplit, "+split=original", "split"),
        (Resplit, "+split=resplit", "split"),
        (SyntheticMarket, "data=synthetic", "data.render"),
        (Augment, "data=market1501", "data.augment"),
    ],
)
def test_numbers_are_those_of_the_class(kind: type, typed: str, keys: str) -> None:
    given = OmegaConf.to_container(OmegaConf.select(composed(typed), keys))
    defaults = dataclasses.asdict(kind())
    assert {k: v for k, v in given.items() if k in defaults}.items() <= defaults.items()
    assert set(given) - set(defaults) <= {"_target_", "manifest", "outside_root", "exclude_seen"}
    assert composed().callbacks.head_check.min_coverage == HeadCheck().min_coverage


@pytest.mark.parametrize("name", FILES["experiment"])
def test_what_an_experiment_freezes_is_there(name: str) -> None:
    config = composed(f"+experiment={name}")
    assert OmegaConf.is_missing(config, "split")
    frozen = config.callbacks.get("freeze", {}).get("modules", ())
    assert bool(frozen) == (name in ("sbs", "mgn"))
    if frozen:
        there = dict(create_model(config.model.name, [1, 2]).model.named_modules())
        assert set(frozen) <= set(there)


@pytest.mark.parametrize("name", FILES["model"])
def test_models_are_built_by_name(name: str) -> None:
    module = create_model(name, labels=LabelMap((3, 1, 2)))
    assert module.labels.pids == (3, 1, 2)
    assert module.config.name == name


def test_unknown_models_and_options_are_refused() -> None:
    for name, options in (("bot", {}), ("small", {"network__depth": 3})):
        with pytest.raises(InputError):
            create_model(name, [1, 2], **options)


def test_the_default_is_the_strong_baseline_and_synthetic_brings_a_small_model() -> None:
    def chosen(*typed: str) -> tuple[str, int]:
        config = composed(*typed)
        return config.model.name, config.trainer.max_epochs

    assert chosen() == ("bot_r50", 120)
    assert chosen("data=synthetic") == ("small", 20)
    assert chosen("data=synthetic", "model=bot_r50", "trainer.max_epochs=2") == ("bot_r50", 2)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("_entry:train", "+split=resplit"),
        ("compare:main", "-o FILE"),
    ],
)
def test_help_imports_no_torch(place: str, text: str) -> None:
    module, _, function = place.partition(":")
    code = (
        f"import sys; sys.argv = ['command', '--help']\n"
        f"from camreid.cli.{module} import {function}\n"
        f"try: {function}()\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert text in found.stdout


def test_every_line_to_type_for_public_weights_composes() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "importing-weights.md").read_text()
    lines = re.findall(r"\| `camreid-(train|import) ([^`]+)` \|", guide)
    assert len(lines) > 10
    for command, typed in lines:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose(command, [*typed.split(), "run_dir=r"])
        backbone = config.model.network.backbone
        assert backbone in TRUNKS or timm.is_model(backbone)
