"""camreid-matrix: experts, baselines and fusions on every query camera of one test."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf

from camreid.checkpoints.average import soup, update_batch_norm
from camreid.checkpoints.io import save
from camreid.cli import build, evaluate
from camreid.cli.checkpoints import read_checkpoint
from camreid.cli.experts import Expert, check_dataset, read_experts, read_model
from camreid.cli.provenance import origin
from camreid.cli.terminal import show
from camreid.data import Split
from camreid.errors import InputError, require_number
from camreid.evaluation.features import FeatureTable
from camreid.evaluation.fusion import Fusion, fuse
from camreid.evaluation.matrix import Row, comparison
from camreid.progress import note
from camreid.runs.folder import RunFolder
from camreid.runs.matrix import Matrix
from camreid.runs.record import plain
from camreid.training.evaluation_loop import is_partial
from camreid.training.module import ReIDModule

FUSIONS = (*get_args(Fusion), "soup")
SOUP_IMAGES = 2048


def matrix_run(config: DictConfig) -> None:
    """Test experts and baselines on the split, fuse the experts, and write the run folder."""
    build.seed(config)
    fusions = _read_fusions(config)
    split = build.build_split(config)
    known = split.datasets
    experts = read_experts("experts", config.get("experts"), taken=FUSIONS, datasets=known)
    baselines = []
    if config.baselines:
        taken = (*FUSIONS, *(expert.name for expert in experts))
        baselines = read_experts("baselines", config.baselines, False, taken, known)
    evaluate.require_test(split, config.evaluation.protocol)
    notes = check_dataset((*experts, *baselines), config.data)
    trainer = build.build_trainer(config, logger=False)
    if trainer.world_size > 1:
        raise InputError("camreid-matrix runs on one device; type trainer.devices=1.")
    evaluate.keep(config, split)
    show(
        f"Split    {split.record}",
        f"         {len(split.query)} query and {len(split.gallery)} gallery images",
        *(f"Expert   {expert.name}: {expert.path}" for expert in experts),
        *(f"Baseline {baseline.name}: {baseline.path}" for baseline in baselines),
        f"Run      {build.run_folder()}",
    )
    test = Test(config, split, trainer, experts, baselines)
    tables, models = {}, [*experts, *baselines]
    for place, model in enumerate(models, 1):
        show(f"Test of {model.name} ({place} of {len(models)})")
        table = test.add_model(model.name, read_model(model))
        if model in experts:
            tables[model.name] = table
    left_out = {}
    for name in fusions:
        try:
            note(f"Fusing the experts: {name}")
            if name == "soup":
                test.add_soup()
            else:
                test.add_fusion(name, tables)
        except InputError as error:
            left_out[name] = str(error)
    note("Comparing the rows")
    matrix = test.record(notes, left_out)
    path = RunFolder(build.run_folder()).write(matrix)
    show(*matrix.tables(), "", *matrix.warnings, matrix.verdict, f"Written to {path}")


@dataclass(frozen=True)
class Test:
    """One test of many models; `rows` are added one by one."""

    config: DictConfig
    split: Split
    trainer: pl.Trainer
    experts: list[Expert]
    baselines: list[Expert]
    rows: dict[str, Row] = field(default_factory=dict)

    def add_model(self, name: str, module: ReIDModule) -> FeatureTable:
        """Add the row of a model; its features."""
        options = self.config.evaluation
        evaluate.set_evaluation(module, options)
        data = build.build_data(self.config, self.split, module.config)
        note(f"Testing {name}")
        self.trainer.test(module, data, verbose=False)
        table, tested, known = module.test_features, module.test_result, module.provenance
        if table is None or tested is None:
            raise InputError("no tested query has a match.", limit_test_batches=1.0)
        self.rows[name] = Row(tested.ranking, table.query.cameras, known.seen, known.complete)
        notes = {
            **evaluate.feature_notes(module, options),
            "split": self.split.record.to_json(),
            "partial": is_partial(self.trainer),
            "row": name,
        }
        table = replace(table, notes=notes)
        if options.save_features:
            path = build.run_folder() / "features" / f"{name}.safetensors"
            table.save(path)
        return table

    def add_fusion(self, name: Fusion, tables: Mapping[str, FeatureTable]) -> None:
        """Add the row of a fusion of the experts' features."""
        options = evaluate.rank_options(self.config.evaluation)
        if name == "query_camera" and (options.rerank or options.expand):
            raise InputError(
                "evaluation.rerank and evaluation.expand compare queries with each other, but "
                "query_camera uses features of different experts for different queries."
            )
        cameras = {expert.name: expert.camera for expert in self.experts}
        table = fuse(name, tables, cameras, self.config.min_agreement)
        result, _ = options.rank(table, self.trainer.strategy.root_device)
        rows = [self.rows[expert.name] for expert in self.experts]
        seen = frozenset().union(*(row.seen for row in rows))
        complete = all(row.seen_complete for row in rows)
        self.rows[name] = Row(result, table.query.cameras, seen, complete)

    def add_soup(self) -> None:
        """Add the row of the experts' mean weights, and write them to `soups/soup.ckpt`."""
        train, size = self.split.train, self.config.data.eval_batch_size
        if not train:
            raise InputError("a soup needs train images, for its BatchNorm statistics.")
        module = soup([read_checkpoint(e.path, e.provenance.datasets) for e in self.experts])
        count = min(SOUP_IMAGES, len(train))
        count -= count % size if count > size else 0  # whole batches
        records = [train[place * len(train) // count] for place in range(count)]
        data = build.build_data(self.config, self.split, module.config)
        network = module.model.to(self.trainer.strategy.root_device)
        update_batch_norm(network, data.eval_dataloader(records, padded=False))
        save(module, build.run_folder() / "soups" / "soup.ckpt")
        self.add_model("soup", module)

    def record(self, notes: list[str], left_out: dict[str, str]) -> Matrix:
        """All rows, and their comparison."""
        summaries = {name: row.summary() for name, row in self.rows.items()}
        for row in (*self.experts, *self.baselines):
            about = {"checkpoint": row.path, "camera": row.camera, "rows": len(row.labels)}
            summaries[row.name] |= {**about, "coverage": row.coverage(self.split)}
        content = {
            "experts": {expert.name: summaries.pop(expert.name) for expert in self.experts},
            "baselines": {base.name: summaries.pop(base.name) for base in self.baselines},
            "fusions": summaries,
            "cameras": sorted({record.camera for record in self.split.query}),
            "protocol": self.config.evaluation.protocol,
            "evaluation": OmegaConf.to_container(self.config.evaluation),
            "partial": is_partial(self.trainer),
            "split": self.split.record.to_json(),
            "origin": origin(),
            "notes": notes,
            "left_out": left_out,
            **comparison(self.rows, [expert.name for expert in self.experts]),
        }
        return Matrix.from_json(plain(content))


def _read_fusions(config: DictConfig) -> list[Any]:
    given = [config.fusion] if isinstance(config.fusion, str) else config.fusion or []
    unknown = [name for name in given if name not in FUSIONS]
    if unknown:
        raise InputError(f"fusion={unknown[0]}: type some of fusion=[{','.join(FUSIONS)}].")
    require_number("min_agreement", config.min_agreement, 0, 1)
    return list(dict.fromkeys(given))
