"""camreid-train: split, model, data, fit, test."""

from omegaconf import DictConfig

from camreid.cli.arguments import read_arguments, require_split
from camreid.cli.errors import launch


def train(config: DictConfig) -> None:
    """Train or fine-tune, test, and write the run folder."""
    require_split(config)
    from camreid.cli.run import train_run  # torch only now, so that --help is quick

    train_run(config)


def main() -> None:
    """The console script."""
    read_arguments("camreid-train")
    launch("camreid-train", "train", train)


if __name__ == "__main__":
    main()
