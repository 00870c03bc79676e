"""camreid-evaluate: the numbers of a checkpoint on a split."""

import sys

import hydra
from omegaconf import DictConfig

from camreid.cli import CONF
from camreid.cli.arguments import read_arguments, require_split
from camreid.cli.errors import one_paragraph


@one_paragraph
def evaluate(config: DictConfig) -> None:
    """Rank query and gallery, and write the run folder."""
    require_split(config)
    from camreid.cli.run import evaluate_run  # torch only now, so that --help is quick

    evaluate_run(config)


def main() -> None:
    """The console script."""
    sys.argv[1:] = read_arguments(sys.argv[1:])
    hydra.main(config_path=CONF, config_name="evaluate", version_base="1.3")(evaluate)()


if __name__ == "__main__":
    main()
