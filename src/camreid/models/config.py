"""A model as data: the content of `conf/model/*.yaml`, kept in every checkpoint."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, TypeVar, get_origin

from camreid.errors import InputError, require_choice, require_whole
from camreid.labels import Unknown
from camreid.models.pixels import Pixels

Part = TypeVar("Part")
Interpolation = Literal["bicubic", "bilinear", "opencv"]


@dataclass(frozen=True)
class ModelConfig:
    """Architecture, losses, optimiser, schedule, and the handling of unknown identities."""

    name: str  # of the file in `conf/model/`, or any other
    image_size: tuple[int, int]  # (H, W) in pixels
    network: dict[str, Any]  # `_target_`, a `ReIDNetwork`, and its options
    loss: dict[str, Any]  # see `LossConfig`
    optimizer: dict[str, Any]  # see `OptimizerConfig`
    schedule: dict[str, Any]  # see `Schedule`
    unknown: Unknown  # what happens to identities without a row
    pixels: Pixels  # what a batch of images holds: `raw` (0..255) or `imagenet` (normalised)
    interpolation: Interpolation = "bicubic"  # as FastReID; see `read_image`

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", tuple(self.image_size))
        if len(self.image_size) != 2:
            raise InputError(f"image_size={self.image_size}: expected (H, W).")
        for pixels in self.image_size:
            require_whole("image_size: height or width", pixels, least=16)

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> "ModelConfig":
        """From nested mappings; an option that does not exist is an InputError."""
        return build_options(cls, "model", dict(config))

    def without_weights(self) -> "ModelConfig":
        """The same model without backbone weights, because others follow."""
        none = {"pretrained": False, "weights": None}
        kept = {k: v for k, v in self.network.items() if k != "allow_partial"}
        return replace(self, network={k: none.get(k, v) for k, v in kept.items()})

    def primitives(self) -> dict[str, Any]:
        """Nested dicts of primitives, as `read` takes them."""
        return asdict(self)


def build_options(kind: type[Part], where: str, options: Mapping[str, Any]) -> Part:
    """A dataclass from a mapping; `where` is the name of the options in messages."""
    types = {field.name: field.type for field in fields(kind)}  # type: ignore[arg-type]
    try:
        for name, value in options.items():
            if get_origin(types.get(name)) is Literal:
                require_choice(name, value, types[name])
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if types.get(name) is float and not is_number:
                raise InputError(f"{where}.{name}={value}: expected a number.")
        return kind(**options)
    except (AttributeError, TypeError) as error:
        raise InputError(f"{where} has missing or unknown options: {error}.") from error
