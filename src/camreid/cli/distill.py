"""The teachers of a run: the checkpoints of `distill.teachers`."""

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from camreid.checkpoints.io import Checkpoint
from camreid.cli.build import data_root
from camreid.cli.checkpoints import read_checkpoint
from camreid.cli.expert_notes import check_people, people_of
from camreid.cli.experts import Expert, paths_of, read_experts
from camreid.cli.terminal import show
from camreid.data import Split
from camreid.errors import InputError
from camreid.training.distill import Distillation, DistillConfig, Teacher
from camreid.training.module import ReIDModule


def read_teachers(config: DictConfig, resumed: Checkpoint | None) -> list[Expert]:
    """The teachers that a config names, without their weights; none without distillation.

    `distill.teachers` becomes the list of their files.

    Args:
        config: of the command.
        resumed: the checkpoint that is continued, which must have had the same teachers.

    Raises:
        InputError: no teachers, files that are no checkpoints, or other teachers than before.
    """
    experts: list[Expert] = []
    if config.get("distill") is not None:
        if not OmegaConf.is_dict(config.distill):
            raise InputError(f"distill={config.distill}: type +experiment=distill.")
        if OmegaConf.is_missing(config.distill, "teachers") or not config.distill.teachers:
            raise InputError(
                "no teachers were given; type distill.teachers=[A.ckpt,B.ckpt], or a pattern such "
                "as distill.teachers='runs/experts/c*/checkpoints/best.ckpt'."
            )
        experts, _ = read_experts(paths_of("distill.teachers", config.distill.teachers))
        config.distill.teachers = [expert.path for expert in experts]
    then = resumed.notes.get("teachers", []) if resumed else []
    if resumed and sorted(t["weights"] for t in then) != sorted(e.weights for e in experts):
        was = ",".join(teacher["path"] for teacher in then)
        remedy = f"+experiment=distill distill.teachers=[{was}]" if then else "no distill option"
        raise InputError(
            f"resume={resumed.path} had {len(then)} teachers, and this command names "
            f"{len(experts)}, or others. Type {remedy}, or init={resumed.path} to start a new run."
        )
    return experts


def add_distillation(
    config: DictConfig, module: ReIDModule, experts: Sequence[Expert], split: Split
) -> dict[str, Any]:
    """Add the losses of the teachers, and the teachers to the provenance.

    Args:
        config: of the command.
        module: before training, with the rows that it will have.
        experts: from `read_teachers`.
        split: of the run.

    Returns:
        Notes for every checkpoint: the teachers' paths, cameras and hashes of weights.

    Raises:
        InputError: a teacher of another dataset, or an option out of range.
    """
    if not experts:
        return {}
    options = {str(k): v for k, v in config.distill.items() if k != "teachers"}
    try:
        options_read = DistillConfig(**options)
    except TypeError as error:
        raise InputError(f"an option of distill is missing or unknown: {error}.") from error
    notes = check_people(experts, *people_of(data_root(config), split))
    checkpoints = [read_checkpoint(expert.path) for expert in experts]
    teachers = [
        Teacher.of(checkpoint.module(), expert.camera)
        for checkpoint, expert in zip(checkpoints, experts, strict=True)
    ]
    module.extra_losses.append(Distillation(teachers, module.model, options_read))
    records = {checkpoint.path: checkpoint.provenance for checkpoint in checkpoints}
    module.provenance = module.provenance.after("teacher", records)
    show(*(f"Teacher {expert.name}: {expert.path}" for expert in experts))
    show(*(f"Note    {note}" for note in notes))
    about = [{"path": e.path, "camera": e.camera, "weights": e.weights} for e in experts]
    return {"teachers": about}
