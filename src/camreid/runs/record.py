"""A JSON file of a run folder as a dataclass: what it holds, and the tables that show it."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar, Self

from camreid.runs.table import Table


class Record:
    """The content of one JSON file; NaN is written as null."""

    file: ClassVar[str]

    def tables(self) -> list[Table]:
        """All tables; an error such as KeyError where a nested part is missing."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Nested plain values; NaN becomes None."""
        return dict(plain(asdict(self)))  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """From what `to_json` gave; TypeError for other names."""
        return cls(**content)


def plain(value: Any) -> Any:
    """Nested dicts and lists with None for NaN, which JSON does not have."""
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
