"""The commands. Only this package imports Hydra."""

import sys
from typing import Any


def _on_error(kind: type[BaseException], *error: Any) -> None:
    """Print one line for Ctrl-C while a command is imported."""
    if issubclass(kind, KeyboardInterrupt):
        print("camreid: interrupted.", file=sys.stderr)
    else:
        sys.__excepthook__(kind, *error)


sys.excepthook = _on_error
