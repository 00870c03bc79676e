import logging

import pytest
import torch
from pytorch_lightning.trainer import Trainer

from camreid.training.callbacks import METRIC, CollapseWarning, separation

PIDS = torch.arange(8) // 2


def test_separation_compares_distances_within_and_between_identities() -> None:
    points = torch.tensor([[0.0], [1.0], [4.0], [5.0]])
    # within: 1, 1; between: 4, 5, 3, 4
    assert separation(points, torch.tensor([1, 1, 2, 2])).item() == pytest.approx(1 - 1 / 4)


@pytest.mark.parametrize("pids", [PIDS * 0, torch.arange(8)])
def test_a_batch_without_pairs_of_both_kinds_is_no_collapse(pids: torch.Tensor) -> None:
    assert separation(torch.randn(8, 3), pids).item() == 1
    assert separation(torch.zeros(8, 3), PIDS).item() == 0


@pytest.mark.parametrize(("values", "warnings"), [([0.0, 0.2], 0), ([0.3, 0.004, 0.002], 1)])
def test_a_collapse_is_reported_once_after_the_first_epoch(
    values: list[float], warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    callback, module = CollapseWarning(), None
    with caplog.at_level(logging.WARNING, "camreid"):
        for value in values:
            trainer.callback_metrics[METRIC] = torch.tensor(value)
            callback.on_train_epoch_end(trainer, module)  # type: ignore[arg-type]
            trainer.fit_loop.epoch_progress.current.completed += 1
            trainer.fit_loop.epoch_progress.current.processed += 1
    assert caplog.text.count("has collapsed") == warnings
