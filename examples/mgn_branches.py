"""The outputs of MGN's branches, the same in training and evaluation."""

import torch

from camreid import create_model

if __name__ == "__main__":
    module = create_model(
        "mgn_r50", labels=[2, 7, 11], image_size=(96, 32), network__backbone="resnet26"
    )
    images = torch.randint(0, 256, (2, 3, 96, 32), dtype=torch.uint8)
    for mode in (module.train(), module.eval()):
        output = mode.model(images)
        print(tuple(output.features.shape), {k: tuple(v.shape) for k, v in output.logits.items()})
    print("b1:", tuple(output.logits["b1"].shape))
