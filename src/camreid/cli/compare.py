"""camreid-compare: which of several runs or checkpoints is better."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from camreid.cli._entry import begin, check
from camreid.cli.errors import launch, one_paragraph
from camreid.cli.report import check_output, parser, require_existing
from camreid.errors import InputError
from camreid.files import write_text
from camreid.progress import note


def main() -> None:
    """The console script."""
    with one_paragraph("camreid-compare"):
        typed = parser("compare").parse_intermixed_args()
        if typed.output:
            check_output("camreid-compare", typed.output, ".json", ".csv", ".md", ".tex")
        options = [part for part in typed.runs if "=" in part and not Path(part).exists()]
        paths = [p for p in typed.runs if p not in options and Path(p).name != "multirun.yaml"]
        require_existing(paths)
        finish = partial(_report, typed.output)
        if not any(path.endswith(".ckpt") or Path(path).is_file() for path in paths):
            if options:
                raise InputError(f"{options[0]} tests checkpoints, and none is named.")
            finish(paths)
            return
        command, sys.argv[1:] = sys.argv[1:], options  # for Hydra

        def run(config: DictConfig) -> None:
            check("compare", config)
            begin("camreid.cli.evaluate").compare_checkpoints(paths, command, finish, config)

        launch("camreid-compare", "compare", run)


def _report(output: Path | None, paths: Sequence[str | Path], names: Sequence[str] = ()) -> None:
    compare = begin("camreid.runs.compare")  # torch only now: --help is quick
    from camreid.cli.terminal import show

    note(f"Comparing {', '.join(names or map(str, paths))}")
    found = compare.compare_runs(paths, names)
    show(*found.tables(), "", *found.warnings, *(pair.verdict for pair in found.pairs))
    if output:
        write_text(output, _content(found, output.suffix))
        print(f"Written to {output}")


def _content(found: Any, suffix: str) -> str:
    """The comparison for a file; .csv and .tex have the scores alone."""
    if suffix == ".json":
        return json.dumps(found.to_json(), indent=1)
    verdicts = [*found.warnings, *(pair.verdict for pair in found.pairs)]
    if suffix == ".md":
        tables = (f"**{table.title}**\n\n{table.text(suffix)}" for table in found.tables())
        return "\n\n".join(["# camreid-compare", *verdicts, *tables])
    table = replace(found.scores, columns=("camreid-compare", *found.scores.columns[1:]))
    comments = [f"% {line}\n" for line in verdicts] if suffix == ".tex" else []
    return "".join([*comments, table.text(suffix)])
