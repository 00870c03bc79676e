"""What an exported file is fed, and whether it gives the features of its test crop; no torch."""

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from camreid.errors import InputError

Input = Literal["uint8", "float", "unit", "imagenet"]
Channels = Literal["rgb", "bgr"]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pixels in 0..1
_IMAGENET = tuple(255 * np.array(values, np.float32) for values in (IMAGENET_MEAN, IMAGENET_STD))
# a program feeds (x - mean) / std, of x in 0..255
PIXELS: dict[str, Any] = {"uint8": (0, 1), "float": (0, 1), "unit": (0, 255), "imagenet": _IMAGENET}
RANGES = dict(zip(PIXELS, ("0..255", "0..255", "0..1", "ImageNet's mean and std"), strict=True))
# a graph cannot check values, so the name of its input says their range
NAMES = dict(zip(PIXELS, ("images", "images_0_255", "images_0_1", "images_imagenet"), strict=True))
LEAST_COSINE = 0.9999
_BLOCKS = np.random.RandomState(0).randint(0, 256, (16, 8, 3), np.uint8)  # of a test crop


def feed(crops: NDArray[Any], input: str = "uint8", channels: str = "rgb") -> NDArray[Any]:
    """(N, 3, H, W) uint8 or float32 that a program feeds, of (N, H, W, 3) uint8 RGB crops.

    >>> feed(np.full((1, 1, 1, 3), 51, np.uint8), "unit").ravel()
    array([0.2, 0.2, 0.2], dtype=float32)
    """
    mean, std = map(np.float32, PIXELS[input])
    values = crops if input == "uint8" else (crops - mean) / std
    values = values[..., ::-1] if channels == "bgr" else values
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def draw_crop(image_size: tuple[int, int], blocks: NDArray[Any] = _BLOCKS) -> NDArray[Any]:
    """A test crop (1, H, W, 3) uint8 RGB, of (16, 8, 3) blocks of one colour each."""
    rows, columns = (np.arange(n) * k // n for n, k in zip(image_size, blocks.shape, strict=False))
    return blocks[None, rows][:, :, columns]


def expect(features: NDArray[Any]) -> dict[str, str]:
    """Metadata in base64: the blocks of the test crop, and its features (D,) little-endian."""
    parts = {"test_crop": _BLOCKS, "test_features": features.astype("<f4")}
    return {name: base64.b64encode(part.tobytes()).decode() for name, part in parts.items()}


def compare(metadata: Mapping[str, str], given: NDArray[Any]) -> float:
    """The distance of features (D,) of the test crop to the expected ones, by their norm.

    InputError above 0.001, for float16 above 0.014, which is a cosine of 0.9999.
    """
    expected = np.frombuffer(base64.b64decode(metadata["test_features"]), "<f4")
    if given.shape != expected.shape:
        raise InputError(f"it gives {given.size} features, and its metadata have {expected.size}.")
    share = float(np.linalg.norm(given - expected) / np.linalg.norm(expected))
    limit = 0.014 if metadata.get("precision") == "float16" else 0.001
    if not share <= limit:  # or NaN
        raise InputError(
            f"its test crop has other features: they differ by {share:.2g} of their norm, over "
            f"{limit}. Its weights, its graph or what its metadata say of the input has changed."
        )
    return share


def check_file(path: str | Path) -> float:
    """`compare` for the test crop of an ONNX file, by onnxruntime; InputError says what differs."""
    path = Path(path)
    sidecar = path.with_name(f"{path.name}.metadata.json")
    try:
        runtime = import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # errors are raised anyway
        session = runtime.InferenceSession(
            path.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
        metadata, graph = session.get_modelmeta().custom_metadata_map, session.get_inputs()[0]
        if "test_crop" not in metadata:
            raise InputError("it has no test crop: export the checkpoint again.")
        blocks = np.frombuffer(base64.b64decode(metadata["test_crop"]), np.uint8)
        crop = draw_crop(json.loads(metadata["image_size"]), blocks.reshape(_BLOCKS.shape))
        fed = feed(crop, metadata["input"], metadata["channels"].lower())
        fed = fed.repeat(graph.shape[0] if isinstance(graph.shape[0], int) else 1, axis=0)
        share = compare(metadata, session.run(["features"], {graph.name: fed})[0][0])
        if sidecar.exists() and json.loads(sidecar.read_text())["artifact_sha256"] != digest(path):
            raise InputError(f"{sidecar.name} describes another file: its artifact_sha256 differs.")
    except InputError as error:
        raise InputError(f"check={path}: {error}") from error
    except Exception as error:  # of onnxruntime, which has no common class
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"check={path}: onnxruntime of pip install 'camreid[onnx]' can't run it on its test "
            f"crop ({reason})."
        ) from error
    return share


def digest(path: str | Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
