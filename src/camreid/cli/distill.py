"""The teachers of a run: the checkpoints of `distill.teachers`."""

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from camreid.checkpoints.io import Checkpoint
from camreid.cli.experts import Expert, check_dataset, read_experts, read_model
from camreid.cli.terminal import show
from camreid.errors import InputError
from camreid.models.config import build_options
from camreid.provenance import Dataset
from camreid.training.distill import Distillation, DistillConfig, Teacher
from camreid.training.module import ReIDModule


def read_teachers(
    config: DictConfig, resumed: Checkpoint | None, datasets: Sequence[Dataset]
) -> list[Expert]:
    """The teachers of a config without their weights; `distill.teachers` becomes their files."""
    experts: list[Expert] = []
    if config.get("distill") is not None:
        if not OmegaConf.is_dict(config.distill):
            raise InputError(f"distill={config.distill}: type +experiment=distill.")
        given = config.distill.get("teachers")
        experts = read_experts("distill.teachers", given, datasets=datasets)
        config.distill.teachers = [expert.path for expert in experts]
    then = [p.path for p in resumed.provenance.parents if p.role == "teacher"] if resumed else []
    now = [expert.path for expert in experts]
    if resumed and sorted(then) != sorted(now):
        raise InputError(
            f"resume={resumed.path} had the teachers {then}, and this command names {now}. Type "
            f"the same teachers, or init={resumed.path} to start a new run from its weights."
        )
    return experts


def add_distillation(config: DictConfig, module: ReIDModule, experts: Sequence[Expert]) -> None:
    """Add the losses of the teachers, and the teachers to the provenance."""
    if not experts:
        return
    given = {str(k): v for k, v in config.distill.items() if k != "teachers"}
    options = build_options(DistillConfig, "distill", given)
    notes = check_dataset(experts, config.data)
    notes += [f"{e.name}: its rows have no identities." for e in experts if e.labels.is_anonymous]
    teachers = [Teacher.of(read_model(e), e.camera) for e in experts]
    module.extra_losses.append(Distillation(teachers, module.model, options))
    records = {expert.path: expert.provenance for expert in experts}
    module.provenance = module.provenance.after("teacher", records)
    lines = [f"Teacher {expert.name}: {expert.path}" for expert in experts]
    show(*lines, *(f"Note    {note}" for note in notes))
