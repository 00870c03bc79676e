"""Files that are there whole, or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all, its folder made where it is missing.

    Args:
        path: the file; what was there is replaced.
        content: primitives by name.

    Raises:
        ValueError: a number that JSON does not have, such as NaN.
    """
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.part")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
