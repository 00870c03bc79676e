"""Imports go downwards only, also inside functions, and each library has its place."""

import ast
from pathlib import Path

import pytest

import camreid

PACKAGE = Path(camreid.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# each may import the folders and modules of the lines below it, and its own
TIERS = (
    {"cli"},
    {"inference"},
    {"checkpoints"},
    {"training"},
    {"runs"},
    {"data", "models", "losses", "evaluation"},
    {"labels", "errors", "files", "progress", "provenance", "exported"},
)
TIER = {name: tier for tier, names in enumerate(TIERS) for name in names}
# library: the folders and files that may import it
HOMES = {
    "pytorch_lightning": ("training/", "data/datamodule.py", "cli/"),
    "lightning_fabric": ("training/", "data/datamodule.py", "cli/"),
    "hydra": ("cli/",),
    "omegaconf": ("cli/",),
    "rich": ("runs/", "cli/"),
    "jinja2": ("runs/", "cli/"),
    "matplotlib": ("runs/", "cli/"),
}


def where(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{a.name}" for a in node.names if node.module == "camreid"}
    return names


@pytest.mark.parametrize("path", [f for f in FILES if f.parent != PACKAGE], ids=where)
def test_imports_go_downwards(path: Path) -> None:
    own = where(path).split("/")[0]
    parts = {n.split(".")[1] for n in imported(path) if n.startswith("camreid.")} & TIER.keys()
    upwards = {part for part in parts if part != own and TIER[part] <= TIER[own]}
    assert not upwards


@pytest.mark.parametrize("path", FILES, ids=where)
def test_libraries_stay_in_their_place(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path)}
    for library, homes in HOMES.items():
        assert library not in roots or where(path).startswith(homes)
