"""camreid-data: what is wrong with a dataset, its contact sheet, and its manifests."""

import json
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from camreid.cli._entry import begin, read_arguments
from camreid.cli.errors import leaves, one_paragraph, paragraph
from camreid.cli.options import check_values, known_options
from camreid.errors import InputError
from camreid.files import CONF, write_whole
from camreid.runs.table import Table

Rows = list[dict[str, Any]]
_EXAMPLES = """\
  camreid-data check data.root=FOLDER               lists faults; exit code 1 if there are any
  camreid-data show data=csv data.path=FILE         draws 20 identities by camera: sheet.png
  camreid-data split +split=resplit split.seed=1    writes a manifest: split.csv
"""


def parser() -> ArgumentParser:
    """The arguments."""
    form = RawDescriptionHelpFormatter
    found = ArgumentParser("camreid-data", epilog=_EXAMPLES, formatter_class=form)
    found.add_argument("action", choices=("check", "show", "split"))
    found.add_argument("options", nargs="*", metavar="KEY=VALUE", help="as of camreid-train")
    found.add_argument("-o", "--output", metavar="FILE", type=Path, help="of show or split")
    found.add_argument("--json", action="store_true", help="print JSON")
    return found


def main() -> None:
    """The console script."""
    with one_paragraph("camreid-data"):
        read_arguments("camreid-data")
        typed = parser().parse_intermixed_args()
        with (
            redirect_stdout(sys.stderr if typed.json else sys.stdout),
            initialize_config_dir(str(CONF), version_base="1.3"),
        ):
            rows = _run(typed.action, typed.options, typed.output)
        cells = [
            ["\n".join(c) if isinstance(c, tuple) else str(c) for c in row.values()] for row in rows
        ]
        print(json.dumps(rows, indent=1)) if typed.json else Table("", [*rows[0]], cells).show()
        raise SystemExit(any(row.get("is_fault") for row in rows))


def _run(action: str, options: list[str], output: Path | None) -> Rows:
    config = compose("train", options)
    try:
        known = {
            k: v
            for k, v in known_options("train", options).items()
            if k.startswith(("data.", action))
        }
        given = dict(leaves(OmegaConf.to_container(config)))
        check_values(given, known, [text.partition("=")[0] for text in options])
        if action == "check":
            return _check(config)
        path = output or Path("split.csv" if action == "split" else "sheet.png")
        if path.exists():
            raise InputError(f"-o {path} is there already: expected another name.")
        return (_split if action == "split" else _show)(config, path)
    except Exception as error:
        if (message := paragraph(error, config)) is None:
            raise
        raise InputError(message) from None


def _check(config: DictConfig) -> Rows:
    dataset = begin("camreid.cli.dataset")  # torch only now: --help is quick
    from camreid.data import inspection, layouts

    root, refused = Path(dataset.data_root(config.data)), []
    try:
        records = dataset.read_dataset(config.data)
    except Exception as error:  # Hydra wraps it
        cause = error.__cause__
        if not isinstance(cause, InputError) or cause.read is None:
            raise
        records, refused = cause.read, [inspection.Finding(cause.message, 1)]
    name = config.data.read._target_.split("read_")[-1]
    place = layouts.find(root, name) if name in layouts.SIZES else (root,)
    return [asdict(finding) for finding in (*refused, *inspection.inspect(records, *place))]


def _show(config: DictConfig, path: Path) -> Rows:
    records = begin("camreid.cli.dataset").read_dataset(config.data)
    from camreid.data.inspection import contact_sheet

    images = (*records.train, *records.val, *records.query, *records.gallery)
    write_whole(path, lambda draft: contact_sheet(images, 20).save(draft, "PNG"))
    return [{"written": str(path), "images": len(images)}]


def _split(config: DictConfig, path: Path) -> Rows:
    split = begin("camreid.cli.build").build_split(config)
    split.save(path)
    rows = []
    for subset in ("train", "val", "query", "gallery"):
        images, matched = getattr(split, subset), split.rankable.get(subset, "")
        pids, cameras = len({r.pid for r in images}), len({r.camera for r in images})
        counts = {"images": len(images), "identities": pids, "cameras": cameras, "matched": matched}
        rows.append({"subset": subset, **counts})
    return rows
