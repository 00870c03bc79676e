"""The parts of a checkpoint file that reach the trainer of a run."""

import copy
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn

from camreid.checkpoints import read_checkpoint
from camreid.cli.train import _fit
from camreid.data import OriginalSplit, Records, ReIDDataModule
from camreid.errors import InputError
from camreid.training.checkpoint_io import RunCheckpoints, check_content
from tests.conftest import tiny_module

Trainer = Callable[..., pl.Trainer]
STATE: dict[str, Any] = {
    "epoch": 0,
    "global_step": 3,
    "state_dict": {"model.w": torch.zeros(2)},
    "loops": {"fit_loop": {"epoch_progress": {"total": {"ready": 1}}, "done": True}},
    "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": []}],
    "lr_schedulers": [{"last_epoch": 3, "lr_lambdas": [None]}],
    "hyper_parameters": {"config": {"name": "tiny"}, "labels": [1, 2]},
    "camreid": {"provenance": {"identities": [1, 2]}, "config": "text"},
}


def test_nan_weights_do_not_replace_a_checkpoint(tmp_path: Path) -> None:
    path, io = tmp_path / "last.ckpt", RunCheckpoints(pl.Trainer(logger=False, accelerator="cpu"))
    io.save_checkpoint(STATE, path)
    broken = {"state_dict": {"model.w": torch.tensor([0, math.nan])}}
    with pytest.raises(InputError, match=r"model.w.*last.ckpt"):
        io.save_checkpoint({**STATE, **broken}, path)
    assert torch.load(path, weights_only=True)["state_dict"]["model.w"].isfinite().all()


class Loaded:
    """A trainer's callbacks, and their states as it reads them."""

    def __init__(self, trainer: Trainer, folder: Path) -> None:
        self.folder, self.file = folder / "checkpoints", folder / "given.ckpt"
        self.folder.mkdir()
        self.best = ModelCheckpoint(self.folder, "best", monitor="val/mAP", mode="max")
        self.stop = EarlyStopping("val/mAP")
        callbacks = [self.best, self.stop]
        self.files = RunCheckpoints(trainer(enable_checkpointing=True, callbacks=callbacks))

    def of(self, **states: object) -> dict[str, Any]:
        torch.save({**STATE, "callbacks": states}, self.file)
        return self.files.load_checkpoint(self.file)["callbacks"]


@pytest.fixture
def loaded(trainer: Trainer, tmp_path: Path) -> Loaded:
    return Loaded(trainer, tmp_path)


def best_state(path: str) -> dict[str, Any]:
    score = torch.tensor(0.5)
    return {
        "best_model_score": score, "best_model_path": path, "best_k_models": {path: score},
        "kth_best_model_path": path, "kth_value": score, "last_model_path": path,
    }  # fmt: skip


PATHS = ("https://example.org/best.ckpt", "memory://x/best.ckpt", "/etc/best.ckpt", "../best.ckpt")


@pytest.mark.parametrize("path", PATHS)
def test_paths_become_this_runs_or_none(loaded: Loaded, path: str) -> None:
    key = loaded.best.state_key
    found = loaded.of(**{key: best_state(path)})[key]
    assert found["best_model_path"] == found["last_model_path"] == ""
    assert found["best_k_models"] == {}
    own = loaded.folder / "best.ckpt"
    own.touch()
    loaded.best.load_state_dict(loaded.of(**{key: best_state(path)})[key])
    assert loaded.best.best_model_path == str(own)
    assert list(loaded.best.best_k_models) == [loaded.best.kth_best_model_path] == [str(own)]
    assert loaded.best.kth_value == 0.5


def test_a_file_without_a_score_is_not_the_best(loaded: Loaded) -> None:
    (loaded.folder / "best.ckpt").touch()
    key, nan = loaded.best.state_key, torch.tensor(torch.nan)
    state = best_state("best.ckpt") | {"best_k_models": {"best.ckpt": nan}}
    assert loaded.of(**{key: state})[key]["best_k_models"] == {}


def test_a_link_to_a_file_elsewhere_is_not_this_runs(loaded: Loaded, tmp_path: Path) -> None:
    (tmp_path / "other.ckpt").touch()
    (loaded.folder / "best.ckpt").symlink_to(tmp_path / "other.ckpt")
    key = loaded.best.state_key
    assert loaded.of(**{key: best_state("best.ckpt")})[key]["best_model_path"] == ""


def test_states_of_other_callbacks_and_other_parts_are_left_out(loaded: Loaded) -> None:
    state = {"wait_count": 2, "path": "/etc/passwd", "stopping_reason_message": "https://x.org"}
    found = loaded.of(Other={"run": 1}, **{loaded.stop.state_key: state})
    assert found == {loaded.stop.state_key: {**loaded.stop.state_dict(), "wait_count": 2}}


def test_addresses_are_not_read(loaded: Loaded) -> None:
    with pytest.raises(InputError, match="no checkpoint at"):
        loaded.files.load_checkpoint("https://example.org/x.ckpt")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epoch", "1"),
        ("epoch", True),
        ("state_dict", [1]),
        ("state_dict", {"model.w": 1.0}),
        ("loops", [torch.zeros(1)]),
        ("optimizer_states", {"state": {}}),
        ("callbacks", {"a": {1, 2}}),
        ("hyper_parameters", {"dtype": torch.float32}),
        ("optimizer_states", [{"state": {0: {"exp_avg": torch.zeros(1).expand(10**12)}}}]),
        ("camreid", "text"),
    ],
)
def test_values_of_another_type_are_refused(key: str, value: object) -> None:
    with pytest.raises(InputError, match=key):
        check_content("x.ckpt", {**STATE, key: value})


def test_unknown_keys_are_left_out_and_the_rest_is_kept() -> None:
    assert check_content("x.ckpt", {**STATE, "more": object()}) == STATE
    nested: list[Any] = []
    nested.append(nested)
    with pytest.raises(InputError, match="nested"):
        check_content("x.ckpt", {**STATE, "loops": {"fit_loop": nested}})


@pytest.fixture(scope="module")
def file(records: Records, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run of one step."""
    folder = tmp_path_factory.mktemp("trained")
    fit(records, folder, None)
    return folder / "own/last.ckpt"


@pytest.fixture(scope="module")
def trained(file: Path) -> dict[str, Any]:
    """What the run saved, without its checksum, so that changes reach what follows."""
    content = torch.load(file)
    del content["loops"]["digest"]
    return content


def fit(records: Records, folder: Path, resume: Path | None) -> None:
    trainer, module, data = ready(records, folder, epochs=2 if resume else 1)
    trainer.fit(module, data, ckpt_path=resume)


def ready(records: Records, folder: Path, epochs: int) -> tuple[pl.Trainer, Any, ReIDDataModule]:
    data = ReIDDataModule(OriginalSplit()(records), (64, 32), identities=2, instances=2, workers=0)
    stop = EarlyStopping("train/loss", check_on_train_epoch_end=True)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, use_distributed_sampler=False,
        max_epochs=epochs, limit_train_batches=1, limit_val_batches=0,
        callbacks=[ModelCheckpoint(folder / "own", "last"), stop],
    )  # fmt: skip
    trainer.strategy.checkpoint_io = RunCheckpoints(trainer)
    return trainer, tiny_module(data.split.labels), data


def stop_state(content: dict[str, Any]) -> dict[str, Any]:
    return next(s for name, s in content["callbacks"].items() if "EarlyStopping" in name)


def first_moments(content: dict[str, Any]) -> dict[str, Any]:
    return content["optimizer_states"][0]["state"][0]


BROKEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "moments of another shape": lambda c: first_moments(c).update(exp_avg=torch.zeros(2, 3)),
    "an optimizer that is a number": lambda c: c.update(optimizer_states=[-0.5]),
    "a step that is a list": lambda c: first_moments(c).update(step=[1]),
    "a state that is a number": lambda c: c["optimizer_states"][0].update(state=3),
    "no parameter groups": lambda c: c["optimizer_states"][0].update(param_groups=[]),
    "no learning rate": lambda c: c["optimizer_states"][0]["param_groups"][0].update(lr=None),
    "no steps": lambda c: c["lr_schedulers"][0].update(steps_per_epoch=0),
    "no last epoch": lambda c: c["lr_schedulers"][0].update(last_epoch=None),
    "progress that is a list": lambda c: c["loops"]["fit_loop"].update(epoch_progress=[1]),
    "a score of another shape": lambda c: stop_state(c).update(best_score=torch.zeros(2)),
    "a provenance that is a number": lambda c: c["camreid"].update(provenance=3),
}


@pytest.mark.parametrize("how", BROKEN)
def test_states_of_another_form_are_refused(
    how: str, trained: dict[str, Any], records: Records, tmp_path: Path
) -> None:
    content = copy.deepcopy(trained)
    BROKEN[how](content)
    torch.save(content, tmp_path / "given.ckpt")
    with pytest.raises(InputError, match=r"optimizer_states|lr_schedulers|EarlyStop|ckpt|record"):
        fit(records, tmp_path, tmp_path / "given.ckpt")


def test_missing_and_unknown_keys_do_not_end_a_resumed_run(
    trained: dict[str, Any], records: Records, tmp_path: Path
) -> None:
    content = copy.deepcopy(trained)
    del first_moments(content)["exp_avg"], stop_state(content)["wait_count"]
    content["lr_schedulers"][0] |= {"step": 5, "get_lr": None}
    content["loops"]["fit_loop"]["state_dict"] = {"combined_loader": [{"run": 1}]}
    torch.save(content, tmp_path / "given.ckpt")
    fit(records, tmp_path, tmp_path / "given.ckpt")
    assert torch.load(tmp_path / "own/last.ckpt", weights_only=True)["global_step"] == 2


CHANGES: tuple[Callable[[dict[str, Any]], object], ...] = (
    lambda c: c["lr_schedulers"][0].update(base_lrs=[0.1, 0.1]),
    lambda c: first_moments(c)["exp_avg"].mul_(1.5),
    lambda c: c["state_dict"].update({next(iter(c["state_dict"])): torch.zeros(3)}),
    lambda c: c["loops"]["fit_loop"].update(epoch_progress=3),
    lambda c: c["loops"].update(digest="0" * 64),
    lambda c: c.pop("callbacks"),
)


@pytest.mark.parametrize("change", CHANGES)
def test_a_state_that_was_changed_after_it_was_written_is_not_resumed(
    change: Callable[[dict[str, Any]], object], file: Path, records: Records, tmp_path: Path
) -> None:
    content = torch.load(file)
    change(content)
    torch.save(content, tmp_path / "given.ckpt")
    with pytest.raises(InputError, match="checksum is wrong"):
        fit(records, tmp_path, tmp_path / "given.ckpt")


def test_a_state_that_was_read_and_saved_again_is_resumed(
    file: Path, records: Records, tmp_path: Path
) -> None:
    torch.save(torch.load(file), tmp_path / "given.ckpt")
    fit(records, tmp_path, tmp_path / "given.ckpt")
    assert torch.load(tmp_path / "own/last.ckpt")["global_step"] == 2


VALUES = (
    None, True, -1, 3, 10**30, math.nan, math.inf, "", "x", "${x}", b"x", [], [1], (1,), {},
    {"a": 1}, {1: {2: [3]}}, torch.zeros(2), torch.zeros(()), torch.tensor(True),
    torch.zeros(0, dtype=torch.int64), torch.tensor([math.nan]),
)  # fmt: skip


def changed(content: Any, draw: st.DataObject) -> Any:
    """A copy with one part, at any depth, of another type, or left out."""
    if isinstance(content, dict) and content and draw.draw(st.integers(0, 9)):
        key = draw.draw(st.sampled_from(list(content)))
        if not draw.draw(st.integers(0, 9)):
            return {k: v for k, v in content.items() if k != key}
        return {**content, key: changed(content[key], draw)}
    if isinstance(content, list) and content and draw.draw(st.integers(0, 5)):
        return [changed(content[0], draw), *content[1:]]
    return draw.draw(st.sampled_from(VALUES))


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_no_part_of_another_type_ends_in_a_traceback(
    trained: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "given.ckpt"
    torch.save(changed(trained, data), path)
    with suppress(InputError):
        read_checkpoint(path).module()
    with suppress(InputError):
        trainer = pl.Trainer(accelerator="cpu", logger=False, barebones=True)
        trainer.state.fn = TrainerFn.FITTING
        RunCheckpoints(trainer).load_checkpoint(path)


PARTS = ("loops", "callbacks", "optimizer_states", "lr_schedulers", "camreid", "state_dict")


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(PARTS), st.data())
def test_a_run_goes_on_to_its_end_or_is_refused_before_its_first_step(
    trained: dict[str, Any],
    records: Records,
    tmp_path_factory: pytest.TempPathFactory,
    part: str,
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    torch.save({**trained, part: changed(trained[part], data)}, folder / "given.ckpt")
    trainer, module, loaders = ready(records, folder, epochs=2)
    with suppress(InputError):
        _fit(trainer, module, loaders, str(folder / "given.ckpt"))
        saved = torch.load(folder / "own/last.ckpt", weights_only=True)
        assert (saved["epoch"], saved["global_step"]) == (1, 2)
