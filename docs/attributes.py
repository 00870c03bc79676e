"""The comment beside a field of a dataclass as its description in the reference."""

from typing import Any

import griffe


class FieldComments(griffe.Extension):
    """Reads `# ...` behind a field, or on the lines above it."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Describe a field without a docstring."""
        is_field = isinstance(attr.parent, griffe.Class) and not attr.is_private
        if not is_field or attr.docstring or attr.lineno is None:
            return
        lines = attr.lines_collection[attr.filepath]
        text = lines[attr.lineno - 1].partition("  # ")[2]
        place = attr.lineno - 2
        while lines[place].strip().startswith("# "):
            text, place = f"{lines[place].strip()[2:]} {text}", place - 1
        if text:
            attr.docstring = griffe.Docstring(text.strip(), parent=attr)
