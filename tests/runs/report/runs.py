"""Run folders without a training: features drawn at random around each identity."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from camreid.data import ImageRecord, Records
from camreid.evaluation import FeatureTable, Images, RankOptions
from camreid.evaluation.matrix import Row, comparison
from camreid.evaluation.summary import EvaluationResult
from camreid.runs.folder import Matrix, RunFolder, plain

HEAD = {
    "head": "identity", "rows": 12, "dim": 16, "identities": 12, "shared": 9,
    "unknown": 3, "coverage": 0.75, "image_coverage": 0.8,
}  # fmt: skip
ORIGIN = {"command": "camreid-train +split=<x>", "commit": "c0ffee", "versions": {"torch": "2.9"}}
SPLIT = {"kind": "original", "options": {}, "digest": "digest-of-the-split"}


def images(records: Sequence[ImageRecord], noise: float, generator: torch.Generator) -> Images:
    centres = torch.randn(2000, 16, generator=torch.Generator().manual_seed(1))
    pids = torch.tensor([r.pid for r in records])
    drawn = torch.randn(len(pids), 16, generator=generator)
    return Images(
        features=centres[pids] + noise * drawn,
        pids=pids,
        cameras=torch.tensor([r.camera for r in records]),
        sequences=torch.tensor([r.sequence for r in records]),
        paths=tuple(str(r.path) for r in records),
    )


def features(records: Records, noise: float, queries: int = 1000, seed: int = 0) -> FeatureTable:
    """Features of a test; its checkpoint was trained on the first three query identities."""
    generator = torch.Generator().manual_seed(seed)
    query = images(records.query[:queries], noise, generator)
    seen = sorted({r.pid for r in records.query})[:3]
    return FeatureTable(query, images(records.gallery, noise, generator), {"seen": seen})


def two_cameras(table: FeatureTable) -> FeatureTable:
    """The same with cameras merged, so that there are matches within a camera."""
    query, gallery = (
        replace(part, cameras=part.cameras % 2) for part in (table.query, table.gallery)
    )
    return replace(table, query=query, gallery=gallery)


def write_run(folder: Path, records: Records, *, noise: float = 1.5, queries: int = 1000) -> Path:
    """A finished run but for its checkpoint."""
    table = features(records, noise, queries)
    result, protocols = RankOptions().rank(table)
    summary = EvaluationResult(
        result, frozenset(table.notes["seen"]), protocols=protocols
    ).summary()
    (folder / ".hydra").mkdir(parents=True)
    table.save(folder / "features.safetensors")
    evaluation = {"metric": "cosine", "protocol": "cross-camera", "save_features": True}
    write_json(
        folder / "metrics.json",
        {
            "split": SPLIT, "weights": None, "partial": False, "evaluation": evaluation,
            "origin": ORIGIN, "seen_complete": True, **summary,
        },
    )  # fmt: skip
    write_json(folder / "head_check.json", {"unknown": "skip", "heads": [HEAD], "faults": []})
    lines = [f",{e + 1}e-4,{e * 5},,,\n{e},,{e * 5},{4 - e / 2},{e / 10},\n" for e in range(4)]
    header = "epoch,lr,step,train/loss,val/mAP,test/mAP\n"
    (folder / "metrics.csv").write_text(header + "".join(lines) + "3,,20,,,0.5\n")
    (folder / "config.yaml").write_text("model:\n  name: <tiny>\n")
    (folder / ".hydra" / "overrides.yaml").write_text("- +split=original\n- model=small\n")
    return folder


def write_matrix(folder: Path, records: Records) -> Path:
    """A finished matrix of two experts."""
    folder.mkdir(parents=True)
    tables = {f"c{n}": features(records, noise=1 + 0.4 * n, seed=n) for n in (1, 2)}
    rows = {
        name: Row(RankOptions().rank(t)[0], t.query.cameras, frozenset(t.notes["seen"]))
        for name, t in tables.items()
    }
    about = {"checkpoint": "c.ckpt", "rows": 12, "coverage": 0.75}
    content = {
        "experts": {name: {**about, **row.summary()} for name, row in rows.items()},
        "baselines": {}, "fusions": {}, "protocol": "cross-camera", "split": SPLIT,
        "cameras": rows["c1"].query_cameras.unique().tolist(), "origin": ORIGIN,
        "evaluation": {"metric": "cosine"}, "notes": ["No expert is of camera 4."],
        "left_out": {"mean": "the <features> differ"}, **comparison(rows, list(rows)),
    }  # fmt: skip
    RunFolder(folder).write(Matrix.from_json(plain(content)))
    return folder


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))


def change(folder: Path, **numbers: object) -> None:
    """Replace values of `metrics.json`."""
    path = folder / "metrics.json"
    write_json(path, {**json.loads(path.read_text()), **numbers})
