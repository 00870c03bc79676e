"""Run folders without a training: features drawn at random around each person."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from camreid.data import ImageRecord, Records
from camreid.evaluation import FeatureTable, Images, RankOptions
from camreid.evaluation.report import Evidence


def images(records: Sequence[ImageRecord], noise: float, generator: torch.Generator) -> Images:
    people = torch.randn(2000, 16, generator=torch.Generator().manual_seed(1))
    pids = torch.tensor([r.pid for r in records])
    drawn = torch.randn(len(pids), 16, generator=generator)
    return Images(
        features=people[pids] + noise * drawn,
        pids=pids,
        cameras=torch.tensor([r.camera for r in records]),
        sequences=torch.tensor([r.sequence for r in records]),
        paths=tuple(str(r.path) for r in records),
    )


def write_run(folder: Path, records: Records, *, noise: float = 1.5, queries: int = 1000) -> Path:
    """A finished run but for its checkpoint; `seen` are the first three people."""
    generator = torch.Generator().manual_seed(0)
    query = images(records.query[:queries], noise, generator)
    gallery = images(records.gallery, noise, generator)
    split = {"digest": f"digest-of-{queries}", "strategy": "OriginalSplit()"}
    seen = sorted({r.pid for r in records.query})[:3]
    table = FeatureTable(query, gallery, {"seen": seen, "split": split})
    result, protocols = RankOptions().rank(table)
    summary = Evidence(result, frozenset(seen), protocols=protocols).summary()
    evaluation = {"metric": "cosine", "protocol": "cross-camera", "save_features": True}
    content = {"split": split, "weights": None, "partial": False, "evaluation": evaluation}
    head = {
        "head": "identity", "rows": 12, "people": 12, "dim": 16, "features": 16, "identities": 12,
        "shared": 9, "unknown": 3, "coverage": 0.75, "image_coverage": 0.8, "misplaced": 0,
    }  # fmt: skip
    (folder / ".hydra").mkdir(parents=True)
    table.save(folder / "features.safetensors")
    (folder / "metrics.json").write_text(json.dumps({**content, **summary}))
    check = {"unknown": "skip", "heads": [head], "faults": []}
    (folder / "head_check.json").write_text(json.dumps(check))
    lines = [f",{e + 1}e-4,{e * 5},,,\n{e},,{e * 5},{4 - e / 2},{e / 10},\n" for e in range(4)]
    header = "epoch,lr,step,train/loss,val/mAP,test/mAP\n"
    (folder / "metrics.csv").write_text(header + "".join(lines) + "3,,20,,,0.5\n")
    (folder / "config.yaml").write_text("model:\n  name: <tiny>\n")
    (folder / ".hydra" / "overrides.yaml").write_text("- +split=original\n- model=small\n")
    return folder
