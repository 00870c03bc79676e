"""Which cameras a network tells apart, and which of them each image of a batch is of."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from camreid.errors import InputError, require_number, require_whole
from camreid.labels import rows_of

# of a network's config, off by default
OPTIONS = ("camera_norm", "camera_embedding", "camera_heads")


@dataclass(frozen=True)
class CameraOptions:
    """What of a network is told the camera of each image; everything is off by default.

    Attributes:
        cameras: 1-based numbers, in the order of the statistics, embeddings and heads; None for
            none. They are part of the architecture: training on others later leaves them as they
            are, and images of other cameras are treated as of an unknown one.
        camera_norm: see `CameraNorm`.
        camera_embedding: factor lambda of `CameraEmbedding`; 0 for none.
        camera_heads: one head for each camera, over the identities of that camera, as in
            intra-camera supervision (Zhu et al. 2019; Qi et al. 2020).

    Raises:
        InputError: an option that is asked for without cameras, or a value that is none of these.
    """

    cameras: Sequence[int] | None = None
    camera_norm: bool = False
    camera_embedding: float = 0.0
    camera_heads: bool = False

    def __post_init__(self) -> None:
        for name in ("camera_norm", "camera_heads"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"model.network.{name}={getattr(self, name)}: type true or false.")
        require_number("model.network.camera_embedding", self.camera_embedding, least=0)
        if self.cameras is not None:
            self._check_numbers(self.cameras)
        asked = [name for name in OPTIONS if getattr(self, name)]
        if asked and self.cameras is None:
            raise InputError(
                f"model.network.{asked[0]}={getattr(self, asked[0])} needs to know which cameras "
                "there are. camreid-train reads them from the train images; otherwise type "
                "model.network.cameras=[1,2,3], or in Python network__cameras=[1, 2, 3]."
            )

    def _check_numbers(self, cameras: object) -> None:
        if isinstance(cameras, str) or not isinstance(cameras, Sequence) or not cameras:
            raise InputError(
                f"model.network.cameras={cameras}: type 1-based numbers, such as [1,2,3], or null."
            )
        for camera in cameras:
            require_whole("model.network.cameras: a number", camera, least=1)
        if len(set(cameras)) != len(cameras):
            raise InputError(f"model.network.cameras={list(cameras)} names a camera twice.")

    @classmethod
    def of(cls, network: Mapping[str, Any]) -> "CameraOptions":
        """Those of a network's config, which may well have none."""
        names = ("cameras", *OPTIONS)
        return cls(**{name: network[name] for name in names if name in network})

    @property
    def told(self) -> tuple[int, ...]:
        """The cameras that the network tells apart; empty if nothing of it does."""
        on = any(getattr(self, name) for name in OPTIONS)
        return tuple(self.cameras or ()) if on else ()


def stated(network: Mapping[str, Any]) -> dict[str, Any]:
    """A network's config, of which camera options that are off are left out.

    Checkpoints that are older than the options say nothing of them.

    >>> stated({"neck": "bn", "camera_norm": False, "cameras": None})
    {'neck': 'bn'}
    """
    off = {"cameras", *OPTIONS}
    return {key: value for key, value in network.items() if value or key not in off}


class CameraIndex:
    """The cameras of the images that a network is looking at, for its parts to read.

    One object for all parts of a network, copied and pickled with it; set for the length of a
    forward pass, of one thread at a time. The images are put in the order of their groups
    meanwhile, so that each is a slice: the images of each camera that has enough of them in the
    batch, then the rest, which are those of the other cameras and of no known one.

    Args:
        numbers: the network's cameras, 1-based.
        least: images that are enough for statistics of their own. Of two vectors, batch norm makes
            exact opposites, and gradients of groups of 2, 3 and 4 are about 14, 3 and 1.3 times as
            large as those of a whole batch.

    Attributes:
        places: (B,) int64 place of each image's camera in `numbers`, -1 for an unknown one, in the
            order of the groups; None while no cameras are known.
        sizes: images of each group, that of the rest last; None likewise.

    >>> index = CameraIndex((2, 5), least=2)
    >>> with index.of(torch.tensor([5, 9, 2, 5])):
    ...     index.sort(torch.arange(4)), index.places, index.sizes
    (tensor([0, 3, 1, 2]), tensor([ 1,  1, -1,  0]), [0, 2, 2])
    """

    def __init__(self, numbers: Sequence[int], least: int = 4) -> None:
        self.numbers, self.least = tuple(numbers), least
        self.places: Tensor | None = None
        self.sizes: list[int] | None = None
        self._order: Tensor | None = None

    @contextmanager
    def of(self, cameras: Tensor | None) -> Iterator[None]:
        """Set for a while.

        Args:
            cameras: (B,) int64, 1-based; None for unknown ones.
        """
        try:
            if cameras is not None and self.numbers:
                self._set(rows_of(torch.tensor(self.numbers), cameras))
            yield
        finally:
            self.places = self.sizes = self._order = None

    def _set(self, places: Tensor) -> None:
        rest, here = len(self.numbers), places.cpu()
        counts = here[here >= 0].bincount(minlength=rest)
        groups = torch.where((here >= 0) & (counts[here] >= self.least), here, rest)
        order = groups.argsort(stable=True)
        self.sizes = groups.bincount(minlength=rest + 1).tolist()
        self._order = order.to(places.device)
        self.places = places[self._order]

    def sort(self, values: Tensor) -> Tensor:
        """(B, ...) in the order of the groups."""
        if self._order is None:
            return values
        if len(values) != len(self._order):
            raise InputError(
                f"{len(self._order)} cameras were given for {len(values)} images; give one each, "
                "cameras=(B,) int64, 1-based."
            )
        return values[self._order]

    def unsort(self, values: Tensor) -> Tensor:
        """(B, ...) in the order of the batch again."""
        return values if self._order is None else values[self._order.argsort()]
