"""A model as data: what `conf/model/*.yaml` says and every checkpoint keeps."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, TypeVar, get_args

from camreid.errors import InputError, require_whole
from camreid.labels import UNKNOWN, Unknown
from camreid.models.pixels import Pixels

Part = TypeVar("Part")
Interpolation = Literal["bicubic", "bilinear"]


@dataclass(frozen=True)
class ModelConfig:
    """Architecture, losses, optimiser, schedule, and what to do about unknown identities.

    Attributes:
        name: what people call it.
        image_size: (H, W) in pixels.
        network: `_target_`, a `ReIDNetwork`, and its options.
        loss: see `LossConfig`.
        optimizer: see `OptimizerConfig`.
        schedule: see `Schedule`.
        unknown: what happens to identities without a row: skip, drop, extend, reinit or forbid.
        pixels: what a batch of images holds: `raw` (0..255) or `imagenet` (normalised).
        interpolation: of the resize to `image_size`: `bicubic` as FastReID, `bilinear` as
            torchreid.
    """

    name: str
    image_size: tuple[int, int]
    network: dict[str, Any]
    loss: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    unknown: Unknown
    pixels: Pixels
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        if len(self.image_size) != 2:
            raise InputError(f"model.image_size={self.image_size}: type model.image_size=[H,W].")
        for pixels in self.image_size:
            require_whole("model.image_size: height or width", pixels, least=16)
        object.__setattr__(self, "image_size", tuple(self.image_size))
        if self.unknown not in UNKNOWN:
            raise InputError(
                f"model.unknown={self.unknown} is not known; type model.unknown= one of "
                f"{', '.join(UNKNOWN)}."
            )
        if self.pixels not in get_args(Pixels):
            raise InputError(
                f"model.pixels={self.pixels}: type model.pixels=raw or model.pixels=imagenet."
            )
        if self.interpolation not in get_args(Interpolation):
            raise InputError(
                f"interpolation={self.interpolation}: expected bicubic or bilinear.",
                interpolation="bicubic",
            )

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> "ModelConfig":
        """From nested mappings; an option that does not exist is an InputError."""
        return build_options(cls, "model", dict(config))

    def without_weights(self) -> "ModelConfig":
        """The same model, no backbone weights looked up because others follow."""
        none = {"pretrained": False, "weights": None}
        known = {key: value for key, value in none.items() if key in self.network}
        return replace(self, network={**self.network, **known})

    def primitives(self) -> dict[str, Any]:
        """Nested dicts of primitives, as `read` takes them."""
        return asdict(self)


def build_options(kind: type[Part], where: str, options: Mapping[str, Any]) -> Part:
    """A dataclass from a mapping; `where` is the name of the options in messages."""
    for field in fields(kind):  # type: ignore[arg-type]
        value = options.get(field.name, 0)
        if field.type is float and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise InputError(f"{where}.{field.name}={value}: expected a number.")
    try:
        return kind(**options)
    except TypeError as error:
        raise InputError(f"{where} is not complete or has an option too many: {error}.") from error
