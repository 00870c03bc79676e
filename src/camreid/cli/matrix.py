"""camreid-matrix: several experts on every camera, alone and together."""

from omegaconf import DictConfig

from camreid.cli.arguments import read_arguments, require_split
from camreid.cli.errors import launch


def matrix(config: DictConfig) -> None:
    """Test every expert, put them together, and write the run folder."""
    require_split(config)
    from camreid.cli.matrix_run import matrix_run  # torch only now, so that --help is quick

    matrix_run(config)


def main() -> None:
    """The console script."""
    read_arguments("camreid-matrix")
    launch("camreid-matrix", "matrix", matrix)


if __name__ == "__main__":
    main()
