"""camreid-export: a checkpoint as an ONNX file, checked against PyTorch."""

from omegaconf import DictConfig

from camreid.cli.arguments import read_arguments
from camreid.cli.errors import launch


def run(config: DictConfig) -> None:
    """Export, compare, and say how close the two are."""
    from camreid.cli.exporter import export_run  # torch only now, so that --help is quick

    export_run(config)


def main() -> None:
    """The console script."""
    read_arguments("camreid-export")
    launch("camreid-export", "export", run)


if __name__ == "__main__":
    main()
