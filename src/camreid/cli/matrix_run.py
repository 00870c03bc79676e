"""What camreid-matrix does, step by step."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf

from camreid.cli import build, evaluate
from camreid.cli.checkpoints import load
from camreid.cli.expert_notes import check_people, expert_notes, people_of
from camreid.cli.experts import Expert, expert_paths, read_experts
from camreid.cli.matrix_content import matrix_content
from camreid.cli.matrix_soups import make_soup
from camreid.cli.terminal import show
from camreid.cli.writing import write_json
from camreid.data import Split
from camreid.errors import InputError, require_number, require_whole
from camreid.evaluation.ensembles import Combination, Spaces, combine, compare_spaces
from camreid.evaluation.features import FeatureTable
from camreid.evaluation.matrix import Row
from camreid.evaluation.report import finite
from camreid.runs.matrix_tables import matrix_tables
from camreid.training.module import ReIDModule

_COMBINATIONS: tuple[str, ...] = (*get_args(Combination), "soup")


class Matrix:
    """A test in progress: rows and features by name, and why some rows are not there.

    Args:
        config: of the command.
        split: whose query and gallery are ranked.
        trainer: that computes features.
    """

    def __init__(self, config: DictConfig, split: Split, trainer: pl.Trainer) -> None:
        self.config, self.split, self.trainer = config, split, trainer
        self.options = evaluate.rank_options(config.evaluation)
        self.tables: dict[str, FeatureTable] = {}
        self.rows: dict[str, Row] = {}
        self.left_out: dict[str, str] = {}
        self.about: dict[str, dict[str, Any]] = {}
        self.spaces: Spaces | None = None
        self.notes: list[str] = []

    @property
    def partial(self) -> bool:
        """Whether only some of the images are looked at."""
        trainer = self.config.trainer
        return bool(trainer.fast_dev_run) or trainer.limit_test_batches != 1.0

    def test(self, name: str, module: ReIDModule, **notes: object) -> FeatureTable:
        """The row of a model and its features, from one pass over query and gallery.

        Args:
            name: of the row.
            module: the model.
            notes: more that the file of features says.
        """
        evaluate.set_evaluation(module, self.config.evaluation)
        data = build.build_data(self.config, self.split, module.config)
        self.trainer.test(module, data, verbose=False)
        table, evidence = module.test_features, module.evidence
        assert table is not None  # the test has come to its end
        if evidence is None:
            raise InputError(
                "there is no match among the part of the test images that was ranked; type a "
                "larger trainer.limit_test_batches, or leave it out."
            )
        seen, complete = module.provenance.seen, module.provenance.complete
        self.rows[name] = Row(
            evidence.result, table.query.cameras, seen, evidence.protocols, complete
        )
        about = {
            **evaluate.feature_notes(module, self.config.evaluation),
            "split": {**self.split.record.to_json(), "strategy": self.split.strategy},
            "partial": self.partial,
            **notes,
        }
        table = replace(table, notes=about)
        if self.config.evaluation.save_features:
            table.save(features_path(name))
        return table

    def add(self, expert: Expert) -> None:
        """Test an expert, and keep its features for combinations."""
        self.tables[expert.name] = self._add("expert", expert)

    def add_control(self, control: Expert) -> None:
        """Test a model that is not put together with others."""
        self._add("control", control)

    def _add(self, kind: str, row: Expert) -> FeatureTable:
        about = {"kind": kind, "weights": row.path, "expert": row.name, "camera": row.camera}
        return self.test(row.name, load(row.path), **about)

    def put_together(self, how: Sequence[str], experts: Sequence[Expert]) -> None:
        """A row for each combination that these experts allow; the reason for each other."""
        self.spaces = compare_spaces(self.tables)
        for name in how:
            try:
                if name == "soup":
                    self._add_soup(experts)
                else:
                    self._add_combined(name, experts)
            except InputError as error:
                self.left_out[name] = str(error)

    def _add_combined(self, name: str, experts: Sequence[Expert]) -> None:
        assert self.spaces is not None
        if name in ("query_camera", "zscore") and (self.options.rerank or self.options.expand):
            raise InputError(
                "re-ranking and query expansion compare queries and gallery images among "
                "themselves, and here a query has numbers of its own for every expert. Leave "
                "evaluation.rerank= and evaluation.expand= out for this row."
            )
        cameras = {expert.name: expert.camera for expert in experts}
        tables = {expert.name: self.tables[expert.name] for expert in experts}
        least = self.config.least_agreement
        table = combine(name, tables, cameras, self.spaces, least)  # type: ignore[arg-type]
        result, protocols = self.options.rank(table, self.trainer.strategy.root_device)
        seen = frozenset().union(*(expert.provenance.seen for expert in experts))
        complete = all(expert.provenance.complete for expert in experts)
        self.rows[name] = Row(result, table.query.cameras, seen, protocols, complete)
        self.about[name] = {}

    def _add_soup(self, experts: Sequence[Expert]) -> None:
        module, about = make_soup(self.config, self.split, self.trainer, experts)
        weights = str(build.run_folder() / about["checkpoint"])
        self.test("soup", module, kind="combination", weights=weights)
        if self.config.evaluation.save_features:
            about["features"] = "features/soup.safetensors"
        self.about["soup"] = about


def matrix_run(config: DictConfig) -> None:
    """Test every expert on the split, put them together, and write the run folder."""
    how = read_combine(config)
    experts, controls = read_experts(*expert_paths(config), reserved=_COMBINATIONS)
    split = build.build_split(config)
    evaluate.require_test(split, config.evaluation.protocol)
    told = check_people((*experts, *controls), *people_of(build.data_root(config), split))
    matrix = Matrix(config, split, _one_device(config))
    matrix.notes = [*expert_notes(experts, controls, split), *told]
    folder = build.run_folder()
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True), encoding="utf-8")
    split.save(folder / "split.csv")
    show(
        f"Split  {split.strategy}, digest {split.digest}",
        f"       {len(split.query)} query and {len(split.gallery)} gallery images",
        *(f"Expert {expert.name}: {expert.path}" for expert in experts),
        *(f"Control {control.name}: {control.path}" for control in controls),
        *(f"Note   {note}" for note in matrix.notes),
        f"Run    {folder}",
    )
    try:
        for expert in experts:
            matrix.add(expert)
        for control in controls:
            matrix.add_control(control)
        matrix.put_together(how, experts)
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and not matrix.trainer.interrupted:
            raise
        _report_part(matrix, how, experts, controls)
        raise SystemExit(130) from None
    _report(matrix, experts, controls)


def _report_part(
    matrix: Matrix, how: Sequence[str], experts: Sequence[Expert], controls: Sequence[Expert]
) -> None:
    """What there is when a test was interrupted."""
    done = [expert for expert in experts if expert.name in matrix.rows]
    beside = [control for control in controls if control.name in matrix.rows]
    asked = [*(row.name for row in (*experts, *controls)), *how]
    lacking = [name for name in asked if name not in (*matrix.rows, *matrix.left_out)]
    if not done:
        show("Interrupted before the first expert was tested. Type the command again.")
        return
    matrix.notes.append(
        f"Interrupted: {', '.join(lacking)} not tested. Type the command again, in another "
        "run_dir, for the whole matrix."
    )
    show(matrix.notes[-1])
    _report(matrix, done, beside)


def read_combine(config: DictConfig) -> list[str]:
    """The combinations asked for.

    Raises:
        InputError: one that there is not, or an option out of range.
    """
    given = config.combine or []
    how = list(dict.fromkeys([given] if isinstance(given, str) else map(str, given)))
    unknown = [name for name in how if name not in _COMBINATIONS]
    if unknown:
        raise InputError(
            f"combine={unknown[0]} is no combination; type combine=[] for none, or some of "
            f"combine=[{','.join(_COMBINATIONS)}]."
        )
    require_number("least_agreement", config.least_agreement, 0, 1)
    require_whole("soup_images", config.soup_images, least=2)
    return how


def features_path(name: str) -> Path:
    """Where the features of an expert are kept."""
    path = build.run_folder() / "features" / f"{name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    return path


def _one_device(config: DictConfig) -> pl.Trainer:
    trainer = build.build_trainer(config, logger=False)
    if trainer.world_size > 1:
        raise InputError(
            f"camreid-matrix runs on one device, and trainer= asks for {trainer.world_size}. Type "
            "trainer=gpu, trainer=cpu or trainer.devices=1."
        )
    return trainer


def _report(matrix: Matrix, experts: Sequence[Expert], controls: Sequence[Expert]) -> None:
    """Write matrix.json and print the tables."""
    content = finite(matrix_content(matrix, experts, controls))
    path = build.run_folder() / "matrix.json"
    write_json(path, content)
    show(*matrix_tables(content))
    for reason in dict.fromkeys(matrix.left_out.values()):
        names = [name for name, other in matrix.left_out.items() if other == reason]
        show(f"No row {', '.join(names)}: {reason}")
    show(f"Written to {path}")
