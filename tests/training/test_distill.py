"""What a student learns from its teachers, against loops and hand-translated rows."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from camreid.checkpoints.average import update_batch_norm
from camreid.checkpoints.io import Checkpoint, read_checkpoint, save
from camreid.data import OriginalSplit, Records, ReIDDataModule
from camreid.errors import InputError
from camreid.labels import LabelMap
from camreid.losses.distillation import cosines, logit_loss, similarity_loss
from camreid.models.network import ReIDOutput
from camreid.training import ReIDModule
from camreid.training.batch import Batch
from camreid.training.distill import Distillation, DistillConfig, Teacher
from tests.conftest import CONFIG, tiny_module

BOTH = DistillConfig(1.0, 0.1, 1.0, 4.0)
LOGIT = DistillConfig(0.0, 0.1, 1.0, 4.0)


def checkpoint(path: Path, labels: LabelMap, seed: int, **options: object) -> Checkpoint:
    """A model whose features and rows are far enough apart to have an opinion."""
    torch.manual_seed(seed)
    module = ReIDModule({**CONFIG, **options}, labels)
    with torch.no_grad():
        for head in module.model.remap_heads().values():
            head.weight.normal_()
    size = module.config.image_size
    pixels = module.model.pixel_norm
    images = batch_of([1] * 16, size, seed=9).images
    images = pixels.normalize(images) if pixels.pixels == "imagenet" else images
    update_batch_norm(module.model, [{"images": images}])
    save(module.eval(), path)
    return read_checkpoint(path)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Teacher, Teacher]:
    """Teachers of cameras 1 and 2, one person shared, rows in no order."""
    first = checkpoint(tmp_path / "a.ckpt", LabelMap((5, 9, 2)), 1)
    second = checkpoint(tmp_path / "b.ckpt", LabelMap((7, 2, 11, 3)), 2)
    return Teacher.of(first.module(), 1), Teacher.of(second.module(), 2)


def batch_of(cameras: list[int], size: tuple[int, int] = (64, 32), seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    shape = (len(cameras), 3, size[0] // 16, size[1] // 16)
    patches = torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw)
    images = patches.repeat_interleave(16, 2).repeat_interleave(16, 3)
    return Batch(images, torch.full((len(cameras),), 2), torch.tensor(cameras))


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(v) for v in values)
    return [math.exp(v) / total for v in values]


def divergence(target: list[float], ours: list[float]) -> float:
    return sum(t * math.log(t / o) for t, o in zip(target, ours, strict=True))


def test_relation_is_that_of_a_slow_loop() -> None:
    draw = torch.Generator().manual_seed(3)
    ours, theirs = (cosines(torch.randn(6, 5, generator=draw)) for _ in range(2))
    found = similarity_loss(ours, theirs, 0.2)
    for row in range(6):
        rest = [column for column in range(6) if column != row]
        target, own = (softmax([float(m[row, c]) / 0.2 for c in rest]) for m in (theirs, ours))
        assert found[row].item() == pytest.approx(divergence(target, own), rel=1e-5)
    assert found.mean() > 0.1


def test_an_image_alone_has_no_relations() -> None:
    assert similarity_loss(torch.ones(1, 1), torch.ones(1, 1), 0.1) == 0


def test_logit_loss_is_that_of_a_slow_loop() -> None:
    draw = torch.Generator().manual_seed(4)
    ours, theirs = (3 * torch.randn(4, 5, generator=draw) for _ in range(2))
    found = logit_loss(ours, theirs, 2.5)
    for row in range(4):
        target, own = (softmax([float(v) / 2.5 for v in m[row]]) for m in (theirs, ours))
        assert found[row].item() == pytest.approx(2.5**2 * divergence(target, own), rel=1e-5)


def test_the_similarities_are_the_mean_of_the_teachers(pair: tuple[Teacher, Teacher]) -> None:
    student = tiny_module(LabelMap((1, 2))).model.eval()
    batch = batch_of([1, 2, 3, 1])
    output = student(batch.images)
    losses = Distillation(pair, student, DistillConfig(0.7, 0.1, 0.0, 4.0))(batch, output)
    features = [teacher.network(batch.images).features for teacher in pair]
    expected = sum(cosines(f) for f in features) / 2
    together = cosines(torch.cat([F.normalize(f) for f in features], 1))
    torch.testing.assert_close(together, expected)
    assert set(losses) == {"similarity"}
    assert losses["similarity"][0] == 0.7
    torch.testing.assert_close(
        losses["similarity"][1], similarity_loss(cosines(output.features), expected, 0.1).mean()
    )


@pytest.mark.parametrize("similarity", [0.0, 1.0])
def test_rows_follow_the_person(pair: tuple[Teacher, Teacher], similarity: float) -> None:
    student = tiny_module(LabelMap((2, 3, 5, 9))).model.eval()  # knows nobody called 7 or 11
    batch = batch_of([2, 1, 3, 1])
    output = student(batch.images)
    config = DistillConfig(similarity, 0.1, 1.0, 4.0)
    found = Distillation(pair, student, config)(batch, output)["logit"][1]

    ours = output.logits["identity"].detach()
    theirs = [teacher.network(batch.images).logits["identity"] for teacher in pair]
    # image, teacher, the rows of the same people in the teacher's head and in the student's
    lessons = [(1, 0, [0, 1, 2], [2, 3, 0]), (3, 0, [0, 1, 2], [2, 3, 0]), (0, 1, [1, 3], [0, 1])]
    values = []
    for image, teacher, their_rows, our_rows in lessons:
        target = softmax([float(theirs[teacher][image, row]) / 4 for row in their_rows])
        values.append(divergence(target, softmax([float(ours[image, r]) / 4 for r in our_rows])))
    assert found.item() == pytest.approx(16 * sum(values) / 3, rel=1e-4)


def test_a_teacher_of_no_one_camera_teaches_everywhere(tmp_path: Path) -> None:
    labels = LabelMap((5, 2))
    teacher = Teacher.of(checkpoint(tmp_path / "a.ckpt", labels, 1).module(), None)
    student, batch = tiny_module(labels).model.eval(), batch_of([1, 4])
    output = student(batch.images)
    expected = logit_loss(
        output.logits["identity"], teacher.network(batch.images).logits["identity"], 4.0
    )
    found = Distillation([teacher], student, LOGIT)(batch, output)["logit"][1]
    torch.testing.assert_close(found, expected.mean())


def test_images_of_other_cameras_give_no_logit_loss(pair: tuple[Teacher, Teacher]) -> None:
    student, batch = tiny_module(LabelMap((2, 3, 5))).model, batch_of([3, 4, 5])
    loss = Distillation(pair, student, LOGIT)(batch, student(batch.images))["logit"][1]
    assert loss == 0
    loss.backward()
    gradients = [p.grad for p in student.parameters() if p.grad is not None]
    assert gradients
    assert not any(g.any() for g in gradients)


def test_a_student_that_is_its_teacher_has_nothing_to_learn(tmp_path: Path) -> None:
    read = checkpoint(tmp_path / "a.ckpt", LabelMap((5, 2, 9)), 1)
    student = read.module().model
    batch = batch_of([1, 1, 1, 1])
    losses = Distillation([Teacher.of(read.module(), 1)], student, BOTH)(
        batch, student(batch.images)
    )
    for _, loss in losses.values():
        assert loss.item() == pytest.approx(0, abs=1e-6)
        loss.backward(retain_graph=True)
    assert max(p.grad.abs().max() for p in student.parameters() if p.grad is not None) < 1e-5
    other = checkpoint(tmp_path / "b.ckpt", LabelMap((5, 2, 9)), 2).module().model
    losses = Distillation([Teacher.of(read.module(), 1)], other, BOTH)(batch, other(batch.images))
    assert min(loss.item() for _, loss in losses.values()) > 1e-2


@pytest.mark.parametrize("classifier", ["arc", "cosine", "circle"])
def test_margins_are_not_what_is_compared(tmp_path: Path, classifier: str) -> None:
    network = {**CONFIG["network"], "classifier": classifier, "scale": 8.0, "margin": 0.3}
    read = checkpoint(tmp_path / "a.ckpt", LabelMap((5, 2, 9)), 1, network=network)
    student, batch = read.module().model, batch_of([1, 1, 1])
    # as in training: with margin
    output = student(
        batch.images, {"identity": torch.tensor([1, 1, 0])}
    )  # as in training: with margin
    plain = student(batch.images)
    assert not torch.allclose(output.logits["identity"], plain.logits["identity"])
    found = Distillation([Teacher.of(read.module(), 1)], student, LOGIT)(batch, output)["logit"][1]
    assert found.item() == pytest.approx(0, abs=1e-6)


def test_heads_of_one_name_teach_each_other_and_all_teach_the_rest(tmp_path: Path) -> None:
    labels = LabelMap((5, 2, 9))
    student, batch = tiny_module(labels).model.eval(), batch_of([1, 1])
    teacher = Teacher.of(checkpoint(tmp_path / "a.ckpt", labels, 1).module(), 1)
    two = {"identity": torch.randn(2, 3), "other": torch.randn(2, 3)}
    named = _Says(two)
    output = student(batch.images)
    ours = output.logits["identity"]
    said = Distillation([_with(teacher, named)], student, LOGIT)(batch, output)["logit"][1]
    torch.testing.assert_close(said, logit_loss(ours, two["identity"], 4.0).mean())
    strange = _Says({"a": two["identity"], "b": two["other"]})
    said = Distillation([_with(teacher, strange)], student, LOGIT)(batch, output)["logit"][1]
    mean = (two["identity"] + two["other"]) / 2
    torch.testing.assert_close(said, logit_loss(ours, mean, 4.0).mean())


class _Says(torch.nn.Module):
    """A network of given logits."""

    camera_labels: dict[int, LabelMap] = {}  # noqa: RUF012

    def __init__(self, logits: dict[str, Tensor]) -> None:
        super().__init__()
        self.said = logits

    def forward(self, images: Tensor, cameras: Tensor | None = None) -> ReIDOutput:
        return ReIDOutput(torch.ones(len(images), 2), {}, self.said)


def _with(teacher: Teacher, network: torch.nn.Module) -> Teacher:
    return replace(teacher, network=network)  # type: ignore[arg-type]


def test_a_teacher_sees_images_in_its_own_size(tmp_path: Path) -> None:
    read = checkpoint(tmp_path / "a.ckpt", LabelMap((5, 2)), 1, image_size=[48, 32])
    teacher, seen = Teacher.of(read.module(), 1), []
    teacher.network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    images = (batch_of([1, 1]).images > 127).to(torch.uint8) * 255  # edges that bicubic overshoots
    teacher(images, torch.ones(len(images), dtype=torch.int64))
    assert seen[0].shape == (2, 3, 48, 32)
    assert 0 <= seen[0].min() <= seen[0].max() <= 255
    assert (seen[0].mean() - images.float().mean()).abs() < 3


def test_gradients_do_not_reach_a_teacher(pair: tuple[Teacher, Teacher]) -> None:
    for parameter in pair[0].network.parameters():
        parameter.requires_grad_(True)
    student, batch = tiny_module(LabelMap((2, 3, 5))).model, batch_of([1, 2, 1, 2])
    losses = Distillation(pair, student, BOTH)(batch, student(batch.images))
    torch.stack([loss for _, loss in losses.values()]).sum().backward()
    assert all(p.grad is None for p in pair[0].network.parameters())
    assert any(p.grad.any() for p in student.parameters() if p.grad is not None)


def test_teachers_and_students_may_be_of_other_pixels(tmp_path: Path) -> None:
    labels = LabelMap((5, 2))
    raw = checkpoint(tmp_path / "a.ckpt", labels, 1)
    normal = checkpoint(tmp_path / "b.ckpt", labels, 1, pixels="imagenet")
    images = batch_of([1, 1, 1]).images
    cameras = torch.ones(3, dtype=torch.int64)
    expected = Teacher.of(raw.module(), 1)(images, cameras).features
    torch.testing.assert_close(Teacher.of(normal.module(), 1)(images, cameras).features, expected)
    student = normal.module().model
    batch = batch_of([1, 1, 1])
    batch = Batch(student.pixel_norm.normalize(images), batch.pids, batch.cameras)
    losses = Distillation([Teacher.of(raw.module(), 1)], student, BOTH)(
        batch, student(batch.images)
    )
    for _, loss in losses.values():
        assert loss.item() == pytest.approx(0, abs=1e-5)


def test_mixed_precision(pair: tuple[Teacher, Teacher]) -> None:
    student, batch = tiny_module(LabelMap((2, 3, 5))).model, batch_of([1, 2, 1, 3])
    with torch.autocast("cpu", torch.bfloat16):
        output = student(batch.images)
        assert output.logits["identity"].dtype == torch.bfloat16
        losses = Distillation(pair, student, BOTH)(batch, output)
    assert {loss.dtype for _, loss in losses.values()} == {torch.float32}
    assert all(loss.isfinite() for _, loss in losses.values())


@pytest.fixture
def taught(
    records: Records, tmp_path: Path, trainer: Callable[..., pl.Trainer]
) -> tuple[ReIDModule, Distillation, dict[str, Tensor], Path]:
    """A student after an epoch, its teachers' tensors before it, and its checkpoint."""
    teachers = [
        Teacher.of(
            checkpoint(tmp_path / f"{c}.ckpt", OriginalSplit(camera=c)(records).labels, c).module(),
            c,
        )
        for c in (1, 2)
    ]
    split = OriginalSplit()(records)
    module = tiny_module(split.labels)
    distillation = Distillation(teachers, module.model, BOTH)
    module.extra_losses.append(distillation)
    before = {
        f"{i}.{k}": v.clone()
        for i, t in enumerate(teachers)
        for k, v in t.network.state_dict().items()
    }
    fit = trainer()
    fit.fit(module, ReIDDataModule(split, (64, 32), identities=4, workers=0))
    fit.save_checkpoint(tmp_path / "student.ckpt")
    assert {"train/similarity_loss", "train/logit_loss"} <= set(fit.callback_metrics)
    return module, distillation, before, tmp_path / "student.ckpt"


def test_teachers_are_left_as_they_are_and_out_of_the_module(
    taught: tuple[ReIDModule, Distillation, dict[str, Tensor], Path],
) -> None:
    module, distillation, before, path = taught
    for place, teacher in enumerate(distillation.teachers):
        assert not teacher.network.training
        assert all(not p.requires_grad and p.grad is None for p in teacher.network.parameters())
        for name, tensor in teacher.network.state_dict().items():
            assert torch.equal(tensor, before[f"{place}.{name}"]), name
    own = set(tiny_module(module.labels).state_dict())
    assert set(module.state_dict()) == own
    assert set(torch.load(path, weights_only=True)["state_dict"]) == own
    theirs = {id(p) for t in distillation.teachers for p in t.network.parameters()}
    assert not theirs & {id(p) for p in module.parameters()}


def test_the_losses_are_part_of_what_is_minimised(pair: tuple[Teacher, Teacher]) -> None:
    module = tiny_module(LabelMap((2, 3, 5)), loss={**CONFIG["loss"], "identity_weight": 0.0})
    module.metric_losses.clear()
    module.extra_losses.append(Distillation(pair, module.model, BOTH))
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    batch = batch_of([1, 2, 1, 2])
    module.log = module.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
    named = {"images": batch.images, "pids": batch.pids, "camids": batch.cameras - 1}
    values = []
    for _ in range(20):
        loss = module.training_step(named, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.7 * values[0]


def test_what_can_not_be_learnt_is_refused(pair: tuple[Teacher, Teacher], tmp_path: Path) -> None:
    student = tiny_module(LabelMap((2, 3, 5))).model
    with pytest.raises(InputError, match="no teachers"):
        Distillation([], student, BOTH)
    nobody = Teacher.of(checkpoint(tmp_path / "n.ckpt", LabelMap.anonymous(3), 4).module(), 1)
    with pytest.raises(InputError, match=r"logit_weight=0"):
        Distillation([nobody], student, BOTH)
    with pytest.raises(InputError, match=r"logit_weight=0"):
        Distillation(pair, tiny_module(LabelMap((2, 400))).model, LOGIT)
    batch = batch_of([1, 2])
    output = student(batch.images)
    mixed = Distillation([nobody, pair[1]], student, BOTH)(batch, output)["logit"][1]
    alone = Distillation([pair[1]], student, BOTH)(batch, output)["logit"][1]
    torch.testing.assert_close(mixed, alone)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ((-1.0, 0.1, 1.0, 4.0), "similarity_weight=-1.0"),
        ((1.0, 0.0, 1.0, 4.0), "similarity_temperature=0"),
        ((1.0, 0.1, 1.0, -4.0), "logit_temperature=-4.0"),
        ((1.0, 0.1, "much", 4.0), "logit_weight=much"),
        ((0.0, 0.1, 0.0, 4.0), "logit_weight=0"),
    ],
)
def test_options_out_of_range(options: tuple[object, ...], part: str) -> None:
    with pytest.raises(InputError, match=part):
        DistillConfig(*options)  # type: ignore[arg-type]


def network(**options: object) -> dict[str, object]:
    return {**CONFIG["network"], "cameras": [1, 2], **options}


def test_a_teacher_is_told_the_cameras(tmp_path: Path) -> None:
    read = checkpoint(tmp_path / "a.ckpt", LabelMap((5, 2)), 1, network=network(camera_norm=True))
    state = {
        name: value.flip(0) * 3 + 1 if name.endswith("camera_mean") else value
        for name, value in read.state.items()
    }
    state = {n: torch.ones_like(v) if n.endswith("camera_batches") else v for n, v in state.items()}
    teacher = Teacher.of(replace(read, state=state).module(), None)
    batch = batch_of([1, 2])
    told = teacher(batch.images, batch.cameras)
    torch.testing.assert_close(
        told.features, teacher.network(batch.images, cameras=batch.cameras).features
    )
    assert not torch.allclose(told.features, teacher.network(batch.images).features)


def test_a_head_of_a_camera_learns_from_its_teacher(pair: tuple[Teacher, Teacher]) -> None:
    labels = {1: LabelMap((2, 3, 5)), 2: LabelMap((3, 5, 7))}
    student = tiny_module(labels, network=network(camera_heads=True)).model.eval()
    batch = batch_of([2, 1])
    output = student(batch.images, cameras=batch.cameras)
    found = Distillation(pair, student, LOGIT)(batch, output)["logit"][1]
    alone = [
        logit_loss(
            output.logits[name][[image]][:, ours],
            teacher.network(batch.images[[image]]).logits["identity"][:, theirs],
            4.0,
        )
        for name, image, teacher, ours, theirs in (
            ("c1", 1, pair[0], [2, 0], [0, 2]),
            ("c2", 0, pair[1], [2, 0], [0, 3]),
        )
    ]
    torch.testing.assert_close(found, torch.cat(alone).mean())
    found.backward()
    assert all(head.weight.grad.any() for head in student.remap_heads().values())


def test_a_batch_without_cameras_has_no_logit_loss_from_a_teacher_of_one(
    pair: tuple[Teacher, Teacher],
) -> None:
    student = tiny_module(LabelMap((2, 5, 7))).model
    batch = replace(batch_of([1, 1, 1]), cameras=torch.zeros(3, dtype=torch.int64))
    output = student(batch.images)
    losses = Distillation(pair, student, BOTH)(batch, output)
    assert losses["logit"][1].item() == 0
    assert losses["similarity"][1].item() > 0
    everywhere = tuple(replace(teacher, camera=None) for teacher in pair)
    losses = Distillation(everywhere, student, BOTH)(batch, output)
    assert losses["logit"][1].item() > 0
