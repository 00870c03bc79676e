from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from camreid.data import ImageDataset, ImageRecord
from camreid.data.dataset import ImageBatches, read_image, read_pixels
from camreid.errors import InputError

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 20, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [(".png", mode) for mode in ("RGB", "L", "RGBA", "P", "1", "I;16")]
    + [(".jpg", mode) for mode in ("RGB", "L", "CMYK")],
)
def test_images_of_any_mode_are_rgb(suffix: str, mode: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    deep = Image.fromarray(np.zeros((40, 20), dtype=np.uint16))
    (deep if mode == "I;16" else PICTURE.convert(mode)).save(path)
    image = read_image(str(path))
    assert (image.shape, image.dtype) == ((3, 40, 20), torch.uint8)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_resize_is_that_of_pillow(interpolation: str, tmp_path: Path) -> None:
    path = tmp_path / "0001_c2s1_000001_01.png"
    PICTURE.save(path)
    item = ImageDataset([ImageRecord(str(path), 1, 2)], (96, 48), interpolation)[0]
    resized = PICTURE.resize((48, 96), Image.Resampling[interpolation.upper()])
    assert np.array_equal(item["images"].numpy(), np.asarray(resized).transpose(2, 0, 1))
    assert (item["pids"], item["camids"], item["index"]) == (1, 1, 0)
    assert item["img_paths"] == str(path)


def test_a_loader_process_shares_its_tensors_before_its_queue_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "0001_c2s1_000001_01.png"
    PICTURE.save(path)
    monkeypatch.setattr("camreid.data.dataset.get_worker_info", lambda: "a process")
    batch = ImageBatches([ImageRecord(str(path), 1, 2)], (96, 48)).__getitems__([0])
    assert {own.is_shared() for own in batch.values() if isinstance(own, torch.Tensor)} == {True}


def test_the_resize_of_opencv_is_that_of_trackers() -> None:
    pixels = (np.arange(7 * 5 * 3) * 37 % 256).reshape(7, 5, 3).astype(np.uint8)
    small = [[112, 133], [212, 170], [99, 78]]  # of cv2.resize, 4.14
    assert read_image(Image.fromarray(pixels), (3, 2), "opencv")[0].tolist() == small
    raw = torch.from_numpy(pixels).permute(2, 0, 1)
    for size in ((3, 2), (8, 7), (96, 48)):
        whole, exact = (read_pixels(image, size, "opencv") for image in (raw, raw.float()))
        assert (whole - exact).abs().max() < 1.5


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0 cut short", None])
def test_a_broken_file_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    PICTURE.save(path)
    path.write_bytes(path.read_bytes()[:300] if content is None else content)
    with pytest.raises(InputError, match=r"x.jpg can't be read as an image"):
        read_image(str(path))
