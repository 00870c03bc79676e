"""camreid-train: split, model, data, fit, test."""

import sys

import hydra
from omegaconf import DictConfig

from camreid.cli import CONF
from camreid.cli.arguments import read_arguments, require_split
from camreid.cli.errors import one_paragraph


@one_paragraph
def train(config: DictConfig) -> None:
    """Train or fine-tune, test, and write the run folder."""
    require_split(config)
    from camreid.cli.run import train_run  # torch only now, so that --help is quick

    train_run(config)


def main() -> None:
    """The console script."""
    sys.argv[1:] = read_arguments(sys.argv[1:])
    hydra.main(config_path=CONF, config_name="train", version_base="1.3")(train)()


if __name__ == "__main__":
    main()
