"""Imports go downwards only, and each library has its place."""

import ast
import sys
from pathlib import Path

import pytest

import camreid

PACKAGE = Path(camreid.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# who may import whom, by the first folder or module below the package
ABOVE = {
    "errors": set(),
    "names": set(),
    "labels": set(),
    "data": {"errors", "names", "labels", "data"},
    "evaluation": {"errors", "labels", "evaluation"},
    "model": {"errors", "names", "labels", "evaluation", "model"},
    "foreign": {"model"},
    # the names of models are those of their configs, which the commands read
    "importing": {"architectures", "cli", "errors", "foreign", "labels", "model"},
    "architectures": {"cli", "foreign", "model"},
    "checkpoints": {"errors", "importing", "labels", "model"},
    "freezing": {"errors", "model"},
    "callbacks": {"errors", "freezing", "labels", "evaluation", "model"},
    "distilling": {"checkpoints", "errors", "labels", "model"},
    "extractor": {"checkpoints", "data", "errors", "model"},
    "soups": {"checkpoints", "errors", "labels", "model"},
    "parity": {"errors"},
    "comparing": {"errors", "evaluation", "comparing"},
    "exporting": {"errors", "model", "parity"},
    "reporting": {"checkpoints", "comparing", "errors", "evaluation", "reporting"},
}
LIGHTNING = {
    "data/datamodule.py",
    "model/module.py",
    "model/testing.py",
    "callbacks.py",
    "freezing.py",
}
NOT_TORCH_ALONE = {
    f"evaluation/{name}.py" for name in ("metric", "report", "features", "matrix_tables")
}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def where(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", FILES, ids=where)
def test_layers(path: Path) -> None:
    part = where(path).split("/")[0].removesuffix(".py")
    names = imported(path)
    roots = {name.split(".")[0] for name in names}
    if part in ABOVE:
        own = {name.split(".")[1] for name in names if name.startswith("camreid.")}
        assert own <= ABOVE[part]
        assert not roots & {"hydra", "omegaconf"}
        assert "pytorch_lightning" not in roots or where(path) in LIGHTNING
    if (part == "evaluation" or part == "labels") and where(path) not in NOT_TORCH_ALONE:
        outside = roots - set(sys.stdlib_module_names)
        assert outside <= {"torch", "camreid"}
