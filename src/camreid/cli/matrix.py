"""camreid-matrix: experts, baselines and fusions on every query camera of one test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf

from camreid.checkpoints.average import soup, update_batch_norm
from camreid.checkpoints.io import save
from camreid.cli import build, evaluate
from camreid.cli.checkpoints import load, read_checkpoint
from camreid.cli.experts import Expert, check_dataset, read_experts
from camreid.cli.provenance import origin
from camreid.cli.terminal import show
from camreid.data import Split
from camreid.errors import InputError, require_number
from camreid.evaluation.features import FeatureTable
from camreid.evaluation.fusion import Fusion, fuse
from camreid.evaluation.matrix import Row, comparison
from camreid.runs.folder import Matrix, RunFolder, plain
from camreid.runs.matrix_tables import matrix_tables
from camreid.training.evaluation_loop import is_partial
from camreid.training.module import ReIDModule

FUSIONS = (*get_args(Fusion), "soup")
SOUP_IMAGES = 2048


def matrix_run(config: DictConfig) -> None:
    """Test experts and baselines on the split, fuse the experts, and write the run folder."""
    build.seed(config)
    fusions = _read_fusions(config)
    experts = read_experts("experts", config.get("experts"), taken=FUSIONS)
    taken = (*FUSIONS, *(expert.name for expert in experts))
    baselines = []
    if config.baselines:
        baselines = read_experts("baselines", config.baselines, by_camera=False, taken=taken)
    split = build.build_split(config)
    evaluate.require_test(split, config.evaluation.protocol)
    notes = check_dataset((*experts, *baselines), build.data_root(config))
    trainer = build.build_trainer(config, logger=False)
    if trainer.world_size > 1:
        raise InputError("camreid-matrix runs on one device; type trainer.devices=1.")
    evaluate.keep(config, split)
    show(
        f"Split    {split.record}",
        f"         {len(split.query)} query and {len(split.gallery)} gallery images",
        *(f"Expert   {expert.name}: {expert.path}" for expert in experts),
        *(f"Baseline {baseline.name}: {baseline.path}" for baseline in baselines),
        *(f"Note     {note}" for note in notes),
        f"Run      {build.run_folder()}",
    )
    test = Test(config, split, trainer)
    tables = {expert.name: test.add_model(expert.name, load(expert.path)) for expert in experts}
    for baseline in baselines:
        test.add_model(baseline.name, load(baseline.path))
    left_out = {}
    for name in fusions:
        try:
            if name == "soup":
                test.add_soup(experts)
            else:
                test.add_fusion(name, tables, experts)
        except InputError as error:
            left_out[name] = str(error)
    _report(test, experts, baselines, {"notes": notes, "left_out": left_out})


@dataclass(frozen=True)
class Test:
    """One test of many models; `rows` is filled on the way.

    Attributes:
        config: of the command.
        split: of the test.
        trainer: computes features.
        rows: what was tested, by name.
    """

    config: DictConfig
    split: Split
    trainer: pl.Trainer
    rows: dict[str, Row] = field(default_factory=dict)

    def add_model(self, name: str, module: ReIDModule) -> FeatureTable:
        """Add the row of a model; its features."""
        options = self.config.evaluation
        evaluate.set_evaluation(module, options)
        data = build.build_data(self.config, self.split, module.config)
        self.trainer.test(module, data, verbose=False)
        table, tested, provenance = module.test_features, module.test_result, module.provenance
        if table is None or tested is None:
            raise InputError(
                "no tested query has a match; type a larger trainer.limit_test_batches."
            )
        seen, complete = provenance.seen, provenance.complete
        self.rows[name] = Row(tested.ranking, table.query.cameras, seen, complete)
        notes = {
            **evaluate.feature_notes(module, options),
            "split": self.split.record.to_json(),
            "partial": is_partial(self.trainer),
            "row": name,
        }
        table = replace(table, notes=notes)
        if options.save_features:
            path = build.run_folder() / "features" / f"{name}.safetensors"
            path.parent.mkdir(exist_ok=True)
            table.save(path)
        return table

    def add_fusion(
        self, name: Fusion, tables: Mapping[str, FeatureTable], experts: Sequence[Expert]
    ) -> None:
        """Add the row of a fusion of features."""
        options = evaluate.rank_options(self.config.evaluation)
        if name == "query_camera" and (options.rerank or options.expand):
            raise InputError(
                "evaluation.rerank and evaluation.expand compare queries with each other, and here "
                "two queries have features of different experts."
            )
        cameras = {expert.name: expert.camera for expert in experts}
        table = fuse(name, tables, cameras, self.config.min_agreement)
        result, _ = options.rank(table, self.trainer.strategy.root_device)
        rows = [self.rows[expert.name] for expert in experts]
        seen = frozenset().union(*(row.seen for row in rows))
        complete = all(row.seen_complete for row in rows)
        self.rows[name] = Row(result, table.query.cameras, seen, complete)

    def add_soup(self, experts: Sequence[Expert]) -> None:
        """Add the row of the experts' mean weights, and write them to `soups/soup.ckpt`.

        BatchNorm statistics are those of train images, evenly chosen, in whole batches.
        """
        train, size = self.split.train, self.config.data.eval_batch_size
        if not train:
            raise InputError("a soup needs train images, for its BatchNorm statistics.")
        count = min(SOUP_IMAGES, len(train))
        count -= count % size if count > size else 0
        checkpoints = [read_checkpoint(expert.path) for expert in experts]
        module = soup(checkpoints)
        data = build.build_data(self.config, self.split, module.config)
        records = [train[place * len(train) // count] for place in range(count)]
        batches = data.eval_dataloader(records, padded=False)
        device = self.trainer.strategy.root_device
        update_batch_norm(module.model.to(device), batches, device)
        save(module, build.run_folder() / "soups" / "soup.ckpt")
        self.add_model("soup", module)


def _report(
    test: Test, experts: Sequence[Expert], baselines: Sequence[Expert], notes: dict[str, Any]
) -> None:
    """Write matrix.json and print its tables."""
    summaries = {name: row.summary() for name, row in test.rows.items()}
    for row in (*experts, *baselines):
        summaries[row.name] |= {
            "checkpoint": row.path,
            "camera": row.camera,
            "rows": len(row.labels),
            "coverage": row.coverage(test.split),
        }
    content = {
        "experts": {expert.name: summaries.pop(expert.name) for expert in experts},
        "baselines": {baseline.name: summaries.pop(baseline.name) for baseline in baselines},
        "fusions": summaries,
        "cameras": sorted({record.camera for record in test.split.query}),
        "protocol": test.config.evaluation.protocol,
        "evaluation": OmegaConf.to_container(test.config.evaluation),
        "partial": is_partial(test.trainer),
        "split": test.split.record.to_json(),
        "origin": origin(test.config),
        **comparison(test.rows, [expert.name for expert in experts]),
        **notes,
    }
    matrix = Matrix.from_json(plain(content))
    path = RunFolder(build.run_folder()).write(matrix)
    show(*matrix_tables(matrix))
    show(*(f"No row {name}: {reason}" for name, reason in matrix.left_out.items()))
    show(f"Written to {path}")


def _read_fusions(config: DictConfig) -> list[Any]:
    given = [config.fusion] if isinstance(config.fusion, str) else config.fusion or []
    unknown = [name for name in given if name not in FUSIONS]
    if unknown:
        raise InputError(f"fusion={unknown[0]}: type some of fusion=[{','.join(FUSIONS)}].")
    require_number("min_agreement", config.min_agreement, 0, 1)
    return list(dict.fromkeys(given))
