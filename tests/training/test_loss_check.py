"""A loss that is not finite stops a training before it changes the weights."""

from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from camreid import load
from camreid.errors import InputError
from camreid.labels import LabelMap
from camreid.training import ReIDModule
from tests.conftest import CONFIG

MGN = {"_target_": "camreid.models.MGN", "backbone": "test_resnet"}
PATHS = [f"{pid:04d}_c{1 + i}s1_{i}_01.jpg" for pid in (1, 2) for i in (0, 1)]


def batch(size: tuple[int, int] = (64, 32)) -> dict[str, object]:
    images = torch.randint(0, 255, (4, 3, *size), dtype=torch.uint8)
    pids, cameras = torch.tensor([1, 1, 2, 2]), torch.tensor([0, 1, 0, 1])
    return {"images": images, "pids": pids, "camids": cameras, "img_paths": PATHS}


def fit(module: ReIDModule, folder: Path, **options: object) -> Trainer:
    trainer = Trainer(
        default_root_dir=folder, accelerator="cpu", max_epochs=2, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, limit_val_batches=0, **options,
    )  # fmt: skip
    trainer.fit(
        module, DataLoader([batch(module.config.image_size) for _ in range(2)], batch_size=None)
    )
    return trainer


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_the_term_the_step_and_the_state_before_it_are_kept(tmp_path: Path, value: float) -> None:
    module = ReIDModule(CONFIG, LabelMap((1, 2)))
    calls: list[dict[str, Tensor]] = []

    def extra(*_: object) -> dict[str, tuple[float, Tensor]]:
        calls.append({name: own.clone() for name, own in module.named_parameters()})
        return {"mine": (0.5, torch.tensor(value if len(calls) == 4 else 1.0))}

    module.extra_losses.append(extra)
    with pytest.raises(InputError, match=r"mine loss .*epoch 2, step 4.*0001_c1s1_0_01") as stop:
        fit(module, tmp_path)
    assert stop.value.remedy == {"optimizer__lr": 3.5e-5}
    file = tmp_path / "checkpoints" / "diverged.ckpt"
    kept = torch.load(file, weights_only=True)
    assert kept["batch"]["img_paths"] == PATHS
    assert kept["batch"]["pids"].tolist() == [1, 1, 2, 2]
    assert kept["optimizer_states"][0]["state"][0]["step"] == 3
    for name, own in load(file).named_parameters():
        assert torch.equal(own, calls[-1][name]), name


@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_head_is_named(tmp_path: Path, accumulated: int) -> None:
    module = ReIDModule({**CONFIG, "network": MGN, "image_size": [128, 64]}, LabelMap((1, 2)))
    head = list(module.model.heads)[2]
    with torch.no_grad():
        module.model.heads[head].weight[1] = torch.inf
    with pytest.raises(InputError, match=rf"the identity loss of {head} is nan in epoch 1, step 1"):
        fit(module, tmp_path, accumulate_grad_batches=accumulated)


def test_a_loop_of_ones_own_learns_of_it_a_step_later() -> None:
    module = ReIDModule(CONFIG, LabelMap((1, 2)))
    module.log_dict = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    assert module.training_step(batch(), 0).isfinite()
    with torch.no_grad():
        next(module.model.parameters()).fill_(torch.nan)
    assert module.training_step(batch(), 1).isnan()
    with pytest.raises(InputError, match="the identity loss"):
        module.training_step(batch(), 2)


def test_weights_that_a_gradient_has_broken_are_named(tmp_path: Path) -> None:
    module = ReIDModule(CONFIG, LabelMap((1, 2)))
    weight = next(module.parameters())
    weight.register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(InputError, match=r"step 2.*trunk.conv1\S* has NaN"):
        fit(module, tmp_path)
