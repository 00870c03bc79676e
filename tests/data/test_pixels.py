"""Images are read as a viewer shows them."""

import importlib
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camreid.data import dataset
from camreid.data.dataset import read_image
from camreid.errors import ImageError

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 20, 3), dtype=np.uint8))


def shown(image: Image.Image, suffix: str = "png", **options: object) -> np.ndarray:
    """(H, W, 3) as read from a file of the image."""
    image.save(content := io.BytesIO(), suffix, **options)
    return read_image(Image.open(content)).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("suffix", ["png", "jpeg"])
def test_rgb_is_equal_to_the_bit(suffix: str) -> None:
    PICTURE.save(content := io.BytesIO(), suffix)
    assert np.array_equal(shown(PICTURE, suffix), np.asarray(Image.open(content)))


@pytest.mark.parametrize("orientation", range(9))
def test_exif_turns_the_image(orientation: int) -> None:
    array = np.asarray(PICTURE)
    turned = {
        2: array[:, ::-1], 3: array[::-1, ::-1], 4: array[::-1], 5: array.transpose(1, 0, 2),
        6: np.rot90(array, 3), 7: array[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(array),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(shown(PICTURE, exif=exif), turned.get(orientation, array))


def test_damaged_exif_data_turns_nothing() -> None:
    for damaged in (
        b"Exif\0\0nothing",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\0",
    ):
        PICTURE.save(content := io.BytesIO(), "jpeg", exif=damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert read_image(Image.open(content)).shape == (3, 40, 20)


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_deep_grey_is_scaled(kind: type) -> None:
    values = np.linspace(0, 1 if kind is np.float32 else 65535, 800).reshape(40, 20).astype(kind)
    expected = np.linspace(0, 255, 800).reshape(40, 20)
    found = shown(Image.fromarray(values), "tiff")
    assert abs(found - expected[..., None]).max() <= 1
    if kind is np.uint16:
        assert np.array_equal(shown(Image.fromarray(values)), found)
    dark = Image.fromarray((values / 100).astype(kind))
    assert shown(dark, "tiff").max() <= 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -5.0, 0.0, 1e30])
def test_deep_grey_of_any_value_is_an_image(value: float) -> None:
    values = np.full((40, 20), value, np.float32)
    assert shown(Image.fromarray(values), "tiff").max() == (255 if value == 1e30 else 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
def test_what_is_transparent_is_white(mode: str) -> None:
    image = Image.new("L" if "L" in mode else "RGB", (8, 8), 0)
    options = {}
    if mode.endswith("A"):
        image.putalpha(0)
    else:
        image = image.quantize() if mode == "P" else image
        options = {"transparency": (0, 0, 0) if mode == "RGB" else 0}
    assert image.mode == mode
    assert (shown(image, **options) == 255).all()
    opaque = PICTURE.copy()
    opaque.putalpha(255)
    assert np.array_equal(shown(opaque), np.asarray(PICTURE))


def test_the_first_frame_of_an_animation_is_read() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for suffix in ("gif", "png", "webp"):
        options = {"lossless": True} if suffix == "webp" else {}
        found = shown(frames[0], suffix, save_all=True, append_images=frames[1:], **options)
        assert (found == (255, 0, 0)).all()


def test_palette_one_bit_and_cmyk() -> None:
    assert np.array_equal(
        shown(PICTURE.quantize(16)), np.asarray(PICTURE.quantize(16).convert("RGB"))
    )
    assert {0, 255} == set(np.unique(shown(PICTURE.convert("1"))))
    red = Image.new("RGB", (8, 8), "red").convert("CMYK")
    assert (shown(red, "tiff") == (255, 0, 0)).all()


def test_a_large_photograph_gives_no_warning_and_a_bomb_one_paragraph(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    PICTURE.save(tmp_path / "x.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.reload(dataset)  # pytest has filters of its own
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
        assert read_image(tmp_path / "x.png").shape == (3, 40, 20)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        with pytest.raises(ImageError, match=r"x\.png can't be read .*800 pixels"):
            read_image(tmp_path / "x.png")


def test_a_program_in_place_of_an_image_is_not_run(tmp_path: Path) -> None:
    text = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n%%EOF\n"
    (tmp_path / "a.jpg").write_text(text)
    with pytest.raises(ImageError, match="EPS"):
        read_image(tmp_path / "a.jpg")
