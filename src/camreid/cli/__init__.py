"""The commands. Only this package imports Hydra."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
# beside the package in a wheel, at the top of a checkout
CONF = str(next(p for p in (_PACKAGE / "conf", _PACKAGE.parents[1] / "conf") if p.is_dir()))
