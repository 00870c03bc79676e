"""camreid-matrix: experts, baselines and fusions on every query camera of one test."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf

from camreid.checkpoints.average import soup, update_batch_norm
from camreid.checkpoints.io import save
from camreid.cli import build, evaluate
from camreid.cli.checkpoints import Experts, check_dataset, read_experts, with_weights
from camreid.cli.terminal import show
from camreid.data import Split
from camreid.errors import InputError
from camreid.evaluation.features import FeatureTable
from camreid.evaluation.fusion import Fusion, fuse
from camreid.evaluation.summary import RankOptions, Row, comparison
from camreid.progress import note
from camreid.provenance import origin, plain
from camreid.runs.folder import RunFolder
from camreid.runs.matrix import Matrix
from camreid.training.evaluation_loop import is_partial
from camreid.training.module import ReIDModule

FUSIONS = (*get_args(Fusion), "soup")
SOUP_IMAGES = 2048


def matrix_run(config: DictConfig) -> None:
    """Test experts and baselines on the split, fuse the experts, and write the run folder."""
    build.seed(config)
    fusions = dict.fromkeys([config.fusion] if isinstance(config.fusion, str) else config.fusion)
    split = build.build_split(config)
    experts = read_experts("experts", config.experts, True, FUSIONS, split.datasets)
    given, taken = config.baselines or (), (*FUSIONS, *experts)
    baselines = read_experts("baselines", given, False, taken, split.datasets)
    evaluate.require_test(split, config.evaluation.protocol)
    models = {**experts, **baselines}
    notes = check_dataset(models, config.data)
    trainer = build.build_trainer(config, logger=False)
    if trainer.world_size > 1:
        raise InputError("camreid-matrix runs on one device; type trainer.devices=1.")
    evaluate.keep(config, split)
    show(
        f"Split    {split.record}",
        f"         {len(split.query)} query and {len(split.gallery)} gallery images",
        *(f"Expert   {name}: {expert.path}" for name, expert in experts.items()),
        *(f"Baseline {name}: {baseline.path}" for name, baseline in baselines.items()),
        f"Run      {build.run_folder()}",
    )
    test = Test(config, split, trainer, experts)
    tables: dict[str, FeatureTable] = {}
    for place, (name, model) in enumerate(models.items(), 1):
        show(f"Test of {name} ({place} of {len(models)})")
        table = test.add_model(name, with_weights(model).module())
        if name in experts:
            tables[name] = table
    left_out = {}
    for name in fusions:
        try:
            note(f"Fusing the experts: {name}")
            test.add_soup() if name == "soup" else test.add_fusion(name, tables)
        except InputError as error:
            left_out[name] = str(error)
    note("Comparing the rows")
    matrix = test.record(baselines, notes=notes, left_out=left_out)
    path = RunFolder(build.run_folder()).write(matrix)
    show(*matrix.tables(), "", *matrix.warnings, matrix.verdict, f"Written to {path}")


@dataclass(frozen=True)
class Test:
    """One test of many models; `rows` are added one by one."""

    config: DictConfig
    split: Split
    trainer: pl.Trainer
    experts: Experts
    rows: dict[str, Row] = field(default_factory=dict)

    def add_model(self, name: str, module: ReIDModule) -> FeatureTable:
        """Add the row of a model; its features."""
        evaluate.set_evaluation(module, self.config.evaluation)
        data = build.build_data(self.config, self.split, module.config)
        self.trainer.test(module, data, verbose=False)
        if module.test_result is None:
            raise InputError("no tested query has a match.", limit_test_batches=1.0)
        path = build.run_folder() / "features" / f"{name}.safetensors"
        table = evaluate.keep_features(self.config, module, self.split, path, row=name)
        known, ranking = module.provenance, module.test_result.ranking
        self.rows[name] = Row(ranking, table.query.cameras, known.seen, known.complete)
        return table

    def add_fusion(self, name: Fusion, tables: Mapping[str, FeatureTable]) -> None:
        """Add the row of a fusion of the experts' features."""
        options = RankOptions.of(self.config.evaluation)
        if name == "query_camera" and (options.rerank or options.expand):
            raise InputError("evaluation.rerank and evaluation.expand cannot compare its features.")
        cameras = {name: expert.provenance.camera for name, expert in self.experts.items()}
        slopes = {k: e.calibration.slope for k, e in self.experts.items() if e.calibration}
        table = fuse(name, tables, cameras, self.config.min_agreement, slopes)
        result, _ = options.rank(table, self.trainer.strategy.root_device)
        rows = [self.rows[name] for name in self.experts]
        seen = frozenset().union(*(row.seen for row in rows))
        complete = all(row.seen_complete for row in rows)
        self.rows[name] = Row(result, table.query.cameras, seen, complete)

    def add_soup(self) -> None:
        """Add the row of the experts' mean weights, and write them to `soups/soup.ckpt`."""
        train, size = self.split.train, self.config.data.eval_batch_size
        if not train:
            raise InputError("a soup needs train images, for its BatchNorm statistics.")
        module = soup([with_weights(expert) for expert in self.experts.values()])
        records = train[:: -(-len(train) // SOUP_IMAGES)]
        records = records[: len(records) // size * size or None]  # whole batches
        data = build.build_data(self.config, self.split, module.config)
        network = module.model.to(self.trainer.strategy.root_device)
        update_batch_norm(network, data.eval_dataloader(records, padded=False))
        save(module, build.run_folder() / "soups" / "soup.ckpt")
        self.add_model("soup", module)

    def record(self, baselines: Experts, **notes: object) -> Matrix:
        """All rows, and their comparison."""
        rows = {name: row.summary() for name, row in self.rows.items()}
        own, known = self.split.labels, {**self.experts, **baselines}
        for name, model in known.items():
            countable = own.pids and not model.labels.is_anonymous
            coverage = len(own & model.labels) / len(own) if countable else None
            rows[name] |= {"checkpoint": model.path, "camera": model.provenance.camera}
            rows[name] |= {"rows": len(model.labels), "coverage": coverage}
        content = {
            "experts": {name: rows[name] for name in self.experts},
            "baselines": {name: rows[name] for name in baselines},
            "fusions": {name: row for name, row in rows.items() if name not in known},
            "cameras": sorted({record.camera for record in self.split.query}),
            "protocol": self.config.evaluation.protocol,
            "evaluation": OmegaConf.to_container(self.config.evaluation),
            "partial": is_partial(self.trainer),
            "split": self.split.record.to_json(),
            "origin": origin(),
            **notes,
            **comparison(self.rows, [*self.experts]),
        }
        return Matrix.from_json(plain(content))
