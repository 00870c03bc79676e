"""Matrix folders without a training: each expert sees people through noise of its own."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from camreid.data import Records
from camreid.evaluation import FeatureTable, RankOptions
from camreid.evaluation.ensembles import combine, compare_spaces
from camreid.evaluation.matrix import Row, comparison
from tests.runs.report.runs import images

SPLIT = {"digest": "digest-of-the-matrix", "strategy": "OriginalSplit()"}


def write_matrix(
    folder: Path,
    records: Records,
    *,
    leaks: bool = False,
    controls: bool = False,
    noise: float = 1.0,
) -> Path:
    """A finished matrix of three experts; of those that leak, the first has seen three people."""
    seen = frozenset(sorted({r.pid for r in records.query})[:3] if leaks else [90001])
    tables = {
        f"c{n}": _table(records, n, noise, seen if n == 1 else frozenset([90001]))
        for n in (1, 2, 3)
    }
    rows = {name: _row(table, frozenset(table.notes["seen"])) for name, table in tables.items()}
    spaces = compare_spaces(tables)
    together = combine("concat", tables, {f"c{n}": n for n in (1, 2, 3)}, spaces, 0.5)
    rows["concat"] = _row(together, seen)
    if controls:
        joint = _table(records, 9, 0.5, seen)
        rows["joint"] = _row(joint, seen)
    kept = {**tables, **({"joint": joint} if controls else {})}
    (folder / "features").mkdir(parents=True)
    for name, table in kept.items():
        table.save(folder / "features" / f"{name}.safetensors")
    (folder / "matrix.json").write_text(json.dumps(_content(rows, spaces, controls)))
    (folder / "config.yaml").write_text("experts: x\ncombine: [concat, mean]\nevaluation: {}\n")
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text("- experts=x\n- +split=original\n")
    return folder


def _table(records: Records, number: int, noise: float, seen: frozenset[int]) -> FeatureTable:
    generator = torch.Generator().manual_seed(number)
    noise += 0.4 * number
    query, gallery = (images(part, noise, generator) for part in (records.query, records.gallery))
    notes = {
        "seen": sorted(seen), "split": SPLIT, "camera": number, "weights": f"runs/c{number}.ckpt",
    }  # fmt: skip
    return FeatureTable(query, gallery, notes)


def _row(table: FeatureTable, seen: frozenset[int]) -> Row:
    result, protocols = RankOptions().rank(table)
    return Row(result, table.query.cameras, seen, protocols)


def _content(rows: Mapping[str, Row], spaces: Any, controls: bool) -> dict[str, Any]:
    """As camreid-matrix writes it; what it holds is in `camreid.cli.matrix_run`."""
    said = {name: row.summary() for name, row in rows.items()}
    known = {"rows": 12, "coverage": 0.75}
    experts = {
        f"c{n}": {
            "checkpoint": f"runs/c{n}.ckpt", "camera": n, **known,
            "features": f"features/c{n}.safetensors", **said[f"c{n}"],
        }
        for n in (1, 2, 3)
    }  # fmt: skip
    content: dict[str, Any] = {
        "split": SPLIT,
        "evaluation": {"metric": "cosine"},
        "protocol": "cross-camera",
        "partial": False,
        "cameras": [int(camera) for camera in said["c1"]["by_camera"]],
        "experts": experts,
        "combinations": {"concat": said["concat"]},
        "origin": {"command": "camreid-matrix", "commit": "c0ffee", "versions": {"torch": "2.9"}},
        "notes": ["No expert is of camera 4."],
        "left_out": {"mean": "the features are <not> comparable", "image_camera": "nor here"},
        **comparison(rows, list(experts)),
        "spaces": {
            "experts": list(spaces.names), "images": spaces.images,
            "agreement": spaces.agreement.tolist(), "cka": spaces.cka.tolist(),
        },
    }  # fmt: skip
    if controls:
        own = {"features": "features/joint.safetensors", "images_seen": 12936}
        content["controls"] = {
            "joint": {"checkpoint": "j.ckpt", "camera": None, **known, **own, **said["joint"]}
        }
        for expert in experts.values():
            expert["images_seen"] = None
    return content
