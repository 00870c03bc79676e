"""Imports go downwards only, and each library has its place."""

import ast
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
    "importing": {"cli", "errors", "foreign", "labels", "model"},
    "checkpoints": {"errors", "importing", "labels", "model"},
    "callbacks": {"errors", "labels", "evaluation", "model"},
}
LIGHTNING = {"data/datamodule.py", "model/module.py", "callbacks.py"}
TORCH_ALONE = {
    "labels.py",
    "evaluation/expansion.py",
    "evaluation/joint.py",
    "evaluation/neighbours.py",
    "evaluation/ranking.py",
    "evaluation/reciprocal.py",
    "evaluation/rerank.py",
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
    if where(path) in TORCH_ALONE:
        outside = {"torch", "camreid", "collections", "dataclasses", "functools", "math", "typing"}
        assert roots <= outside
