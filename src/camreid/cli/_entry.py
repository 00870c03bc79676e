"""Console scripts that go through Hydra; torch is imported once the arguments are read."""

from importlib import import_module

from omegaconf import DictConfig

from camreid.cli.arguments import read_arguments, require_split
from camreid.cli.errors import launch


def train() -> None:
    """`camreid-train`."""
    _start("train", "train:train_run")


def evaluate() -> None:
    """`camreid-evaluate`."""
    _start("evaluate", "evaluate:evaluate_run")


def import_weights() -> None:
    """`camreid-import`."""
    _start("import", "import_weights:import_run")


def export() -> None:
    """`camreid-export`."""
    _start("export", "export:export_run")


def matrix() -> None:
    """`camreid-matrix`."""
    _start("matrix", "matrix:matrix_run")


def _start(command: str, place: str) -> None:
    module, _, function = place.partition(":")

    def run(config: DictConfig) -> None:
        if command in ("train", "evaluate", "matrix") and config.get("features") is None:
            require_split(config)
        getattr(import_module(f"camreid.cli.{module}"), function)(config)

    read_arguments(f"camreid-{command}")
    launch(f"camreid-{command}", command, run)
