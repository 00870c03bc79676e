from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, default_convert

from camreid.data import ImageDataset, ImageRecord
from camreid.data.dataset import ImageBatches, read_image
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


def test_a_loader_process_that_lacks_shared_memory_ends_the_loader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: torch.Tensor) -> None:
        raise RuntimeError("unable to allocate shared memory")

    PICTURE.save(tmp_path / "0001_c2s1_000001_01.png")
    images = ImageBatches([ImageRecord(str(tmp_path / "0001_c2s1_000001_01.png"), 1, 2)], (96, 48))
    loader = DataLoader(
        images, collate_fn=default_convert, num_workers=1, multiprocessing_context="fork"
    )
    assert next(iter(loader))["images"].is_shared()
    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with pytest.raises(RuntimeError, match="unable to allocate"):
        next(iter(loader))


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0 cut short", None])
def test_a_broken_file_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    PICTURE.save(path)
    path.write_bytes(path.read_bytes()[:300] if content is None else content)
    with pytest.raises(InputError, match=r"x.jpg can't be read as an image"):
        read_image(str(path))
