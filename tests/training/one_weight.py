"""A module of one weight, for tests of when steps and validations happen."""

import torch
from torch import nn

from camreid.training import OptimizerConfig, ReIDModule, Schedule
from camreid.training.evaluation_loop import RetrievalModule

CONSTANT = Schedule(0, 1.0, "constant")


class OneWeight(RetrievalModule):
    """Keeps the factor of each learning rate and the step of each validation."""

    configure_optimizers = ReIDModule.configure_optimizers

    def __init__(self, schedule: Schedule = CONSTANT) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.schedule, self.optimizer_config = schedule, OptimizerConfig("sgd", 0.5, 0.0)
        self.factors: list[float] = []
        self.validated: list[int] = []

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        return self.weight.sum()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.factors.append(optimizer.param_groups[0]["lr"] / 0.5)

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.validated.append(self.global_step)

    def on_validation_epoch_end(self) -> None:
        self.log("val/mAP", float(self.global_step))
