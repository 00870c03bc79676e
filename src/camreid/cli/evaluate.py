"""camreid-evaluate: the numbers of a checkpoint on a split."""

from omegaconf import DictConfig

from camreid.cli.arguments import read_arguments, require_split
from camreid.cli.errors import launch


def evaluate(config: DictConfig) -> None:
    """Rank query and gallery, and write the run folder."""
    if config.features is None:
        require_split(config)
    from camreid.cli.testing import evaluate_run  # torch only now, so that --help is quick

    evaluate_run(config)


def main() -> None:
    """The console script."""
    read_arguments("camreid-evaluate")
    launch("camreid-evaluate", "evaluate", evaluate)


if __name__ == "__main__":
    main()
