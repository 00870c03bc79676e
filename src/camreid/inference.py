"""Features of images for other programs, without a Trainer."""

import copy
import hashlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import repeat
from operator import index
from pathlib import Path
from typing import Any, Literal, get_type_hints

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from camreid.checkpoints.experts import Experts, load
from camreid.checkpoints.exported import Exported
from camreid.data.dataset import OneImage, crops, is_empty, list_images, read_pixels
from camreid.errors import InputError, require_choice, require_whole
from camreid.evaluation.features import digest_of
from camreid.models.config import Interpolation
from camreid.models.network import FeatureOptions, Side, evaluating
from camreid.models.pixels import check_raw
from camreid.training.module import ReIDModule

Cameras = int | Sequence[int | None] | None


@dataclass(eq=False, repr=False)
class FeatureExtractor:
    """Features as `camreid-evaluate` compares them; InputError for arguments that do not fit.

    `experts` has the extractor of each camera for a folder of experts, and is empty for one model.

    >>> import numpy as np
    >>> from camreid import create_model
    >>> extractor = FeatureExtractor(create_model("small", labels=[2, 7]))
    >>> extractor([np.full((h, 40, 3), h, np.uint8) for h in (90, 120, 150)]).shape
    torch.Size([3, 96])
    """

    # a checkpoint, an exported .onnx, a folder of experts, or what `load` gives of them
    module: str | Path | ReIDModule | Experts | Exported
    # auto (CUDA if there is any), cpu, cuda:0 ...; None: auto for a path, else that of the module.
    # A module on another device is copied, not moved.
    device: str | torch.device | None = None
    batch_size: int = 128  # images at a time
    workers: int = 0  # threads that read the next batch meanwhile
    normalize: bool = False  # L2-normalise the features
    flip: bool = False  # average the features of an image and its mirror image, before normalising
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # the others: mixed
    neck: Side = "after"  # where the features are taken
    channels: Literal["RGB", "BGR"] = "RGB"  # of arrays and tensors; BGR as of OpenCV
    empty: Literal["error", "zero"] = "error"  # zero: zero features of arrays without pixels
    interpolation: Interpolation | None = None  # of the resize, such as opencv; None: the model's

    def __post_init__(self) -> None:
        require_whole("batch_size", self.batch_size, least=1)
        require_whole("workers", self.workers, least=0)
        for name in ("precision", "channels", "empty"):
            require_choice(name, getattr(self, name), get_type_hints(FeatureExtractor)[name])
        self.options = FeatureOptions(flip=self.flip, neck=self.neck)
        self.experts: dict[int, FeatureExtractor] = {}
        module, device = self.module, self.device
        if isinstance(module, str | Path):
            is_onnx, device = Path(module).suffix == ".onnx", device or "auto"
            module = Exported(module) if is_onnx else load(module)
        if isinstance(module, Experts):
            own = module.modules.items()
            self.experts = {camera: replace(self, module=m, device=device) for camera, m in own}
            return
        if not isinstance(module, ReIDModule | Exported):
            kind = type(module).__name__
            raise InputError(f"module is a {kind}: expected a ReIDModule or a checkpoint's path.")
        self.name, self.image_size = module.config.name, module.config.image_size
        self.calibration = module.calibration
        self._resize: Interpolation = self.interpolation or module.config.interpolation
        require_choice("interpolation", self._resize, Interpolation)
        is_file = isinstance(module, Exported)
        if is_file and (self.precision, self.neck) != ("float32", "after"):
            raise InputError("an ONNX file has its own precision, and features after the neck.")
        self.network: Any = module if isinstance(module, Exported) else module.model
        self.device = _device(device) if device and not is_file else module.device
        if self.device != module.device:
            self.network = copy.deepcopy(self.network).to(self.device)

    def __call__(self, images: OneImage | Iterable[OneImage], cameras: Cameras = None) -> Tensor:
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
        of_batches: Iterable[Any] = repeat(None)
        if cameras is not None:
            if not self.network.cameras:
                raise InputError("this model has no camera options; leave cameras= out.")
            of_batches = torch.split(_numbers(cameras, len(many)), self.batch_size)
        if not many:  # the width is that of any image
            return self(torch.zeros(1, 3, *self.image_size, dtype=torch.uint8))[:0]
        with evaluating(self.network), torch.inference_mode():
            batches = zip(self._batches(many), of_batches, strict=False)
            parts = [self._features(*batch) for batch in batches]
        features = torch.cat(parts)  # outside inference mode, so that it can be trained on
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
        before = "-before" if self.neck == "before" else ""
        return f"{self.name}-{digest_of(self.network.state_dict(), {})[:16]}{before}"

    def _concat(self, images: list[OneImage]) -> Tensor:
        """(N, sum of D) unit features of all experts."""
        experts = self.experts.values()
        slopes = [e.calibration.slope for e in experts if e.calibration]
        slopes = slopes if len(slopes) == len(experts) else [1.0] * len(experts)
        pairs = zip(experts, slopes, strict=True)
        return torch.cat([F.normalize(e(images)) * max(slope, 0) ** 0.5 for e, slope in pairs], 1)

    def _routed(self, images: list[OneImage], cameras: Any) -> Tensor:
        """(N, D) features of each image by the expert of its camera."""
        of_images = _numbers(cameras, len(images)).tolist()
        if lost := {*of_images} - self.experts.keys():
            raise InputError(f"no expert for cameras {sorted(lost)}; there are {[*self.experts]}.")
        by_camera = {c: [i for i, n in enumerate(of_images) if n == c] for c in {*of_images}}
        found = {c: self.experts[c]([images[i] for i in own]) for c, own in by_camera.items()}
        if len(widths := {features.shape[1] for features in found.values()}) > 1:
            raise InputError(f"these experts have features of {sorted(widths)} values: call each.")
        order = torch.tensor([i for own in by_camera.values() for i in own])
        return torch.cat([*found.values()])[order.argsort()]

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
        pixels = read_pixels(image, self.image_size, self._resize)
        is_bgr = self.channels == "BGR" and isinstance(image, Tensor | np.ndarray)
        return pixels.flip(0) if is_bgr else pixels

    def _features(self, images: Tensor, cameras: Tensor | None) -> Tensor:
        if 0 < images.amax() <= 1:  # in float, they are refused
            warnings.warn("all pixels are 0 or 1: expected uint8 in 0..255.", stacklevel=3)
        images = images.to(self.device)
        cameras = None if cameras is None else cameras.to(images.device)
        kind = getattr(torch, self.precision)
        with torch.autocast(images.device.type, kind, enabled=kind != torch.float32):
            features = self.options(lambda raw: self.network.forward_raw(raw, cameras), images)
        return features.float().cpu()


def _numbers(cameras: Any, count: int) -> Tensor:
    """(count,) int64, 0 for an unknown camera."""
    many: list[Any] = [cameras] if isinstance(cameras, int | float | str) else list(cameras)
    if len(many) != count:
        raise InputError(f"{len(many)} cameras for {count} images: give one each.")
    with suppress(TypeError):
        numbers = torch.tensor([0 if c is None else index(c) or -1 for c in many])
        if (numbers >= 0).all():
            return numbers
    raise InputError(f"cameras {many!r:.99}: expected 1-based numbers, or None for unknown ones.")


def _device(name: str | torch.device) -> torch.device:
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        probe = torch.zeros(1, device=auto if name == "auto" else name)
        probe.item()  # refuses meta, which has no values
        return probe.device  # `cuda` has a number now
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"device={name}: {reason}.", device="cpu") from error
