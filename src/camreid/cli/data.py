"""camreid-data: what is wrong with a dataset, its contact sheet, and its manifests."""

import argparse
import json
import sys
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
  camreid-data check data.root=FOLDER                   exit code 1 if anything is wrong
  camreid-data show data=csv data.path=FILE -o sheet.png
  camreid-data split +split=resplit split.seed=1 -o split.csv
"""


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    form = argparse.RawDescriptionHelpFormatter
    found = argparse.ArgumentParser("camreid-data", epilog=_EXAMPLES, formatter_class=form)
    about = "list what is wrong, draw 20 identities by camera, or write a manifest"
    found.add_argument("action", choices=("check", "show", "split"), help=about)
    about = "options of camreid-train: data=NAME, data.root=FOLDER, +split=NAME and others"
    found.add_argument("options", nargs="*", metavar="KEY=VALUE", help=about)
    about = "the new file of show or split; sheet.png or split.csv if not given"
    found.add_argument("-o", "--output", metavar="FILE", type=Path, help=about)
    found.add_argument("--json", action="store_true", help="print JSON")
    return found


def main() -> None:
    """The console script."""
    with one_paragraph("camreid-data"):
        read_arguments("camreid-data")
        typed = parser().parse_intermixed_args()
        output = typed.output or Path("split.csv" if typed.action == "split" else "sheet.png")
        if typed.action != "check" and output.exists():
            raise InputError(f"-o {output} is there already: expected another name.")
        with (
            redirect_stdout(sys.stderr if typed.json else sys.stdout),
            initialize_config_dir(str(CONF), version_base="1.3"),
        ):
            rows = _run(typed.action, typed.options, output)
        if typed.json:
            print(json.dumps(rows, indent=1))
        else:
            cells = [
                ["\n".join(v) if isinstance(v, tuple) else str(v) for v in row.values()]
                for row in rows
            ]
            Table(f"camreid-data {typed.action}", [*rows[0]], cells).show()
        raise SystemExit(any(row.get("is_fault") for row in rows))


def _run(action: str, options: list[str], output: Path) -> Rows:
    config = compose("train", options)
    known = known_options("train", options)
    known = {name: known[name] for name in known if name.startswith(("data.", action))}
    try:
        given = dict(leaves(OmegaConf.to_container(config)))
        check_values(given, known, [text.partition("=")[0] for text in options])
        return {"check": _check, "show": _show, "split": _split}[action](config, output)
    except Exception as error:
        if (message := paragraph(error, config)) is None:
            raise
        raise InputError(message) from None


def _check(config: DictConfig, _: Path) -> Rows:
    dataset = begin("camreid.cli.dataset")  # torch only now: --help is quick
    from camreid.data import inspection, layouts

    root, name = Path(dataset.data_root(config.data)), config.data.read._target_.split("read_")[-1]
    refused = []
    try:
        records = dataset.read_dataset(config.data)
    except Exception as error:  # Hydra wraps it
        cause = error.__cause__
        if not isinstance(cause, InputError) or cause.read is None:
            raise
        records, refused = cause.read, [inspection.Finding(cause.message, 1)]
    place = (
        layouts.find(root, name) if name in layouts.SIZES else (root if root.is_dir() else None,)
    )
    return [asdict(finding) for finding in (*refused, *inspection.inspect(records, *place))]


def _show(config: DictConfig, output: Path) -> Rows:
    records = begin("camreid.cli.dataset").read_dataset(config.data)
    from camreid.data.sheet import contact_sheet

    every = (*records.train, *records.val, *records.query, *records.gallery)
    write_whole(output, lambda draft: contact_sheet(every, 20).save(draft, "PNG"))
    return [{"written": str(output), "images": len(every)}]


def _split(config: DictConfig, output: Path) -> Rows:
    split = begin("camreid.cli.build").build_split(config)
    split.save(output)
    return [
        {
            "subset": subset,
            "images": len(images := getattr(split, subset)),
            "identities": len({r.pid for r in images if r.pid > 0}),
            "cameras": len({r.camera for r in images}),
            "with a match": split.rankable.get(subset, ""),
        }
        for subset in ("train", "val", "query", "gallery")
    ]
