"""camreid-data: what is wrong with a dataset, its contact sheet, and its manifests."""

import json
import sys
from collections import defaultdict
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from camreid.cli._entry import begin, read_arguments
from camreid.cli.errors import one_paragraph, paragraph
from camreid.cli.options import check_options
from camreid.cli.report import parser
from camreid.errors import InputError
from camreid.files import CONF, write_whole
from camreid.progress import printable
from camreid.runs.table import Table


def main() -> None:
    """The console script."""
    with one_paragraph("camreid-data"), initialize_config_dir(str(CONF), version_base="1.3"):
        read_arguments("camreid-data")
        typed = parser("data").parse_intermixed_args()
        path = typed.output or Path("split.csv" if typed.action == "split" else "sheet.png")
        if typed.action != "check" and path.exists():
            raise InputError(f"-o {path} is there already: expected another name.")
        config = compose("train", typed.options)
        check_options("train", config, typed.options, needs_split=typed.action == "split")
        try:
            with redirect_stdout(sys.stderr if typed.json else sys.stdout):
                rows = {"check": _check, "show": _show, "split": _split}[typed.action](config, path)
        except Exception as error:
            if (message := paragraph(error, config)) is None:
                raise
            if not typed.json or typed.action != "check":
                raise InputError(message) from None
            rows = [{"what": message, "count": 1, "examples": [], "is_fault": True}]
        if typed.json:
            print(json.dumps(rows, indent=1))
        elif typed.action == "check":
            for row in rows:
                kind = "fault" if row["is_fault"] else "note"
                lines = [f"{kind:5}{row['count']:9,}  {row['what']}", *row["examples"]]
                print("\n    ".join(printable(line.replace("\n", r"\n")) for line in lines))
        else:
            Table("", [*rows[0]], [[*map(str, row.values())] for row in rows]).show()
        raise SystemExit(int(any(row.get("is_fault") for row in rows)))


def _check(config: DictConfig, _: Path) -> list[dict[str, Any]]:
    dataset = begin("camreid.cli.dataset")  # torch only now: --help is quick
    from camreid.data import inspection, layouts

    root, name = dataset.data_root(config.data), config.data.read._target_.split("read_")[-1]
    absolute = Path(root).expanduser().absolute()
    home, layout = layouts.find(root, name) if name in layouts.SIZES else (absolute, None)
    scanned = layouts.scan(home, layout)[0] if layout and name != "msmt17" else None
    records = scanned or dataset.read_dataset(config.data)
    return [asdict(finding) for finding in inspection.inspect(records, home, layout)]


def _show(config: DictConfig, path: Path) -> list[dict[str, Any]]:
    """The first image of 20 identities (rows) by camera (columns), and the numbers of images."""
    records = begin("camreid.cli.dataset").read_dataset(config.data)
    import torch
    from torchvision.transforms.v2.functional import to_pil_image
    from torchvision.utils import make_grid

    from camreid.data.dataset import read_image

    paths = defaultdict(list)
    for r in (*records.train, *records.val, *records.query, *records.gallery):
        paths[r.pid, r.camera].append(r.path)
    blank, cameras = torch.full((3, 128, 64), 255).byte(), sorted({camera for _, camera in paths})
    pids = sorted({pid for pid, _ in paths if pid > 0})[:20]
    cells = [paths[pid, camera] for pid in pids for camera in cameras]
    images = [read_image(min(cell), (128, 64)) if cell else blank for cell in cells]
    sheet = to_pil_image(make_grid(images, len(cameras)))
    write_whole(path, lambda draft: sheet.save(draft, "PNG"))
    names = {pid: name for name, pid in records.datasets[0].identities.items()}
    return [{"pid": names.get(p, p), **{f"c{c}": len(paths[p, c]) for c in cameras}} for p in pids]


def _split(config: DictConfig, path: Path) -> list[dict[str, Any]]:
    split = begin("camreid.cli.build").build_split(config)
    split.save(path)
    rows = []
    for subset in ("train", "val", "query", "gallery"):
        images, matched = getattr(split, subset), split.rankable.get(subset, "")
        pids, cameras = len({r.pid for r in images}), len({r.camera for r in images})
        counts = {"images": len(images), "identities": pids, "cameras": cameras, "matched": matched}
        rows.append({"subset": subset, **counts})
    return rows
