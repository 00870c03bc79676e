"""FastReID's batches as they are: a dict of images, targets, camids and img_paths."""

import torch

from camreid import create_model

# `targets` are positions in FastReID's list; identities and cameras come from the file names
batch = {
    "images": torch.randint(0, 256, (2, 3, 128, 64)).float(),
    "targets": torch.tensor([0, 1]),
    "camids": torch.tensor([2, 0]),
    "img_paths": ["train/0704_c3s1_069626_01.jpg", "train/0002_c1s1_000451_03.jpg"],
}

if __name__ == "__main__":
    module = create_model("small", labels=[2, 704])
    output = module(batch)  # and module.model(batch), the network alone
    print(tuple(output.features.shape), tuple(output.logits["identity"].shape))
    print("row of 0704:", module.labels.row(704))
