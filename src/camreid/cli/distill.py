"""Who teaches a run: the checkpoints of `distill.teachers`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from camreid.checkpoints.io import Checkpoint
from camreid.cli.experts import Expert, check_dataset, read_experts
from camreid.cli.reading import read_checkpoint
from camreid.cli.terminal import say
from camreid.data import Split
from camreid.errors import InputError
from camreid.training.distill import Distillation, DistillConfig, Teacher
from camreid.training.module import ReIDModule

_TYPE_SOME = (
    "type distill.teachers=[runs/experts/c1/checkpoints/best.ckpt,...], or a pattern such as "
    "distill.teachers='runs/experts/c*/checkpoints/best.ckpt'"
)


@dataclass(frozen=True)
class Teaching:
    """The teachers of a run; none for one without distillation.

    Attributes:
        experts: the teachers, without their weights.
        options: what is learnt from them; None without teachers.
        notes: what every checkpoint keeps of them: their paths and cameras.
    """

    experts: tuple[Expert, ...] = ()
    options: DistillConfig | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def begin(self, module: ReIDModule, split: Split, root: str) -> list[str]:
        """Add the distillation to the module, and the teachers to its provenance.

        Args:
            module: before training, with the people that it will have.
            split: of the run.
            root: of the dataset.

        Returns:
            What there is to say of the teachers.

        Raises:
            InputError: a teacher of another dataset, or teachers without what is asked of them.
        """
        if self.options is None:
            return []
        told = check_dataset(self.experts, root)
        checkpoints = [read_checkpoint(expert.path) for expert in self.experts]
        teachers = [
            Teacher.of(checkpoint.module(), expert.camera)
            for checkpoint, expert in zip(checkpoints, self.experts, strict=True)
        ]
        module.extra_losses.append(Distillation(teachers, module.model, self.options))
        records = {checkpoint.path: checkpoint.provenance for checkpoint in checkpoints}
        module.provenance = module.provenance.after("teacher", records)
        return told

    def announce(self, told: Sequence[str]) -> None:
        """Say who teaches, and what is not known of them.

        Args:
            told: what `begin` has found.
        """
        for expert in self.experts:
            say(f"Teacher {expert.name}: {expert.path}")
            if expert.labels.is_anonymous:
                say(
                    f"        {expert.name}: its rows are nobody's, so they teach nothing, and "
                    "whom it has seen is missing in the leak table"
                )
        for note in told:
            say(f"Note    {note}")


def read_teaching(config: DictConfig, resumed: Checkpoint | None) -> Teaching:
    """The teachers that a config names; it is made to name them one by one.

    Args:
        config: of the command.
        resumed: what is continued, whose teachers must have been the same.

    Raises:
        InputError: no teachers, files that are no checkpoints, an option out of range, or other
            teachers than before.
    """
    if config.get("distill") is None:
        teaching = Teaching()
    else:
        options = _read_options(config.distill)
        experts = read_experts("distill.teachers", _paths(config.distill))
        config.distill.teachers = [expert.path for expert in experts]
        about = [{"path": e.path, "camera": e.camera} for e in experts]
        teaching = Teaching(tuple(experts), options, {"teachers": about})
    if resumed is not None:
        _check_resumed(teaching, resumed)
    return teaching


def _read_options(given: Any) -> DistillConfig:
    options: Any = OmegaConf.to_container(given) if OmegaConf.is_dict(given) else given
    if not isinstance(options, Mapping):
        raise InputError(f"distill={options}: type +experiment=distill with distill.teachers=.")
    named = {str(key): value for key, value in options.items() if key != "teachers"}
    try:
        return DistillConfig(**named)
    except TypeError as error:
        raise InputError(
            f"distill is not complete or has an option too many: {error}. Type +experiment=distill "
            "and change what it sets."
        ) from error


def _paths(distill: DictConfig) -> Any:
    given = None if OmegaConf.is_missing(distill, "teachers") else distill.get("teachers")
    if not given:
        raise InputError(f"no teachers were given; {_TYPE_SOME}.")
    return given


def _check_resumed(teaching: Teaching, resumed: Checkpoint) -> None:
    """Refuse to go on with other teachers, which the record of the first would not show."""
    then = resumed.notes.get("teachers", [])
    now = teaching.notes.get("teachers", [])
    if sorted(t["path"] for t in then) == sorted(t["path"] for t in now):
        return
    was = ",".join(teacher["path"] for teacher in then)
    remedy = (
        f"+experiment=distill distill.teachers=[{was}]" if then else "the command without distill"
    )
    raise InputError(
        f"resume={resumed.path} was taught by {len(then)} teachers, and this command names "
        f"{len(now)}, or others. Type {remedy} as then, or init={resumed.path} to start a new run "
        "from its weights."
    )
