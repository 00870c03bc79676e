"""A JSON file of a run folder as a dataclass: what it holds, and the tables that show it."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from camreid import provenance
from camreid.runs.table import Table


class Record(provenance.Record):
    """The content of one JSON file."""

    file: ClassVar[str]

    def tables(self) -> list[Table]:
        """All tables; an error such as KeyError where a nested part is missing."""
        raise NotImplementedError

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """From what `to_json` gave; TypeError for other names."""
        return cls(**content)
