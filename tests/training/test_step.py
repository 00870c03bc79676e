"""How a step is computed: precision, layout, compilation, and no wait for the device."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from camreid import create_model
from camreid.data import Augment, OriginalSplit, Records, ReIDDataModule
from camreid.errors import InputError
from camreid.labels import LabelMap
from camreid.training import ReIDModule, step
from camreid.training.checkpoint_io import conform_optimizer
from camreid.training.optim import OptimizerConfig, clip_each
from tests.conftest import tiny_module

Trainer = Callable[..., pl.Trainer]
aten = torch.ops.aten
WAITS = (aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten._unique2, aten.equal)


class NoWait(TorchDispatchMode):
    """Refuses what a GPU would have to finish before the program goes on."""

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        masks = args[1] if call.overloadpacket in (aten.index, aten.index_put_) else ()
        by_mask = any(m is not None and m.dtype == torch.bool for m in masks)
        assert call.overloadpacket not in WAITS, f"{call} waits for the device"
        assert not by_mask, f"{call} by a mask waits for the device"
        return call(*args, **(kwargs or {}))


@pytest.mark.parametrize("wait", [Tensor.item, lambda x: x[x > 0], Tensor.nonzero])
def test_waits_are_noticed(wait: Callable[[Tensor], object]) -> None:
    with NoWait(), pytest.raises(AssertionError, match="waits"):
        wait(torch.ones(1))


class Watched(ReIDModule):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        with NoWait(), patch.object(Tensor, "tolist", None):  # which is not dispatched on the CPU
            return super().training_step(batch, batch_idx)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        with NoWait():
            super().on_before_optimizer_step(optimizer)


@pytest.mark.parametrize(
    "loss",
    [
        {"pair": "circle"},
        {"triplet_margin": "soft", "triplet_mining": "weighted"},
        {"triplet_margin": "soft", "triplet_mining": "weighted_fastreid", "smoothing": "adaptive"},
    ],
)
@pytest.mark.parametrize("own_heads", [False, True])
def test_no_step_waits_for_the_device(
    records: Records, trainer: Trainer, loss: dict[str, object], own_heads: bool
) -> None:
    split = OriginalSplit()(records)
    module = tiny_module(split.labels)
    config = copy.deepcopy(module.config.primitives())
    config["loss"] |= loss
    config["optimizer"]["clip"] = 5.0
    if own_heads:
        cameras = sorted({r.camera for r in split.train})
        config["network"] |= {"camera_heads": True, "cameras": cameras}
    watched = Watched(config, split.camera_labels if own_heads else split.labels)
    data = ReIDDataModule(split, (64, 32), identities=4, workers=0, augment=Augment())
    trainer(limit_train_batches=2, limit_val_batches=0).fit(watched, data)
    assert watched.trainer.global_step == 2


@pytest.mark.parametrize("form", ["circle", None])
def test_pairs_within_cameras_are_a_loop_over_cameras(form: str | None) -> None:
    config = tiny_module(LabelMap((1, 2))).config.loss | {"pair": form}
    torch.manual_seed(0)
    features, pids = torch.randn(12, 6), torch.randint(0, 3, (12,))
    cameras = torch.tensor([1] * 5 + [2] * 6 + [3])
    for name, (_, loss) in step_losses(config).items():
        total, count = 0.0, 0
        for own in (cameras == c for c in (1, 2, 3)):
            same = pids[own][:, None] == pids[own]
            anchors = ((same.sum(1) > 1) & ~same.all(1)).sum()
            if name != "triplet":  # the mean of a pair loss is over all images
                anchors = own.sum()
            total, count = total + anchors * loss(features[own], pids[own]), count + anchors
        assert loss(features, pids, cameras).item() == pytest.approx((total / count).item())


def step_losses(config: dict[str, Any]) -> dict[str, Any]:
    return ReIDModule(
        {**tiny_module(LabelMap((1, 2))).config.primitives(), "loss": config}, LabelMap((1, 2))
    ).metric_losses


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_fused_steps_are_plain_steps_in_any_layout(name: str) -> None:
    nets = [nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    nets[1].to(memory_format=torch.channels_last)
    config = OptimizerConfig(name, lr=0.01, weight_decay=0.1)  # type: ignore[arg-type]
    plain, fused = (
        config.build(n.parameters(), fused=f) for n, f in zip(nets, (0, 1), strict=True)
    )  # type: ignore[arg-type]
    images = torch.randn(2, 3, 9, 9)
    for number in range(4):
        if number == 2:  # the contiguous state of a run without fused steps goes on in a fused one
            fused = config.build(nets[1].parameters(), fused=True)
            fused.register_load_state_dict_pre_hook(conform_optimizer)
            fused.load_state_dict(copy.deepcopy(plain.state_dict()))
            assert fused.param_groups[0]["fused"]
        for net, optimizer in zip(nets, (plain, fused), strict=True):
            optimizer.zero_grad()
            net(images).square().mean().backward()
            optimizer.step()
    for mine, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.allclose(mine, other, atol=1e-6)


def test_each_gradient_is_clipped_to_its_norm() -> None:
    parameters = [nn.Parameter(torch.ones(4)) for _ in range(3)]
    for p, size in zip(parameters, (0.1, 5.0, None), strict=True):
        p.grad = None if size is None else torch.full((4,), size)
    clip_each(parameters, 1.0)
    assert [round(p.grad.norm().item(), 4) for p in parameters[:2]] == [0.2, 1.0]


@pytest.mark.parametrize(
    ("name", "layout"),
    [("osnet_x0_25", torch.channels_last), ("vit_base", torch.contiguous_format)],
)
def test_convolutional_networks_are_channels_last(name: str, layout: torch.memory_format) -> None:
    with torch.device("meta"):
        network = nn.Sequential(nn.Conv2d(3, 768, 16), nn.Linear(768, 8))
    network = create_model(name, labels=[1]).model if name.startswith("osnet") else network
    assert step.memory_format(network) == layout


def test_the_layout_changes_no_feature() -> None:
    module = create_model("osnet_x0_25", labels=[1, 2]).eval()
    images = torch.randint(0, 256, (2, 3, 64, 32), dtype=torch.uint8)
    with torch.no_grad():
        plain = module.model(images).features
        module.model.to(memory_format=torch.channels_last)
        assert torch.allclose(module.model(images).features, plain, atol=0.02)  # of up to 3,000


@pytest.mark.parametrize("pool", ["avg", "gem_learned"])
def test_features_and_losses_are_single_precision_under_autocast(pool: str) -> None:
    network = {"backbone": "test_resnet", "pool": pool}
    module = tiny_module(LabelMap((1, 2)), network=network)
    images = torch.randint(0, 256, (4, 3, 64, 32), dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        output = module.model(images)
        assert output.before is not None
        assert output.before.dtype == output.features.dtype == torch.float32
        for _, loss in module.metric_losses.values():
            assert loss(output.features, torch.tensor([1, 1, 2, 2])).dtype == torch.float32


@pytest.mark.parametrize(
    ("precision", "device", "hardware", "training", "expected"),
    [
        ("auto", "cpu", False, True, "32-true"),
        ("auto", "cpu", True, True, "bf16-mixed"),
        ("auto", "cuda", True, True, "bf16-mixed"),
        ("auto", "cuda", True, False, "32-true"),
        ("16-mixed", "cuda", True, True, "16-mixed"),
        ("bf16-mixed", "cpu", False, True, "bf16-mixed"),
        ("bf16-mixed", "cuda", False, True, None),
    ],
)
def test_precision_follows_the_hardware(
    monkeypatch: pytest.MonkeyPatch, precision: str, device: str, hardware: bool, training: bool,
    expected: str | None,
) -> None:  # fmt: skip
    monkeypatch.setattr(step, "has_bf16", lambda _: hardware)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "T4")
    if expected is None:
        with pytest.raises(InputError, match=r"T4.*32-true"):
            step.resolve_precision(precision, device, training)
    else:
        assert step.resolve_precision(precision, device, training) == expected


def test_validation_is_single_precision_in_mixed_precision(
    records: Records, trainer: Trainer
) -> None:
    split, seen = OriginalSplit(val_fraction=0.3)(records), []
    module = tiny_module(split.labels)
    module.model.neck.register_forward_hook(
        lambda m, i, o: seen.append((m.training, torch.is_autocast_enabled("cpu")))
    )
    data = ReIDDataModule(split, (64, 32), identities=4, workers=0)
    trainer(precision="bf16-mixed", limit_train_batches=1).fit(module, data)
    assert set(seen) == {(True, True), (False, False)}


def test_compile_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = tiny_module(LabelMap((1, 2)))
    with pytest.raises(InputError, match=r"compile=fast.*reduce-overhead"):
        module.compile_network("fast")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match=r"no-such-compiler.*compile=False"):
        module.compile_network("default")


@pytest.mark.slow
def test_a_compiled_network_trains_as_the_plain_one(
    records: Records, trainer: Trainer, tmp_path: Path
) -> None:
    split = OriginalSplit()(records)
    data = ReIDDataModule(split, (64, 32), identities=4, workers=0, augment=None)
    losses = []
    for compile_it in (False, True):
        module = tiny_module(split.labels)
        if compile_it:
            module.compile_network("default")
        runner = trainer(limit_train_batches=2)
        runner.fit(module, data)
        losses.append(runner.callback_metrics["train/loss"].item())
        runner.save_checkpoint(tmp_path / f"{compile_it}.ckpt")
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    plain, ours = (torch.load(tmp_path / f"{c}.ckpt")["state_dict"] for c in (False, True))
    assert plain.keys() == ours.keys()
    runner = trainer(max_epochs=2, limit_train_batches=2)  # goes on without compilation
    runner.fit(tiny_module(split.labels), data, ckpt_path=tmp_path / "True.ckpt")
    assert runner.global_step == 4
