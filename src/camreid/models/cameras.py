"""Which cameras a network tells apart, and which of them each image of a batch is of."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from camreid.errors import InputError, require_number, require_whole
from camreid.labels import rows_of

# options of a network that need the camera of each image, off by default
OPTIONS = ("camera_norm", "camera_embedding", "camera_heads")


def used_cameras(network: Mapping[str, Any]) -> tuple[int, ...]:
    """The cameras that a network's config tells apart; empty without a camera option.

    >>> used_cameras({"cameras": [1, 3], "camera_norm": True}), used_cameras({"cameras": [1, 3]})
    ((1, 3), ())
    """
    return tuple(network.get("cameras") or ()) if any(map(network.get, OPTIONS)) else ()


@dataclass(frozen=True, kw_only=True)
class CameraOptions:
    """The parts of a network that depend on the camera of an image; off by default.

    Attributes:
        cameras: 1-based numbers, in the order of the statistics, embeddings and heads; None for
            none. They are part of the architecture: later training on others does not change
            them, and an image of another camera counts as of an unknown one.
        camera_norm: see `CameraNorm`.
        camera_embedding: factor lambda of `CameraEmbedding`; 0 for none.
        camera_heads: one head for each camera, over the identities of that camera, as in
            intra-camera supervision (Zhu et al. 2019; Qi et al. 2020).

    Raises:
        InputError: an option without cameras, or cameras that are not distinct 1-based numbers.
    """

    cameras: Sequence[int] | None = None
    camera_norm: bool = False
    camera_embedding: float = 0.0
    camera_heads: bool = False

    def __post_init__(self) -> None:
        require_number("camera_embedding", self.camera_embedding, least=0)
        on = [name for name in OPTIONS if getattr(self, name)]
        if on and not self.cameras:
            raise InputError(
                f"{on[0]}={getattr(self, on[0])} needs the cameras of the network; a list of "
                "1-based numbers.",
                cameras=[1, 2, 3],
            )
        for camera in self.cameras or ():
            require_whole("cameras: a number", camera, least=1)
        if len(set(self.cameras or ())) != len(self.cameras or ()):
            raise InputError(f"cameras={list(self.cameras or ())} has a camera twice.")


class CameraIndex:
    """The camera of each image in a forward pass, for the parts of a network to read.

    All parts of a network share one, copied and pickled with it.

    Args:
        numbers: the network's cameras, 1-based.
        least: images of a camera in a batch that suffice for statistics of their own. Of two
            vectors, batch norm makes exact opposites, and gradients of groups of 2, 3 and 4 are
            about 14, 3 and 1.3 times as large as those of a whole batch.

    Attributes:
        places: (B,) int64 place of each image's camera in `numbers`, -1 for an unknown one; None
            while no cameras are known.
        groups: the images of each place that has at least `least` of them; empty likewise.

    >>> index = CameraIndex((2, 5), least=2)
    >>> with index.of(torch.tensor([5, 9, 2, 5])):
    ...     index.places, index.groups
    (tensor([ 1, -1,  0,  1]), {1: tensor([0, 3])})
    """

    def __init__(self, numbers: Sequence[int], least: int = 4) -> None:
        self.numbers, self.least = tuple(numbers), least
        self.places: Tensor | None = None
        self.groups: dict[int, Tensor] = {}

    @contextmanager
    def of(self, cameras: Tensor | None) -> Iterator[None]:
        """Set for one forward pass.

        Args:
            cameras: (B,) int64, 1-based; None for unknown ones.
        """
        try:
            if cameras is not None and self.numbers:
                self.places = rows_of(torch.tensor(self.numbers), cameras)
                on_cpu = self.places.cpu()
                images = {p: (on_cpu == p).nonzero()[:, 0] for p in range(len(self.numbers))}
                self.groups = {
                    place: own.to(cameras.device)
                    for place, own in images.items()
                    if len(own) >= self.least
                }
            yield
        finally:
            self.places, self.groups = None, {}
