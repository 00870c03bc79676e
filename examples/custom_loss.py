"""A loss, an augmentation, a sampler and a callback of one's own.

From the folder of this file:

    PYTHONPATH=. camreid-train +split=resplit data=synthetic \
        'model.loss.extra={_target_:custom_loss.CenterLoss,weight:0.1}' \
        data.augment._target_=custom_loss.Darker +data.augment.least=0.6 \
        'data.sampler={_target_:custom_loss.OneCamera,camera:3}' \
        +callbacks.hello._target_=custom_loss.Hello
"""

from collections.abc import Iterator, Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from camreid.data import IdentitySampler
from camreid.models import ReIDOutput
from camreid.training import Batch


class CenterLoss(nn.Module):
    """Squared distance of each embedding from the mean of its identity in the batch."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, batch: Batch, output: ReIDOutput) -> dict[str, tuple[float, Tensor]]:
        """Weight and value by name; it is logged as `train/center_loss`."""
        embeddings = output.embeddings["identity"].float()  # (B, d)
        same = (batch.pids[:, None] == batch.pids).float()
        centers = same @ embeddings / same.sum(1, keepdim=True)
        return {"center": (self.weight, (embeddings - centers).square().sum(1).mean())}


class Darker:
    """Multiplies images by a factor from `least` to 1."""

    def __init__(self, least: float = 0.5) -> None:
        self.least = least

    def __call__(
        self, images: Tensor, generator: torch.Generator, rank: int = 0, world_size: int = 1
    ) -> Tensor:
        """(B, 3, H, W) uint8 images; all ranks draw for the whole batch and take their share."""
        batch = len(images)
        draws = torch.rand(world_size * batch, generator=generator)[rank * batch :][:batch]
        factors = (self.least + (1 - self.least) * draws).to(images.device)
        return (images * factors[:, None, None, None]).to(torch.uint8)


class OneCamera(IdentitySampler):
    """Puts the image of one camera first, where an identity has one in its group of a batch."""

    def __init__(self, pids: Sequence[int], *size: int, camera: int) -> None:
        super().__init__(pids, *size)
        self.camera = camera

    def __iter__(self) -> Iterator[int]:
        drawn = list(super().__iter__())
        for start in range(0, len(drawn), self.instances):
            group = drawn[start : start + self.instances]
            yield from sorted(group, key=lambda i: self.records[i].camera != self.camera)


class Hello(pl.Callback):
    """A callback of Lightning."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the number of steps."""
        print(f"Hello: {trainer.num_training_batches} steps in an epoch")


if __name__ == "__main__":
    from camreid import create_model

    module = create_model("small", labels=[2, 7], image_size=(64, 32))
    module.extra_losses.append(CenterLoss(weight=0.1))
    images = torch.randint(0, 256, (4, 3, 64, 32), dtype=torch.uint8)
    batch = Batch(images, pids=torch.tensor([2, 2, 7, 7]), cameras=torch.tensor([1, 2, 1, 2]))
    print(CenterLoss()(batch, module(images)))
