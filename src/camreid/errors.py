"""Errors for bad input: what was found, what was expected, what to change."""

from typing import Any, get_args


class InputError(ValueError):
    """Bad input. The commands print its message and exit with a code that is not 0.

    Args:
        message: what was found and what was expected; it names arguments, not overrides.
        remedy: arguments with values that would work. The commands print them as overrides.

    >>> print(InputError("val_fraction=2: expected a share from 0 to below 1.", val_fraction=0.1))
    val_fraction=2: expected a share from 0 to below 1. Try val_fraction=0.1.
    """

    def __init__(self, message: str = "", **remedy: object) -> None:
        super().__init__(message)
        self.message, self.remedy = message, remedy

    def __str__(self) -> str:
        if not self.remedy:
            return self.message
        values = ", ".join(f"{name}={value}" for name, value in self.remedy.items())
        return f"{self.message} Try {values}."


class MissingDataset(InputError, FileNotFoundError):
    """No images were found at the given root."""


class CannotWrite(InputError, OSError):
    """A file could not be written whole; the one before it is kept."""


class ImageError(InputError):
    """An image cannot be read."""


class HeadMismatch(InputError):
    """A classifier head does not fit the identities of the split."""

    rows: int | None = None  # of a file's head, where its labels have another number


class PixelRangeError(InputError):
    """Pixels are not in the declared range."""


class NoValidQuery(InputError):
    """No query has a match in the gallery under the protocol."""


def require_whole(name: str, value: object, least: int, most: float = float("inf")) -> None:
    """Refuse what is not a whole number in `least`..`most`; `name` is the argument."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name}={value}: expected a whole number of at least {least}.")
    require_number(name, value, least, most)


def require_number(name: str, value: object, least: float, most: float = float("inf")) -> None:
    """Refuse what is not a number in `least`..`most`; `name` is the argument."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not least <= value <= most:  # type: ignore[operator]
        expected = f"in {least:g}..{most:g}" if most < float("inf") else f"of at least {least:g}"
        raise InputError(f"{name}={value}: expected a number {expected}.")


def require_choice(name: str, value: object, choices: Any) -> None:
    """Refuse a value that is not one of a Literal's; `name` is the argument."""
    if value not in get_args(choices):
        expected = ", ".join(map(str, get_args(choices)))
        raise InputError(f"{name}={value}: expected {expected}.", **{name: get_args(choices)[0]})
