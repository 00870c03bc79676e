"""Every batch is checked, on a GPU one step later."""

import pytest
import torch

from camreid.errors import PixelRangeError
from camreid.models import PixelNorm
from camreid.models.pixels import Pixels


def norm_of(pixels: Pixels) -> PixelNorm:
    return PixelNorm(pixels, torch.tensor([124.0, 116.0, 104.0]), torch.tensor([58.0, 57.0, 57.0]))


class OnGPU(torch.Tensor):
    """A tensor on the CPU that says otherwise."""

    is_cuda = True


@pytest.fixture
def raw(monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    images = torch.randint(0, 256, (4, 3, 8, 4)).float()
    if torch.cuda.is_available():
        return images.cuda()
    monkeypatch.setattr(torch.cuda, "Event", lambda: type("E", (), {
        "record": lambda *_: None, "synchronize": lambda *_: None})())  # fmt: skip
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    return images.as_subclass(OnGPU)


def test_normalised_pixels_after_raw_ones_are_refused_a_step_later(raw: torch.Tensor) -> None:
    norm = norm_of("raw").to(raw.device)
    normalised = norm.normalize(raw)
    with pytest.raises(PixelRangeError):
        norm(normalised)  # the first batch
    for _ in range(20):
        norm(raw)
    norm(normalised)
    with pytest.raises(PixelRangeError, match=r"float32 images from -.* to "):
        norm(raw)
    norm(raw)
    norm(normalised)
    with pytest.raises(PixelRangeError):
        norm.eval()(raw.byte())  # batches without a check of their own, too
    with pytest.raises(PixelRangeError):
        norm(normalised)  # at once in evaluation
