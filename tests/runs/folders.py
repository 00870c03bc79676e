"""Run folders without a training: features drawn at random around each identity."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
import yaml

from camreid.data import ImageRecord, Records
from camreid.evaluation import Calibration, FeatureTable, Images, RankOptions
from camreid.evaluation.summary import EvaluationResult, Row, comparison
from camreid.provenance import SplitRecord, plain
from camreid.runs.folder import RunFolder
from camreid.runs.matrix import Matrix
from camreid.runs.metrics import HeadCheckRecord, Metrics

HEAD = {
    "head": "identity", "rows": 12, "dim": 16, "identities": 12, "shared": 9, "unknown": 3,
    "coverage": 0.75, "image_coverage": 0.8,
}  # fmt: skip
ORIGIN = {"command": "camreid-train +split=<x>", "commit": "c0ffee", "versions": {"torch": "2.9"}}
SPLIT = SplitRecord("original", {"camera": 3}, "ab12").to_json()


def records(pids: Iterable[int]) -> Records:
    """A query and a gallery image of each identity in three cameras."""
    labels = [(pid, camera) for pid in pids for camera in (1, 2, 3)]
    names = [f"{pid:04d}_c{camera}s1_1_00.jpg" for pid, camera in labels]
    query, gallery = (
        tuple(ImageRecord(Path(f, n), *own, 1, 1) for n, own in zip(names, labels, strict=True))
        for f in ("/data/query", "/data/gallery")
    )
    return Records((), query, gallery)


def features(of: Records, noise: float = 0.3, seed: int = 0) -> FeatureTable:
    """More noise mixes identities up."""
    generator = torch.Generator().manual_seed(seed)
    return FeatureTable(*(_images(part, noise, generator) for part in (of.query, of.gallery)))


def _images(part: Sequence[ImageRecord], noise: float, generator: torch.Generator) -> Images:
    centres = torch.randn(2000, 16, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([(r.pid, r.camera, r.sequence) for r in part])
    pids, cameras, sequences = labels.T.contiguous()
    vectors = centres[pids] + 4 * noise * torch.randn(len(pids), 16, generator=generator)
    return Images(vectors, pids, cameras, sequences, tuple(str(r.path) for r in part))


def make_run(
    folder: Path,
    table: FeatureTable,
    seen: Iterable[int] = (),
    options: RankOptions = RankOptions(),  # noqa: B008
    **config: object,
) -> Path:
    """What a finished run leaves behind, but for its checkpoint."""
    table, run = replace(table, notes={"seen": list(seen)}), RunFolder(folder)
    result, protocols = options.rank(table)
    decisions = options.decisions(table, torch.device("cpu"), Calibration(9.0, -4.0, 120))
    tested = EvaluationResult(result, frozenset(seen), protocols=protocols, decisions=decisions)
    numbers = tested.summary()
    about = {"evaluation": asdict(options), "split": SPLIT, "origin": ORIGIN}
    run.write(Metrics(**numbers, **about, weights=f"{folder}/best.ckpt"))
    run.write(HeadCheckRecord("skip", [HEAD]))
    (folder / "config.yaml").write_text(yaml.safe_dump({"run_dir": str(folder), **config}))
    table.save(folder / "features.safetensors")
    lines = [f",{e + 1}e-4,{e * 5},,,\n{e},,{e * 5},{4 - e / 2},{e / 10},\n" for e in range(4)]
    header = "epoch,lr,step,train/loss,val/mAP,test/mAP\n"
    (folder / "metrics.csv").write_text(header + "".join(lines) + "3,,20,,,0.5\n")
    return folder


def make_matrix(folder: Path, of: Records) -> Path:
    """A finished matrix of two experts."""
    tables = {f"c{n}": features(of, noise=0.2 + 0.1 * n, seed=n) for n in (1, 2)}
    rows = {
        name: Row(RankOptions().rank(t)[0], t.query.cameras, frozenset({of.query[0].pid}))
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


def change(folder: Path, **numbers: object) -> None:
    """Replace fields of `metrics.json`."""
    run = RunFolder(folder)
    assert run.metrics is not None
    run.write(replace(run.metrics, **numbers))  # type: ignore[arg-type]
