"""Image files as a viewer shows them."""

import warnings

import numpy as np
from PIL import Image, ImageOps

# on large photographs and damaged EXIF data; from 179 million pixels on, Pillow raises an error
warnings.filterwarnings("ignore", module=r"PIL\.")


def as_shown(image: Image.Image) -> Image.Image:
    """The first frame as RGB: turned as its EXIF data says, and on white where it is transparent.

    Grey of more than 8 bits is scaled. White is 65,535; of floats, it is the first of 1, 255 and
    65,535 that no value exceeds; where values exceed that, it is the largest.
    """
    if image.format == "EPS":  # Pillow would run Ghostscript
        raise ValueError("EPS is not read, as it is a program")
    if is_turned(image):
        image = ImageOps.exif_transpose(image)
    if is_deep(image):
        values = np.nan_to_num(np.asarray(image, np.float32), posinf=0, neginf=0)
        top = values.max(initial=0)
        whites = (1, 255, 65535, top) if image.mode == "F" else (65535, top)
        scaled = values * (255 / next(white for white in whites if top <= white))
        image = Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def is_turned(image: Image.Image) -> bool:
    """Whether EXIF data gives an orientation; damaged data gives none."""
    try:
        return image.getexif().get(0x0112, 1) in range(2, 9)
    except Exception:  # of Pillow's parser: SyntaxError, struct.error and others
        return False


def is_deep(image: Image.Image) -> bool:
    """Whether an image is grey of more than 8 bits."""
    return image.mode[0] in "IF"
