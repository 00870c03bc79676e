"""The distillation losses, against loops and rows translated by hand."""

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from camreid.checkpoints.average import update_batch_norm
from camreid.data import OriginalSplit, Records, ReIDDataModule
from camreid.errors import InputError
from camreid.labels import HeadLabels, LabelMap
from camreid.losses.distillation import cosines, logit_loss, similarity_loss
from camreid.models.network import ReIDNetwork, ReIDOutput
from camreid.training import ReIDModule
from camreid.training.batch import Batch
from camreid.training.distill import Distillation, DistillConfig, Teacher
from tests.conftest import CONFIG, tiny_module

BOTH = DistillConfig(1.0, 0.1, 1.0, 4.0)
LOGIT = DistillConfig(0.0, 0.1, 1.0, 4.0)


def trained(labels: HeadLabels, seed: int, **options: object) -> ReIDModule:
    """A module with features and rows that are far apart, in evaluation mode."""
    torch.manual_seed(seed)
    module = ReIDModule({**CONFIG, **options}, labels)
    for head in module.model.remap_heads().values():
        nn.init.normal_(head.weight)
    images, pixels = batch_of([1] * 16, seed=9).images, module.model.pixel_norm
    images = pixels.normalize(images) if pixels.pixels == "imagenet" else images
    update_batch_norm(module.model, [{"images": images}])
    return module.eval()


@pytest.fixture
def pair() -> tuple[Teacher, Teacher]:
    """Teachers of cameras 1 and 2 that share one identity, rows in no order."""
    first, second = trained(LabelMap((5, 9, 2)), 1), trained(LabelMap((7, 2, 11, 3)), 2)
    return Teacher(first, 1), Teacher(second, 2)


def student_of(*pids: int, **options: object) -> ReIDNetwork:
    return tiny_module(LabelMap(pids), **options).model.eval()


def batch_of(cameras: list[int], seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    patches = torch.randint(0, 256, (len(cameras), 3, 4, 2), dtype=torch.uint8, generator=draw)
    images = patches.repeat_interleave(16, 2).repeat_interleave(16, 3)
    return Batch(images, torch.full((len(cameras),), 2), torch.tensor(cameras))


def divergence(target: Tensor, ours: Tensor) -> float:
    """KL divergence of two softmaxes, in a loop."""
    shares = [
        [math.exp(v) / sum(map(math.exp, x)) for v in x] for x in (target.tolist(), ours.tolist())
    ]
    return sum(t * math.log(t / o) for t, o in zip(*shares, strict=True))


def test_losses_are_those_of_slow_loops() -> None:
    draw = torch.Generator().manual_seed(3)
    ours, theirs = (cosines(torch.randn(6, 5, generator=draw)) for _ in range(2))
    found = similarity_loss(ours, theirs, 0.2)
    for row in range(6):
        rest = [column for column in range(6) if column != row]
        expected = divergence(theirs[row, rest] / 0.2, ours[row, rest] / 0.2)
        assert found[row].item() == pytest.approx(expected, rel=1e-5)
    assert similarity_loss(torch.ones(1, 1), torch.ones(1, 1), 0.1) == 0
    ours, theirs = (3 * torch.randn(4, 5, generator=draw) for _ in range(2))
    found = logit_loss(ours, theirs, 2.5)
    for row in range(4):
        expected = 2.5**2 * divergence(theirs[row] / 2.5, ours[row] / 2.5)
        assert found[row].item() == pytest.approx(expected, rel=1e-5)


def test_the_similarities_are_the_mean_of_the_teachers(pair: tuple[Teacher, Teacher]) -> None:
    student, batch = student_of(1, 2), batch_of([1, 2, 3, 1])
    output = student(batch.images)
    losses = Distillation(pair, student, DistillConfig(0.7, 0.1, 0.0, 4.0))(batch, output)
    target = sum(cosines(teacher.module.model(batch.images).features) for teacher in pair) / 2
    expected = similarity_loss(cosines(output.features), target, 0.1).mean()  # type: ignore[arg-type]
    torch.testing.assert_close(losses, {"similarity": (0.7, expected)})


@pytest.mark.parametrize("similarity", [0.0, 1.0])
def test_rows_are_matched_by_identity(pair: tuple[Teacher, Teacher], similarity: float) -> None:
    student, batch = student_of(2, 3, 5, 9), batch_of([2, 1, 3, 1])
    output = student(batch.images)
    config = DistillConfig(similarity, 0.1, 1.0, 4.0)
    found = Distillation(pair, student, config)(batch, output)["logit"][1]
    ours = output.logits["identity"].detach() / 4
    theirs = [teacher.module.model(batch.images).logits["identity"] / 4 for teacher in pair]
    # image, teacher, the rows of the shared identities in the teacher's head and in the student's
    lessons = [(1, 0, [0, 1, 2], [2, 3, 0]), (3, 0, [0, 1, 2], [2, 3, 0]), (0, 1, [1, 3], [0, 1])]
    values = [
        divergence(theirs[teacher][image, their_rows], ours[image, our_rows])
        for image, teacher, their_rows, our_rows in lessons
    ]
    assert found.item() == pytest.approx(16 * sum(values) / 3, rel=1e-4)


@pytest.mark.parametrize("cameras", [[3, 4, 5], [0, 0, 0]])
def test_a_teacher_of_one_camera_gives_logits_of_its_images_alone(
    pair: tuple[Teacher, Teacher], cameras: list[int]
) -> None:
    student, batch = student_of(2, 3, 5), batch_of(cameras)
    losses = Distillation(pair, student, BOTH)(batch, student(batch.images))
    assert losses["logit"][1].item() == 0
    assert losses["similarity"][1].item() > 0
    losses["logit"][1].backward()  # of DDP: each head takes part
    assert student.heads["identity"].weight.grad.count_nonzero() == 0
    everywhere, output = replace(pair[0], camera=None), student(batch.images)
    found = Distillation([everywhere], student, LOGIT)(batch, output)["logit"][1]
    theirs = pair[0].module.model(batch.images).logits["identity"]
    expected = logit_loss(output.logits["identity"][:, [2, 0]], theirs[:, [0, 2]], 4.0).mean()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("pixels", ["raw", "imagenet"])
@pytest.mark.parametrize("classifier", ["linear", "arc", "circle"])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(classifier: str, pixels: str) -> None:
    network = {**CONFIG["network"], "classifier": classifier, "scale": 8.0, "margin": 0.3}
    labels, batch = LabelMap((5, 2, 9)), batch_of([1, 1, 1])
    teacher = Teacher(trained(labels, 1, network=network), 1)
    student = trained(labels, 1, network=network, pixels=pixels).model
    if pixels == "imagenet":
        batch = replace(batch, images=student.pixel_norm.normalize(batch.images))
    output = student(batch.images, torch.tensor([1, 1, 0]))  # as in training: with margin
    for _, loss in Distillation([teacher], student, BOTH)(batch, output).values():
        assert loss.item() == pytest.approx(0, abs=1e-5)


class Given(ReIDNetwork):
    """A network of given logits."""

    def __init__(self, logits: dict[str, Tensor]) -> None:
        super().__init__()
        self.given = logits

    def forward(self, images: Tensor, cameras: Tensor | None = None) -> ReIDOutput:
        return ReIDOutput(torch.ones(len(images), 2), {}, self.given)


@pytest.mark.parametrize("names", [("identity", "other"), ("a", "b")])
def test_heads_learn_from_the_head_of_their_name_or_from_the_mean(names: tuple[str, str]) -> None:
    student, batch = student_of(5, 2, 9), batch_of([1, 1])
    logits = dict(zip(names, torch.randn(2, 2, 3), strict=True))
    output = student(batch.images)
    module = SimpleNamespace(labels=LabelMap((5, 2, 9)), camera_labels=None, model=Given(logits))
    module.config = SimpleNamespace(image_size=(64, 32))
    teacher = Teacher(module, 1)  # type: ignore[arg-type]
    found = Distillation([teacher], student, LOGIT)(batch, output)["logit"][1]
    target = logits.get("identity", sum(logits.values()) / 2)
    torch.testing.assert_close(found, logit_loss(output.logits["identity"], target, 4.0).mean())


def test_a_teacher_gets_images_in_its_own_size_and_the_cameras() -> None:
    teacher, given = Teacher(trained(LabelMap((5, 2)), 1, image_size=[48, 32]), 1), []
    teacher.module.model.register_forward_pre_hook(
        lambda *call: given.append(call[1:]), with_kwargs=True
    )
    images = (batch_of([1, 1]).images > 127).to(torch.uint8) * 255  # edges that bicubic overshoots
    teacher(images, torch.tensor([1, 2]))
    (((shown,), options),) = given
    assert shown.shape == (2, 3, 48, 32)
    assert 0 <= shown.min() <= shown.max() <= 255
    assert (shown.mean() - images.float().mean()).abs() < 3
    assert options["cameras"].tolist() == [1, 2]


def test_losses_are_single_precision_and_their_gradients_do_not_reach_a_teacher(
    pair: tuple[Teacher, Teacher],
) -> None:
    student, batch = student_of(2, 3, 5), batch_of([1, 2, 1, 3])
    pair[0].module.model.requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        losses = Distillation(pair, student, BOTH)(batch, student(batch.images))
    total = torch.stack([loss for _, loss in losses.values()]).sum()
    assert total.dtype == torch.float32
    total.backward()
    assert all(p.grad is None for p in pair[0].module.model.parameters())
    assert student.heads["identity"].weight.grad.any()


def test_training_leaves_the_teachers_as_they_are_and_out_of_the_module(
    records: Records, trainer: Callable[..., pl.Trainer]
) -> None:
    modules = [trained(OriginalSplit(camera=c)(records).labels, c) for c in (1, 2)]
    before = [{k: v.clone() for k, v in m.model.state_dict().items()} for m in modules]
    split = OriginalSplit()(records)
    student = tiny_module(split.labels)
    own = student.state_dict().keys()
    teachers = [Teacher(m, c) for c, m in enumerate(modules, 1)]
    student.extra_losses.append(Distillation(teachers, student.model, BOTH))
    fit = trainer(limit_train_batches=2)
    fit.fit(student, ReIDDataModule(split, (64, 32), identities=4, workers=0))
    assert {"train/similarity_loss", "train/logit_loss"} <= set(fit.callback_metrics)
    assert student.state_dict().keys() == own
    for module, state in zip(modules, before, strict=True):
        torch.testing.assert_close(module.model.state_dict(), state, rtol=0, atol=0)


def test_teachers_without_shared_identities_are_refused(pair: tuple[Teacher, Teacher]) -> None:
    anonymous = Teacher(trained(LabelMap.anonymous(3), 4), 1)
    for teachers, student in (([anonymous], student_of(2, 3, 5)), (pair, student_of(2, 400))):
        with pytest.raises(InputError, match="logit_weight=0"):
            Distillation(teachers, student, BOTH)


def test_a_head_of_a_camera_learns_from_its_teacher(pair: tuple[Teacher, Teacher]) -> None:
    labels = {1: LabelMap((2, 5, 9)), 2: LabelMap((2, 3))}
    network = {**CONFIG["network"], "cameras": [1, 2], "camera_heads": True}
    student, batch = tiny_module(labels, network=network).model.eval(), batch_of([2, 1])
    output = student(batch.images, cameras=batch.cameras)
    found = Distillation(pair, student, LOGIT)(batch, output)["logit"][1]
    first, second = (teacher.module.model(batch.images).logits["identity"] for teacher in pair)
    alone = [
        logit_loss(output.logits["c1"][1:, [1, 2, 0]], first[1:, [0, 1, 2]], 4.0),
        logit_loss(output.logits["c2"][:1, [0, 1]], second[:1, [1, 3]], 4.0),
    ]
    torch.testing.assert_close(found, torch.cat(alone).mean())
    found.backward()
    assert all(head.weight.grad.any() for head in student.remap_heads().values())
