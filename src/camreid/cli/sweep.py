"""The table at the end of a sweep (`-m`): what differed, and how good it was."""

from pathlib import Path

import yaml

from camreid.cli.folder import ERROR
from camreid.runs.folder import RunFolder
from camreid.runs.table import Table, percent


def sweep_table(folder: Path) -> Table:
    """A row for each job below `folder`, best first; failed ones last, with their reason below."""
    files = sorted(folder.rglob(".hydra/overrides.yaml"))
    typed = {p.parents[1]: list(map(str, yaml.safe_load(p.read_text("utf-8")))) for p in files}
    common = set.intersection(*map(set, typed.values()))
    rows, notes = [], []
    for job, options in typed.items():
        run, name = RunFolder(job), str(job.relative_to(folder))
        val = max((value for _, value in run.curves.get("val/mAP", ())), default=None)
        test = run.metrics.retrieval["mAP"] if run.metrics else None
        cells = [percent(val), percent(test)]
        if (job / ERROR).is_file():
            notes.append(f"Job {name} failed: {(job / ERROR).read_text('utf-8').strip()}")
            cells = ["failed", "failed"]
        differs = " ".join(option for option in options if option not in common)
        rows.append(((val or -1, test or -1), [differs or "nothing", *cells, name]))
    rows.sort(key=lambda row: row[0], reverse=True)
    columns = ("what differs", "val mAP", "test mAP", "folder")
    return Table(f"Sweep {folder}, best first", columns, [cells for _, cells in rows], notes)
