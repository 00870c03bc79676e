"""Whether onnxruntime computes what PyTorch does."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camreid.errors import InputError

TOLERANCE = 1e-3  # of the largest value; float32 sums in another order differ by about 1e-6


@dataclass(frozen=True)
class Parity:
    """How far onnxruntime is from PyTorch on the same random raw pixels.

    Attributes:
        output: its name in the file.
        batch: number of images.
        difference: the largest one, absolute.
        relative: that, divided by the largest absolute value.
        cosine: the least among the images.
    """

    output: str
    batch: int
    difference: float
    relative: float
    cosine: float

    @classmethod
    def of(cls, output: str, expected: Tensor, found: Tensor) -> "Parity":
        """Compare two (B, D) tensors.

        >>> Parity.of("features", torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 4.5]])).relative
        0.125
        """
        difference = (found - expected).abs().max().item()
        largest = expected.abs().max().item()
        relative = difference / largest if largest else difference
        cosine = F.cosine_similarity(expected, found).min().item()
        return cls(output, len(expected), difference, relative, cosine)


def require_parity(parity: Sequence[Parity], name: str) -> None:
    """Refuse a file whose numbers are not those of the model `name`.

    Raises:
        InputError: one of them is beyond `TOLERANCE`, or NaN.
    """
    for found in parity:
        if not found.relative <= TOLERANCE:  # NaN is refused, too
            raise InputError(
                f"{found.output} of {name} differ between PyTorch and onnxruntime by "
                f"{found.relative:.1e} of the largest value (batch of {found.batch}), and "
                f"{TOLERANCE:.0e} is the most that passes; nothing was written. Check the weights "
                "for NaN, and try other versions of torch, onnxscript and onnxruntime."
            )


@torch.inference_mode()
def compare(
    network: nn.Module, outputs: Sequence[str], path: Path, batches: Sequence[Tensor]
) -> tuple[Parity, ...]:
    """What onnxruntime gives for a file, against the network that it was made of.

    Args:
        network: from images to a tuple of (B, D) tensors.
        outputs: their names in the file.
        path: the file.
        batches: images, each batch as the network takes them.

    Returns:
        The outputs of the first batch, those of the second, ...

    Raises:
        InputError: onnxruntime can't run the file.
    """
    found = []
    for images, values in zip(batches, _run(path, outputs, batches), strict=True):
        triples = zip(outputs, network(images), values, strict=True)
        found += [Parity.of(*triple) for triple in triples]
    return tuple(found)


def _run(path: Path, outputs: Sequence[str], batches: Sequence[Tensor]) -> list[list[Tensor]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        found = [session.run(list(outputs), {"images": images.numpy()}) for images in batches]
    except Exception as error:  # of its own kinds, which have no other name in common
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"onnxruntime {onnxruntime.__version__} can't run what PyTorch {torch.__version__} "
            f"exported ({reason}); nothing was written. Try other versions of torch, onnxscript "
            "and onnxruntime."
        ) from error
    return [[torch.from_numpy(value) for value in values] for values in found]
