"""Forms of the content of a file: what a reader of it relies on, checked in one place."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

# called with a value and where it stands; raises FormError
Form = Callable[[Any, str], None]


class FormError(ValueError):
    """A value that is not what a run writes there."""


def _of(words: str, *kinds: type) -> Form:
    def form(value: Any, where: str) -> None:
        # of Python's numbers, True is one
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise FormError(f"{where or 'it'} is {_shown(value)}, expected {words}")

    return form


def _shown(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__}"


number = _of("a number", int, float)
whole = _of("a whole number", int)
text = _of("text", str)
truth = _of("true or false", bool)
_mapping = _of("values by name", dict)
_list = _of("a list", list)


def maybe(form: Form) -> Form:
    """What has this form, or is null."""
    return lambda value, where: None if value is None else form(value, where)


def many(form: Form) -> Form:
    """A list of what has this form."""

    def every(value: Any, where: str) -> None:
        _list(value, where)
        for place, part in enumerate(value):
            form(part, f"{where}[{place}]")

    return every


def each(form: Form) -> Form:
    """By any name, what has this form."""

    def every(value: Any, where: str) -> None:
        _mapping(value, where)
        for name, part in value.items():
            form(part, f"{where}.{name}".lstrip("."))

    return every


def having(needed: Mapping[str, Form], known: Mapping[str, Form] | None = None) -> Form:
    """An object with some names; other names may be there too, and mean nothing.

    Args:
        needed: forms by name.
        known: of what may be absent, or null.

    >>> having({"mAP": number})({"mAP": "high"}, "retrieval")
    Traceback (most recent call last):
    camreid.runs.comparing.forms.FormError: retrieval.mAP is a str, expected a number
    """
    absent = {name: maybe(form) for name, form in (known or {}).items()}

    def form(value: Any, where: str) -> None:
        _mapping(value, where)
        missing = needed.keys() - value.keys()
        if missing:
            raise FormError(f"{where or 'it'} lacks {', '.join(sorted(missing))}")
        for name, of_name in {**absent, **needed}.items():
            if name in value:
                of_name(value[name], f"{where}.{name}".lstrip("."))

    return form


def square(names: str, rows: Iterable[str], of: Form) -> Form:
    """An object with a list of names, and by other names a number or null of each two of them."""
    form = having({names: many(of), **{row: many(many(maybe(number))) for row in rows}})

    def checked(value: Any, where: str) -> None:
        form(value, where)
        size = len(value[names])
        for row in rows:
            if {len(value[row]), *map(len, value[row])} - {size}:
                raise FormError(f"{where}.{row} is not {size} x {size}, as its {names} are")

    return checked


def ends(value: Any, where: str) -> None:
    """The two ends of an interval, or of none."""
    many(maybe(number))(value, where)
    if len(value) != 2:
        raise FormError(f"{where} has {len(value)} values, expected 2")
