"""camreid-import: a foreign file as a checkpoint, with the account of its keys."""

from omegaconf import DictConfig

from camreid.cli.arguments import read_arguments
from camreid.cli.errors import launch


def run(config: DictConfig) -> None:
    """Import, check the rows where images are at hand, and write the checkpoint."""
    from camreid.cli.importer import import_run  # torch only now, so that --help is quick

    import_run(config)


def main() -> None:
    """The console script."""
    read_arguments("camreid-import")
    launch("camreid-import", "import", run)


if __name__ == "__main__":
    main()
