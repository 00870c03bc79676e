from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from camreid.data import ImageDataset, ImageRecord
from camreid.data.dataset import read_image
from camreid.errors import InputError


@pytest.fixture
def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 20, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "I;16"])
def test_png_of_any_mode_is_rgb(mode: str, tmp_path: Path, picture: Image.Image) -> None:
    path = tmp_path / "x.png"
    if mode == "I;16":
        Image.fromarray(np.zeros((40, 20), dtype=np.uint16)).save(path)
    else:
        picture.convert(mode).save(path)
    image = read_image(str(path))
    assert image.shape == (3, 40, 20)
    assert image.dtype == torch.uint8


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_of_any_mode_is_rgb(mode: str, tmp_path: Path, picture: Image.Image) -> None:
    path = tmp_path / "x.jpg"
    picture.convert(mode).save(path)
    assert read_image(str(path)).shape == (3, 40, 20)


def test_resize_is_pillows_bicubic(tmp_path: Path, picture: Image.Image) -> None:
    path = tmp_path / "0001_c2s1_000001_01.png"
    picture.save(path)
    item = ImageDataset([ImageRecord(str(path), 1, 2)], (96, 48))[0]
    expected = np.asarray(picture.resize((48, 96), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.array_equal(item["images"].numpy(), expected)
    assert (item["pids"], item["camids"], item["index"]) == (1, 1, 0)
    assert item["img_paths"] == str(path)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0 cut short"])
def test_a_broken_file_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x.jpg can't be read as an image"):
        read_image(str(path))


def test_a_cut_jpeg_is_named(tmp_path: Path, picture: Image.Image) -> None:
    path = tmp_path / "x.jpg"
    picture.save(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=r"x.jpg can't be read as an image"):
        read_image(str(path))
