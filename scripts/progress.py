"""One line for each training: how far it is, in a terminal; its start and its end, elsewhere."""

import csv
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import yaml
from rich.console import Console
from rich.live import Live
from rich.table import Table

EVERY = 1.0  # seconds between looks at a run folder


class Lines:
    """What is said of each training.

    Args:
        folder: of the run folders.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: dict[str, str] = {}
        self.live = Live(console=Console(), auto_refresh=False) if sys.stdout.isatty() else None
        self.looked = 0.0

    def __enter__(self) -> "Lines":
        if self.live:
            self.live.__enter__()
            self._show()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.live:
            self.live.__exit__(kind, error, trace)
            self.live = None  # what comes now is printed

    def say(self, name: str, text: str) -> None:
        """Change a line, or print one."""
        self.said[name] = text
        if self.live and self.live.is_started:
            self._show()
        else:
            print(f"{time.strftime('%H:%M:%S')} {name} {text}", flush=True)

    def look(self, running: Sequence[str]) -> None:
        """How far the trainings are, in a terminal."""
        if self.live is None or time.monotonic() < self.looked + EVERY:
            return
        self.looked = time.monotonic()
        for name in running:
            start = self.said[name].partition(";")[0]
            self.said[name] = f"{start}; {how_far(self.folder / name)}"
        self._show()

    def _show(self) -> None:
        table = Table.grid(padding=(0, 1))
        for name, text in self.said.items():
            table.add_row(name, text)
        if self.live:
            self.live.update(table, refresh=True)


def how_far(run: Path) -> str:
    """Epochs done, of how many, and the last validation, as a run folder says."""
    try:
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        done = [int(row["epoch"]) + 1 for row in rows if row.get("train/loss")]
        told = f"epoch {max(done, default=0)} of {config['trainer']['max_epochs']}"
        val = [row["val/mAP"] for row in rows if row.get("val/mAP")]
        return told + (f", val mAP {100 * float(val[-1]):.1f} %" if val else "")
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return "starting"  # or half-written
