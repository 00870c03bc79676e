"""What differs between configs."""

from collections.abc import Mapping, Sequence
from typing import Any

ABSENT = "(not set)"


def differing(configs: Sequence[Mapping[str, Any]], above: str = "") -> dict[str, list[Any]]:
    """The options in which configs differ, by dotted key, with the value of each config.

    Where only some have a group under a key, the group is one value. Where a logger writes to
    (`save_dir`) is the folder of the run, and no option.

    >>> differing([{"seed": 0, "split": {"by": "image"}}, {"seed": 0, "split": {"camera": 3}}])
    {'split.by': ['image', '(not set)'], 'split.camera': ['(not set)', 3]}
    """
    found: dict[str, list[Any]] = {}
    for key in dict.fromkeys(key for config in configs for key in config if key != "save_dir"):
        values = [config.get(key, ABSENT) for config in configs]
        if all(isinstance(value, Mapping) for value in values):
            found.update(differing(values, f"{above}{key}."))
        elif any(value != values[0] for value in values):
            found[f"{above}{key}"] = values
    return found


def as_typed(value: Any) -> str:
    """A value in a few words.

    >>> as_typed(None), as_typed(True), as_typed([1, 2]), as_typed({"lr": 1, "name": "adam"})
    ('null', 'true', '[1,2]', 'adam (2 options)')
    """
    if isinstance(value, Mapping):
        return f"{value.get('name', '')} ({len(value)} options)".strip()
    if isinstance(value, list):
        return f"[{','.join(map(as_typed, value))}]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)
