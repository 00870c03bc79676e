"""Parts of a user's own, named by a dotted `_target_`."""

import inspect
import pkgutil
from collections.abc import Callable, Collection, Mapping
from typing import Any

from camreid.errors import InputError


def find(target: object, kind: Any) -> Callable[..., Any]:
    """The class of a dotted name; InputError if there is none, or if it is no `kind`."""
    try:
        found = pkgutil.resolve_name(str(target))
    except (ImportError, AttributeError, ValueError) as error:
        remedy = "A file MODULE.py of your own needs its folder in PYTHONPATH."
        raise InputError(f"_target_={target} can't be imported: {error}. {remedy}") from error
    if not (isinstance(found, type) and issubclass(found, kind)):
        name = f"{kind.__module__.rpartition('.')[0]}.{kind.__name__}"
        raise InputError(f"_target_={target} is no {name}; expected the name of a class that is.")
    return found


def applying(options: Mapping[str, Any], usual: Collection[str], kind: Any) -> dict[str, Any]:
    """The options of a `_target_` but for `usual` ones that its class does not take."""
    parameters = inspect.signature(find(options.get("_target_"), kind)).parameters.values()
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    left_out = () if takes_all else {*usual}.difference(p.name for p in parameters)
    return {name: value for name, value in options.items() if name not in left_out}


def make(kind: Any, options: Mapping[str, Any], *given: Any, **more: Any) -> Any:
    """An object of the class `_target_`, a `kind`, made with `given`, `more` and the options."""
    own = {name: value for name, value in options.items() if name != "_target_"} | more
    found = find(options.get("_target_"), kind)
    try:
        inspect.signature(found).bind(*given, **own)
    except TypeError as error:
        raise InputError(f"_target_={options['_target_']} has other options: {error}.") from error
    return found(*given, **own)
