"""Features of images for other programs, without a Trainer."""

import copy
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from operator import index
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from camreid.checkpoints.experts import Experts, load
from camreid.checkpoints.exported import Exported
from camreid.checkpoints.io import weights_digest
from camreid.data.dataset import OneImage, crops, is_empty, list_images, read_pixels
from camreid.errors import InputError, require_choice, require_whole
from camreid.models.network import FeatureOptions, Side, evaluating
from camreid.models.pixels import check_raw
from camreid.training.module import ReIDModule

Precision = Literal["float32", "bfloat16", "float16"]
Channels = Literal["RGB", "BGR"]
Empty = Literal["error", "zero"]


class FeatureExtractor:
    """The features that `camreid-evaluate` compares; InputError for arguments of no use.

    Args:
        module: path of a checkpoint, an exported ONNX file or a folder of experts; or a
            `ReIDModule`, of which the modes stay as they are, or `Experts`.
        device: `auto` (CUDA if there is any), `cpu`, `cuda:0`, ...; None for that of the module,
            or `auto` for a checkpoint. A module on another device is copied, not moved.
        batch_size: images at a time.
        workers: threads that read the next batch meanwhile; 0 reads and computes in turns.
        normalize: L2-normalise the features.
        flip: average the features of each image and its mirror image, before normalising.
        precision: `float32`; `bfloat16` or `float16` for mixed precision.
        neck: features `after` or `before` the neck.
        channels: order of the channels of arrays and tensors: `RGB`, or `BGR` as of OpenCV.
        empty: what an array without pixels gets: an `error`, or `zero` features.

    The extractors of a folder are in `experts`, by camera.

    >>> import numpy as np
    >>> from camreid import create_model
    >>> extractor = FeatureExtractor(create_model("small", labels=[2, 7]))
    >>> extractor([np.full((h, 40, 3), h, np.uint8) for h in (90, 120, 150)]).shape
    torch.Size([3, 96])
    """

    def __init__(
        self,
        module: str | Path | ReIDModule | Experts,
        device: str | torch.device | None = None,
        batch_size: int = 128,
        workers: int = 0,
        normalize: bool = False,
        flip: bool = False,
        precision: Precision = "float32",
        neck: Side = "after",
        channels: Channels = "RGB",
        empty: Empty = "error",
    ) -> None:
        require_whole("batch_size", batch_size, least=1)
        require_whole("workers", workers, least=0)
        require_choice("precision", precision, Precision)
        require_choice("channels", channels, Channels)
        require_choice("empty", empty, Empty)
        self.batch_size, self.workers = batch_size, workers
        self.normalize, self.precision = normalize, precision
        self.channels, self.empty = channels, empty
        self.options = FeatureOptions(flip=flip, neck=neck)
        self.experts: dict[int, FeatureExtractor] = {}
        if not isinstance(module, ReIDModule | Experts | str | Path):
            kind = type(module).__name__
            raise InputError(f"module is a {kind}: expected a ReIDModule or a checkpoint's path.")
        loaded = _read(module)
        self._take(loaded, None if loaded is module and device is None else _device(device))

    def _take(self, loaded: ReIDModule | Experts | Exported, device: torch.device | None) -> None:
        if isinstance(loaded, Experts):
            self.experts = {camera: copy.copy(self) for camera in loaded.modules}
            for camera, module in loaded.modules.items():
                self.experts[camera]._take(module, device)
            return
        is_file = isinstance(loaded, Exported)
        if is_file and (self.precision, self.options.neck) != ("float32", "after"):
            raise InputError("an ONNX file has its own precision, and features after the neck.")
        self.name, self.image_size = loaded.config.name, loaded.config.image_size
        self.interpolation = loaded.config.interpolation
        self.calibration = loaded.calibration
        self.network: Any = loaded if isinstance(loaded, Exported) else loaded.model
        self.device = loaded.device if device is None or is_file else device
        if self.device != loaded.device:
            self.network = copy.deepcopy(self.network).to(self.device)

    def __call__(
        self,
        images: OneImage | Iterable[OneImage],
        cameras: int | Sequence[int | None] | None = None,
    ) -> Tensor:
        """Features (N, D) float32 on the CPU, in the order of the images.

        Args:
            images: paths, PIL images, uint8 arrays (H, W, 3), or tensors (3, H, W) of uint8 or of
                float in 0..255, RGB; one, a list of any sizes and kinds, or an array or tensor of
                four dimensions.
            cameras: of each image, 1-based, for models with camera options; None if unknown.
                With a folder of experts, each image gets the features of the expert of its camera,
                comparable within a camera only. Without cameras, it gets the unit features of all
                experts side by side, comparable across cameras; where all experts have a
                calibration, times the square root of its slope.

        Raises:
            InputError: an image or camera that cannot be used.
            PixelRangeError: a float tensor that is not in 0..255.
        """
        many = list_images(images, allow_empty=self.empty == "zero")
        if self.experts:
            features = self._concat(many) if cameras is None else self._routed(many, cameras)
            return F.normalize(features) if self.normalize else features
        if cameras is not None and not self.network.cameras:
            raise InputError("this model has no camera options; leave cameras= out.")
        numbers = None if cameras is None else _numbers(cameras, len(many))
        some = many or [torch.zeros(3, *self.image_size, dtype=torch.uint8)]  # for their width
        with evaluating(self.network), torch.inference_mode():
            parts, done = [], 0
            for batch in self._batches(some):
                own = numbers[done : done + len(batch)] if many and numbers is not None else None
                parts.append(self._features(batch, own))
                done += len(batch)
        # outside inference mode, so that it can be trained on
        features = torch.cat(parts)[: len(many)]
        features[[place for place, image in enumerate(many) if is_empty(image)]] = 0
        return F.normalize(features) if self.normalize else features

    def boxes(self, frame: NDArray[Any] | Tensor, boxes: Any, **kwargs: Any) -> Tensor:
        """Features (N, D) of the `camreid.data.dataset.crops` of a frame."""
        return self(crops(frame, boxes), **kwargs)

    @cached_property
    def source(self) -> str:
        """Name and digest of the model, for `Gallery`: its features are comparable among them."""
        if self.experts:
            parts = " ".join(expert.source for expert in self.experts.values())
            return f"experts-{hashlib.sha256(parts.encode()).hexdigest()[:16]}"
        if isinstance(self.network, Exported):
            return self.network.source
        before = "-before" if self.options.neck == "before" else ""
        return f"{self.name}-{weights_digest(self.network)}{before}"

    def _concat(self, images: list[OneImage]) -> Tensor:
        """(N, sum of D) unit features of all experts."""
        experts = self.experts.values()
        slopes = [e.calibration.slope for e in experts if e.calibration]
        known = len(slopes) == len(experts)
        weights = [max(slope, 0) ** 0.5 for slope in slopes] if known else [1.0] * len(experts)
        units = [F.normalize(e(images)) * w for e, w in zip(experts, weights, strict=True)]
        return torch.cat(units, 1)

    def _routed(self, images: list[OneImage], cameras: Any) -> Tensor:
        """(N, D) features of each image by the expert of its camera."""
        of_images = _numbers(cameras, len(images)).tolist()
        if lost := {*of_images} - self.experts.keys():
            raise InputError(f"no expert for cameras {sorted(lost)}; there are {[*self.experts]}.")
        found: dict[int, Tensor] = {}
        for camera in {*of_images}:
            expert, own = self.experts[camera], [i for i, c in enumerate(of_images) if c == camera]
            found |= zip(own, expert([images[i] for i in own]), strict=True)
        if len(widths := {len(feature) for feature in found.values()}) > 1:
            raise InputError(f"these experts have features of {sorted(widths)} values: call each.")
        return torch.stack([found[i] for i in range(len(images))])

    def _batches(self, images: list[OneImage]) -> Iterator[Tensor]:
        """(B, 3, H, W) one after the other; with workers, the next one is read meanwhile."""
        with ThreadPoolExecutor(max(1, self.workers)) as pool:
            begin = pool.map if self.workers else map
            ahead: list[Iterator[Tensor]] = []
            for start in range(0, len(images), self.batch_size):
                ahead.append(begin(self._read, images[start : start + self.batch_size]))
                if len(ahead) > 1:
                    yield torch.stack(list(ahead.pop(0)))
            yield from (torch.stack(list(batch)) for batch in ahead)

    def _read(self, image: OneImage) -> Tensor:
        if is_empty(image):
            return torch.zeros(3, *self.image_size, dtype=torch.uint8)
        if isinstance(image, Tensor):
            check_raw(image)
        pixels = read_pixels(image, self.image_size, self.interpolation)
        is_bgr = self.channels == "BGR" and isinstance(image, Tensor | np.ndarray)
        return pixels.flip(0) if is_bgr else pixels

    def _features(self, images: Tensor, cameras: Tensor | None) -> Tensor:
        images = images.to(self.device)
        cameras = None if cameras is None else cameras.to(self.device)
        kind = getattr(torch, self.precision)
        with torch.autocast(self.device.type, kind, enabled=kind != torch.float32):
            features = self.options(lambda raw: self.network.forward_raw(raw, cameras), images)
        return features.float().cpu()


def _read(module: str | Path | ReIDModule | Experts) -> ReIDModule | Experts | Exported:
    if not isinstance(module, str | Path):
        return module
    return Exported(module) if Path(module).suffix == ".onnx" else load(module)


def _numbers(cameras: Any, count: int) -> Tensor:
    """(count,) int64, 0 for an unknown camera."""
    many = [cameras] if isinstance(cameras, int | float | str) else list(cameras)
    if len(many) != count:
        raise InputError(f"{len(many)} cameras for {count} images: give one each.")
    return torch.tensor([0 if camera is None else _number(camera) for camera in many])


def _number(camera: Any) -> int:
    with suppress(TypeError):
        if index(camera) > 0:
            return index(camera)
    raise InputError(f"camera {camera!r}: expected 1-based numbers, or None for unknown ones.")


def _device(name: str | torch.device | None) -> torch.device:
    if name in (None, "auto"):
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.zeros(1, device=name).device  # `cuda` has a number now
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"device={name}: {reason}.", device="cpu") from error
