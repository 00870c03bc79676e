"""A training script of one's own: Lightning's Trainer, camreid's module and loaders."""

import pytorch_lightning as pl

from camreid import create_model
from camreid.data import Augment, OriginalSplit, ReIDDataModule, SyntheticMarket, read_market1501
from camreid.training import HeadCheck


def main() -> float:
    """Train for an epoch on rendered data; the test mAP."""
    root = SyntheticMarket(people=12, images_per_person=6).render("datasets")
    split = OriginalSplit()(read_market1501(root))
    module = create_model("small", labels=split.labels, image_size=(64, 32))
    data = ReIDDataModule(
        split, module.config.image_size, identities=3, augment=Augment(), workers=0
    )
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,  # the samplers of ReIDDataModule know their rank
        num_sanity_val_steps=0,
        callbacks=[HeadCheck()],
    )
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    return float(trainer.callback_metrics["test/mAP"])


if __name__ == "__main__":
    print(f"mAP {main():.3f}")
