"""Any value of any option of any command is taken, or refused with the option's name."""

import inspect
import json
import math
import os
import pkgutil
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
import timm
import torch
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from camreid.cli.errors import leaves
from camreid.cli.options import Options, _is_name, check_values, known_options, relevant
from camreid.data import OriginalSplit, Records, ReIDDataModule, SyntheticMarket
from camreid.errors import InputError
from camreid.evaluation.summary import RankOptions
from camreid.files import CONF
from camreid.losses.identity import LossConfig
from camreid.models.config import ModelConfig
from camreid.training.distill import DistillConfig
from camreid.training.optim import OptimizerConfig, Schedule
from tests.cli.conftest import imported
from tests.conftest import TINY, Ran

Run = Callable[..., Ran]

COMMANDS = {  # with groups that have options of their own
    "train": "+split=resplit +experiment=distill callbacks=ema logger=tensorboard",
    "train ": "+split=original +experiment=sbs callbacks=early_stopping data=folder",
    "train  ": "+split=original model=mgn_r50 data=synthetic",
    "evaluate": "+split=original",
    "matrix": "+split=resplit data=csv",
    "compare": "",
    "import": "model=small",
    "export": "for=onnxruntime",
    "extract": "",
}
FINITE = st.floats(allow_nan=False, allow_infinity=False)
PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["", "null", "1", "-1", "inf", "a\0b", "\n", "e\u0301\u202e", "x" * 5000])
    | st.sampled_from([0, -1, 1e-12, 2**31, 10**30, -math.inf])
)  # fmt: skip
VALUES = PLAIN | st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)


@cache
def options(command: str) -> tuple[dict[str, Any], Options]:
    """The values and the options of a command, as far as they have an effect."""
    typed = [*COMMANDS[command].split(), "run_dir=r"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(command.strip(), typed)
        known = known_options(command.strip(), typed)
    values = dict(leaves(OmegaConf.to_container(config)))
    return values, relevant(values, known, ())


EVERY = [(command, name) for command in COMMANDS for name in options(command)[1]]


def comment(option: tuple[str, str]) -> str:
    return options(option[0])[1][option[1]][1]


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Lets an InputError pass that has a name in it."""
    try:
        yield
    except InputError as error:
        if name not in str(error):
            raise AssertionError(f"{name} is not in {error}") from error
        raise


def takes(command: str, name: str, value: object) -> bool:
    """Whether an option takes a value; any refusal is an InputError with the option's name."""
    values, known = options(command)
    with suppress(InputError), naming(name):
        check_values({**values, name: value}, {name: known[name]}, [name])
        return True
    return False


def check_any(option: tuple[str, str], value: object) -> None:
    command, name = option
    default, about = options(command)[1][name]
    if takes(command, name, value) and repr(value) != repr(default):
        assert value != ""
        listed = "list" in about or "[" in about or isinstance(default, list)
        assert listed or not isinstance(value, list)
        if isinstance(default, bool | int | float) and isinstance(value, str):
            assert value in about


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(EVERY), VALUES)
def test_every_option_takes_a_value_or_names_itself(option: tuple[str, str], value: object) -> None:
    check_any(option, value)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None)
@given(st.sampled_from(EVERY), VALUES)
def test_the_same_with_more_values(option: tuple[str, str], value: object) -> None:
    check_any(option, value)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(EVERY), st.data())
def test_a_misspelt_option_is_refused_with_a_hint(
    option: tuple[str, str], data: st.DataObject
) -> None:
    command, name = option
    values, known = options(command)
    group, dot, key = name.rpartition(".")
    place = data.draw(st.integers(0, len(key) - 1))
    swapped = key[:place] + key[place + 1 : place + 2] + key[place] + key[place + 2 :]
    wrong = f"{group}{dot}{data.draw(st.sampled_from([key[:place] + key[place + 1 :], swapped]))}"
    of_others = group.startswith(("logger.tensorboard", "logger.wandb"))  # with **kwargs
    if of_others or wrong.strip(".") != wrong or wrong in values:
        return
    with pytest.raises(InputError, match=rf"there is no option {wrong}. (Did you mean|There are)"):
        relevant({**values, wrong: 1}, known, [wrong])


def fits(value: object, hint: Any) -> bool:
    """Whether a value of a config is one of an annotation; what is no plain type takes all."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return any(fits(value, part) for part in inner)
    if kind is Literal:
        return value in inner
    if kind in (tuple, list, Sequence):
        return isinstance(value, list) and all(fits(part, inner[0]) for part in value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is type(None):
        return value is None
    return type(value) is kind if kind in (bool, int, str) else kind is not Path or value != ""


PARTS = {"loss": LossConfig, "optimizer": OptimizerConfig, "schedule": Schedule}
HINTS = {f"model.{part}": kind for part, kind in PARTS.items()}
HINTS |= {"evaluation": RankOptions, "model": ModelConfig, "data": ReIDDataModule}
HINTS |= {"data.render": SyntheticMarket, "distill": DistillConfig}


def annotation(command: str, name: str) -> Any:
    """The annotation of what takes an option, or Any."""
    group, _, key = name.rpartition(".")
    kind = HINTS.get(group) or options(command)[0].get(f"{group}._target_")
    kind = pkgutil.resolve_name(kind) if isinstance(kind, str) else kind
    if kind is None or key == "_target_" or name == "trainer.precision":
        return Any
    return get_type_hints(kind if is_dataclass(kind) else kind.__init__).get(key, Any)


@pytest.mark.parametrize("command", ["train", "train ", "train  ", "import"])
def test_what_an_option_takes_is_what_its_class_takes(command: str) -> None:
    values = [None, True, 1, 300, 0.5, 20.5, "x", ["x"], [1], [16, 16], [0.5]]
    named = ["auto", "soft", "adaptive", "none", "null", "warn"]
    wrong, seen = [], 0
    for name in options(command)[1]:
        hint = annotation(command, name)
        seen += hint is not Any
        taken = [v for v in (*values, *named) if takes(command, name, v)]
        if _is_name(*options(command)[1][name]):  # the command makes a text of 2026
            taken = [v for v in taken if type(v) is not int]
        wrong += [(name, value, hint) for value in taken if not fits(value, hint)]
    assert not wrong
    assert seen > 20


@pytest.mark.parametrize("option", [option for option in EVERY if "takes also" in comment(option)])
def test_the_options_that_a_class_of_lightning_also_takes(option: tuple[str, str]) -> None:
    command, name = option
    own = inspect.signature(pkgutil.resolve_name(options(command)[0][name])).parameters
    group = name.removesuffix("_target_")
    given = {other.removeprefix(group) for other in options(command)[1] if other.startswith(group)}
    listed = {*re.findall(r"\w+", comment(option).partition("also ")[2])}
    assert listed <= {*own} - given
    if not name.startswith("trainer"):  # the command sets the rest
        assert listed | given >= {*own}, {*own} - listed - given


LONG = {  # options with values that take long, or need other machines or programs
    *("trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.accelerator", "compile"),
    *("trainer.max_epochs", "trainer.max_steps", "model.network.backbone", "trainer.threads"),
    *("model.network.projection", "model.image_size", "data.workers", "workers"),
    *("data.render", "model.network.pretrained", "data.identities", "data.instances"),
    *("trainer.precision", "logger.tensorboard"),
}
DATA = "+split=original trainer=cpu data.workers=0"
QUICK = "trainer.max_epochs=1 trainer.limit_train_batches=2 data.cache=none split.val_fraction=0.5"
SMALL = {  # the options of a small run
    "train": f"{' '.join(TINY)} {QUICK} +split=resplit",
    "evaluate": f"{DATA} checkpoint=1.ckpt",
    "matrix": f"{DATA} experts=[1.ckpt,2.ckpt]",
    "import": "model=small model.network.backbone=test_resnet path=w.pth source=timm",
    "export": "checkpoint=1.ckpt",
    "extract": "checkpoint=1.ckpt images=images output=f.npz device=cpu workers=1",
}
GROUPS = {  # that one command tries for all
    "train": {"split", "model", "data", "trainer", "callbacks", "logger"},
    "evaluate": {"evaluation"},
    "import": {"labels"},
}


def unusual(command: str) -> Iterator[str]:
    """The lowest and highest values of each option, lists of none and one, unusual texts."""
    numbers = sorted([0, 1, 2, 16, 100, 1024, 8192, 65536, 10**6, 2**31 - 1, 1e-12, 1.5])
    others = [[], [1], [1.5], ["x"], {}, None, True, False, "é\u202e'\"$", "a\nb", "x" * 5000]
    for name in options(command)[1]:
        group, dot, _ = name.partition(".")
        if dot and group not in GROUPS.get(command, ()):
            continue
        if {name, name.rpartition(".")[0]} & LONG:
            continue
        taken = [n for n in numbers if takes(command, name, n)]
        for value in (*taken[:2], *taken[-1:], *(v for v in others if takes(command, name, v))):
            text = json.dumps(value, ensure_ascii=False)
            if isinstance(value, str):
                text = "'" + value.replace("'", "\\'") + "'"
            yield f"++{name}={text}"


RUNS = [(command, typed) for command in SMALL for typed in unusual(command)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "typed"), RUNS[:: 1 if os.environ.get("CAMREID_ALL_VALUES") else 16]
)
def test_a_run_with_an_unusual_value(
    command: str, typed: str, run: Run, market: Path, records: Records
) -> None:
    """A command with an unusual value ends well, or in a paragraph and without a run folder."""
    for camera in (1, 2):
        labels = OriginalSplit(camera=camera)(records).labels
        imported(Path(f"{camera}.ckpt"), camera, labels, seed=camera)
    torch.save(timm.create_model("test_resnet").state_dict(), "w.pth")
    Path("images").symlink_to(market / "query")
    before = {*os.listdir()}
    root = [f"data.root={market}"] * (command in ("train", "evaluate", "matrix"))
    folder = ["run_dir=r"] * ("run_dir=" not in typed)
    ran = run(f"camreid-{command}", *root, *folder, *SMALL[command].split(), typed)
    assert "Traceback" not in ran.err + ran.out, ran.err
    if ran.code:
        message = ran.err.strip().splitlines()[-1]
        assert message.startswith(f"camreid-{command}: ")
        results = ("checkpoints", "metrics.csv", "head_check.json")  # the last is kept on purpose
        has_begun = any(Path("r", name).exists() for name in results)
        assert {*os.listdir()} - {"r"[:has_begun]} <= before
