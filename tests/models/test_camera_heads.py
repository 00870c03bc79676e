"""A head per camera: who is classified among whom, and who is compared with whom."""

import json
import math
from collections.abc import Callable

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from camreid.checkpoints.io import read_checkpoint, save
from camreid.checkpoints.start import start_from
from camreid.data import OriginalSplit, Records, ReIDDataModule, Resplit, Split
from camreid.errors import HeadMismatch, InputError
from camreid.labels import LabelMap, fit_labels
from camreid.losses.triplet import PairLoss, TripletLoss
from camreid.models.camera_heads import own_logits
from camreid.training import ReIDModule
from camreid.training.camera_losses import camera_identity_loss, within_cameras
from camreid.training.head_check import HeadCheck, check_head
from tests.conftest import CONFIG, tiny_module

LABELS = LabelMap((10, 2, 7, 4))
PAIRS = [(10, 1), (2, 1), (2, 3), (7, 3), (4, 3)]
Trainer = Callable[..., pl.Trainer]
NETWORK = {**CONFIG["network"], "camera_heads": True, "cameras": [1, 3]}
LOSS = CONFIG["loss"]


def module_of(labels: LabelMap = LABELS, **options: object) -> ReIDModule:
    return tiny_module(labels, **{"network": NETWORK, **options})


def members(module: ReIDModule) -> dict[int, list[int]]:
    heads = module.model.camera_heads().items()
    return {c: sorted(head.pids[head.members].tolist()) for c, head in heads}


def test_heads_are_over_one_label_map_and_know_their_people() -> None:
    module = module_of()
    module.set_cameras(PAIRS)
    assert list(module.model.heads) == ["c1", "c3"]
    assert module.labels == LABELS
    assert members(module) == {1: [2, 10], 3: [2, 4, 7]}
    # others keep what is known, those named are told anew; strangers have no row
    module.set_cameras([(2, 1), (10, 3), (99, 1), (4, 5)])
    assert members(module) == {1: [2], 3: [7, 10]}


@pytest.mark.parametrize("smoothing", [0.0, 0.1, "adaptive"])
def test_an_image_is_classified_among_the_people_of_its_camera(smoothing: float | str) -> None:
    module = module_of()
    module.set_cameras(PAIRS)
    generator = torch.Generator().manual_seed(0)
    # the fourth person is not of its camera, the fifth camera has no head, the sixth has no row
    cameras = torch.tensor([1, 3, 3, 1, 5, 1, 1])
    rows = torch.tensor([1, 1, 3, 2, 0, -1, 0])
    logits = {
        name: torch.randn(7, 4, generator=generator).requires_grad_() for name in ("c1", "c3")
    }
    found = camera_identity_loss(module.model.camera_heads(), logits, rows, cameras, smoothing)
    people = {1: [0, 1], 3: [1, 2, 3]}
    terms = []
    for image in (0, 1, 2, 6):
        camera = int(cameras[image])
        own = [math.exp(logits[f"c{camera}"][image, row].item()) for row in people[camera]]
        scores = {row: math.log(v / sum(own)) for row, v in zip(people[camera], own, strict=True)}
        true = scores.pop(int(rows[image]))
        share = 0.2 * math.exp(true) if smoothing == "adaptive" else smoothing
        terms.append(-(1 - share) * true - share * sum(scores.values()) / len(scores))
    assert found.item() == pytest.approx(sum(terms) / 4, rel=1e-5)
    found.backward()
    for name, own in (("c1", {0, 6}), ("c3", {1, 2})):
        used = logits[name].grad.abs() > 0
        assert set(used.any(1).nonzero()[:, 0].tolist()) == own
        assert set(used.any(0).nonzero()[:, 0].tolist()) <= set(people[int(name[1])])


def test_of_no_known_camera_the_loss_is_zero() -> None:
    module = module_of()
    logits = {name: torch.randn(2, 4, requires_grad=True) for name in ("c1", "c3")}
    heads, rows = module.model.camera_heads(), torch.tensor([0, 1])
    for cameras in (torch.tensor([9, 9]), torch.tensor([1, 3])):  # nobody was told yet
        loss = camera_identity_loss(heads, logits, rows, cameras, 0.1)
        loss.backward()
        assert loss.item() == 0
        assert all(value.grad.isfinite().all() for value in logits.values())


def test_guesses_are_of_the_own_camera() -> None:
    module = module_of()
    module.set_cameras(PAIRS)
    logits = {"c1": torch.eye(4)[[3, 0]], "c3": torch.eye(4)[[0, 2]]}
    heads, rows = module.model.camera_heads(), torch.tensor([0, 3])
    own, among, true = own_logits(heads, logits, rows, torch.tensor([1, 3]), "members")
    assert torch.equal(own, torch.stack([logits["c1"][0], logits["c3"][1]]))
    assert among.tolist() == [[True, True, False, False], [False, True, True, True]]
    assert true.tolist() == [0, 3]
    *_, true = own_logits(heads, logits, rows, torch.tensor([3, 1]), "members")
    assert true.tolist() == [-1, -1]


def triplets(embeddings: Tensor, pids: Tensor, cameras: Tensor, margin: float | str) -> float:
    terms = []
    for i in range(len(pids)):
        gaps = {True: [], False: []}
        for j in range(len(pids)):
            if i != j and cameras[i] == cameras[j]:
                distance = (embeddings[i] - embeddings[j]).norm().item()
                gaps[bool(pids[i] == pids[j])].append(distance)
        if gaps[True] and gaps[False]:
            gap = max(gaps[True]) - min(gaps[False])
            soft = math.log1p(math.exp(gap))
            terms.append(soft if margin == "soft" else max(0.0, gap + margin))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("margin", [0.3, "soft"])
def test_triplets_are_within_cameras(margin: float | str) -> None:
    generator = torch.Generator().manual_seed(0)
    pids = torch.tensor([1, 1, 2, 2, 1, 1, 3, 5, 5, 8])
    cameras = torch.tensor([1, 1, 1, 1, 2, 2, 2, 3, 3, 4])  # the third has one person
    embeddings = torch.randn(10, 6, generator=generator)
    found = within_cameras(TripletLoss(margin), embeddings, pids, cameras)
    expected = triplets(embeddings, pids, cameras, margin)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    across = TripletLoss(margin)(embeddings, pids).item()
    assert across != pytest.approx(expected, rel=1e-3)
    one = torch.zeros(10)
    found = within_cameras(TripletLoss(margin), embeddings, pids, one)
    assert found.item() == pytest.approx(across, rel=1e-5)


def test_pairs_are_within_cameras_and_mean_over_all_images() -> None:
    generator = torch.Generator().manual_seed(0)
    pids, cameras = torch.tensor([1, 1, 2, 1, 2, 2]), torch.tensor([1, 1, 1, 2, 2, 2])
    embeddings = torch.randn(6, 5, generator=generator)
    loss = PairLoss("circle", scale=4.0)
    halves = [loss(embeddings[s], pids[s]) for s in (slice(3), slice(3, 6))]
    found = within_cameras(loss, embeddings, pids, cameras)
    torch.testing.assert_close(found, (halves[0] + halves[1]) / 2)
    nobody = within_cameras(TripletLoss(0.3), embeddings, pids, torch.arange(6))
    assert nobody.item() == 0


def batch_of(pids: list[int], cameras: list[int]) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    return {
        "images": torch.randint(
            0, 256, (len(pids), 3, 64, 32), dtype=torch.uint8, generator=generator
        ),
        "pids": torch.tensor(pids),
        "camids": torch.tensor(cameras) - 1,
        "img_paths": [f"{n}.jpg" for n in range(len(pids))],
    }


def test_a_training_step_adds_both_up() -> None:
    module = module_of()
    module.set_cameras(PAIRS)
    logged: dict[str, Tensor] = {}
    module.log = lambda *args, **options: None  # type: ignore[assignment]
    module.log_dict = lambda values, **options: logged.update(values)  # type: ignore[assignment]
    batch = batch_of([10, 10, 2, 2, 2, 2, 7, 7], [1, 1, 1, 1, 3, 3, 3, 3])
    total = module.training_step(batch, 0)
    output = module_of().model.train()(batch["images"])
    embeddings, pids, cameras = output.embeddings["identity"], batch["pids"], batch["camids"]
    expected = triplets(embeddings, pids, cameras, LOSS["triplet_margin"])
    assert logged["train/triplet_loss"].item() == pytest.approx(expected, rel=1e-4)
    heads = module.model.camera_heads()
    rows = LABELS.rows(pids)
    identity = camera_identity_loss(heads, output.logits, rows, cameras + 1, LOSS["smoothing"])
    assert logged["train/identity_loss"].item() == pytest.approx(identity.item(), rel=1e-4)
    assert total.item() == pytest.approx(expected + identity.item(), rel=1e-4)
    total.backward()
    assert module.model.heads["c3"].weight.grad[0].abs().sum() == 0  # 10 is of camera 1 alone


def test_a_batch_must_say_its_cameras() -> None:
    module = module_of()
    module.set_cameras(PAIRS)
    batch = batch_of([10, 10], [1, 1])
    del batch["camids"]
    with pytest.raises(InputError, match="give `camids`"):
        module.training_step(batch, 0)


def test_the_checkpoint_knows_whom_each_camera_has(tmp_path) -> None:
    module = module_of()
    module.set_cameras(PAIRS)
    save(module, tmp_path / "a.ckpt")
    checkpoint = read_checkpoint(tmp_path / "a.ckpt")
    assert members(checkpoint.module()) == {1: [2, 10], 3: [2, 4, 7]}
    again = module_of(fit_labels(LABELS, LabelMap((7, 5)), "extend"), unknown="extend")
    start_from(again, checkpoint)
    assert again.new_identities.pids == (5,)
    assert members(again) == {1: [2, 10], 3: [2, 4, 7]}
    again.set_cameras([(7, 1), (5, 3)])
    assert members(again) == {1: [2, 7, 10], 3: [2, 4, 5]}
    for name in ("c1", "c3"):
        row = again.model.heads[name].weight[again.labels.row(2)]
        assert torch.equal(row, module.model.heads[name].weight[LABELS.row(2)])
    fresh = module_of(LabelMap((7, 5)), unknown="reinit")
    start_from(fresh, checkpoint)
    assert members(fresh) == {1: [], 3: []}


def known(module: ReIDModule) -> dict[int, list[int]]:
    heads = module.model.camera_heads().items()
    return {c: sorted(head.pids[head.known].tolist()) for c, head in heads}


def test_fine_tuning_on_one_camera_keeps_what_the_others_know(tmp_path) -> None:
    module = module_of()
    module.set_cameras(PAIRS)
    save(module, tmp_path / "joint.ckpt")
    tuned = module_of()
    start_from(tuned, read_checkpoint(tmp_path / "joint.ckpt"))
    tuned.set_cameras([(2, 3), (10, 3)])
    assert members(tuned)[3] == [2, 4, 7, 10]
    assert known(tuned) == {1: [2, 10], 3: [2, 4, 7, 10]}
    save(tuned, tmp_path / "tuned.ckpt")
    assert known(read_checkpoint(tmp_path / "tuned.ckpt").module()) == known(tuned)

    again = module_of(unknown="extend").eval()
    start_from(again, read_checkpoint(tmp_path / "tuned.ckpt"))
    again.set_cameras(PAIRS)
    assert all(not head.unstarted.pids for head in again.model.camera_heads().values())
    fit = check_head("c1", again.model.heads["c1"], 96, {10: 1, 2: 1}, None, LABELS)
    assert (fit.shared, fit.unknown) == (2, 0)


def test_rows_of_whom_a_camera_has_no_more_are_left_alone_and_tested(tmp_path) -> None:
    module = module_of()
    module.set_cameras([*PAIRS, (7, 1)])
    save(module, tmp_path / "joint.ckpt")
    tuned = module_of()
    start_from(tuned, read_checkpoint(tmp_path / "joint.ckpt"))
    tuned.set_cameras([(10, 1), (7, 1), (2, 3)])  # 2 is in camera 3 alone now
    assert members(tuned)[1] == [7, 10]
    pids, cameras = torch.tensor([10, 7, 2]), torch.tensor([1, 1, 3])
    heads, rows = tuned.model.camera_heads(), LABELS.rows(pids)
    output = tuned.model(batch_of([10, 7, 2], [1, 1, 3])["images"], rows, cameras)
    camera_identity_loss(heads, output.logits, rows, cameras).backward()
    used = tuned.model.heads["c1"].weight.grad.abs().sum(1) > 0
    assert sorted(LABELS.pids[row] for row in used.nonzero()[:, 0].tolist()) == [7, 10]
    asked = (heads, output.logits, LABELS.rows(torch.tensor([2, 4, 2])), torch.tensor([1, 1, 3]))
    assert own_logits(*asked, "known")[2].tolist() == [1, -1, 1]
    assert own_logits(*asked, "members")[2].tolist() == [-1, -1, 1]


def test_a_module_that_is_fitted_again_keeps_what_it_has_trained(
    records: Records, trainer: Trainer
) -> None:
    module = module_of(OriginalSplit()(records).labels)
    for split in (OriginalSplit()(records), OriginalSplit(camera=3)(records)):
        data = ReIDDataModule(split, (64, 32), identities=4, workers=0)
        trainer(limit_train_batches=1).fit(module, data)
    first = {r.pid for r in OriginalSplit()(records).train if r.camera == 1}
    assert known(module)[1] == sorted(first)
    assert not set(members(module)[1]) & set(split.labels.pids)


def test_checkpoints_of_before_have_trained_whom_their_cameras_have(tmp_path) -> None:
    module = module_of()
    module.set_cameras(PAIRS)
    state = {k: v for k, v in module.state_dict().items() if not k.endswith(".trained")}
    again = module_of()
    again.load_state_dict(state)
    assert known(again) == members(module)


def test_new_rows_start_from_the_images_of_the_camera(tmp_path) -> None:
    module = module_of()
    module.set_cameras(PAIRS)
    save(module, tmp_path / "a.ckpt")
    again = module_of(LabelMap((*LABELS.pids, 5)), unknown="extend").eval()
    start_from(again, read_checkpoint(tmp_path / "a.ckpt"))
    batch = batch_of([5, 5, 5, 2], [1, 3, 3, 1])
    again.start_rows([batch])
    features = again.model(batch["images"]).features
    for name, images in (("c1", [0]), ("c3", [1, 2])):
        row = again.model.heads[name].weight[4]
        mean = features[images].mean(0)
        assert torch.cosine_similarity(row, mean, dim=0) > 0.9999
    assert not torch.allclose(features[0], features[1:3].mean(0), rtol=1e-3)


def test_rows_that_a_camera_never_trained_start_from_its_images(tmp_path) -> None:
    module = module_of()
    module.set_cameras(PAIRS)
    save(module, tmp_path / "a.ckpt")
    images = batch_of([10, 10, 2, 7], [3, 1, 3, 1])
    pairs = [(10, 3), (10, 1), (2, 3), (7, 1)]  # 10 is new in camera 3, and 7 in camera 1
    heads = {}
    for unknown in ("extend", "skip"):
        again = module_of(unknown=unknown).eval()
        start_from(again, read_checkpoint(tmp_path / "a.ckpt"))
        again.set_cameras(pairs)
        again.start_rows([images])
        heads[unknown] = again.model.heads
        rows = again.labels
        fits = [
            check_head(name, head, head.dim, images, again.provenance.inherited[name], rows)
            for (name, head), images in zip(
                again.model.remap_heads().items(), ({10: 1, 7: 1}, {10: 1, 2: 4}), strict=True
            )
        ]
        assert [(f.shared, f.unknown, f.image_coverage) for f in fits] == [(1, 1, 0.5), (1, 1, 0.8)]
    started = {("c3", 0): 0, ("c1", 2): 3}
    features = again.model(images["images"], cameras=images["camids"] + 1).features
    for name in ("c1", "c3"):
        old = module.model.heads[name]
        assert torch.equal(heads["skip"][name].weight, old.weight)
        for row in range(4):
            found = heads["extend"][name].weight[row]
            if (name, row) not in started:
                assert torch.equal(found, old.weight[row])
                continue
            image = features[started[name, row]]
            assert torch.cosine_similarity(found, image, dim=0) > 0.9999
            length = old.weight[old.members].norm(dim=1).mean()
            torch.testing.assert_close(found.norm(), length)


def test_a_plain_model_starts_every_head(tmp_path) -> None:
    plain = tiny_module(LABELS)
    save(plain, tmp_path / "a.ckpt")
    module = module_of(LabelMap((7, 10)))
    start_from(module, read_checkpoint(tmp_path / "a.ckpt"))
    theirs = plain.model.heads["identity"].weight[[2, 0]]
    assert all(torch.equal(head.weight, theirs) for head in module.model.remap_heads().values())
    assert members(module) == {1: [], 3: []}
    save(module, tmp_path / "b.ckpt")
    with pytest.raises(InputError, match=r"cameras \[1, 3\].*model for none"):
        start_from(tiny_module(LABELS), read_checkpoint(tmp_path / "b.ckpt"))
    other = module_of(network={**NETWORK, "cameras": [3, 1]})
    with pytest.raises(InputError, match=r"type model.network.cameras=\[1, 3\]"):
        start_from(other, read_checkpoint(tmp_path / "b.ckpt"))


def test_fit_tells_the_heads_and_the_check_tells_each_camera(
    records: Records, trainer: Trainer, tmp_path
) -> None:
    split = OriginalSplit()(records)
    network = {**NETWORK, "cameras": [1, 2, 3, 4, 5, 6]}
    module = module_of(split.labels, network=network)
    data = ReIDDataModule(split, (64, 32), identities=4, workers=0, within_camera=True)
    check = HeadCheck(1.0, str(tmp_path / "h.json"))
    trainer(callbacks=[check], limit_train_batches=1).fit(module, data)
    for camera, people in members(module).items():
        assert people == sorted({r.pid for r in split.train if r.camera == camera})
    for fit in json.loads((tmp_path / "h.json").read_text())["heads"]:
        own = [r for r in split.train if r.camera == fit["camera"]]
        count = len({r.pid for r in own})
        assert (fit["identities"], fit["shared"], fit["unknown"]) == (count, count, 0)
        assert fit["rows"] == len(split.labels)
    known = LabelMap(tuple({r.pid for r in split.train if r.camera == 2}))
    module = module_of(known, network=network)
    with pytest.raises(HeadMismatch, match=r"Head 'c1' has .* train identities of camera 1 are"):
        trainer(callbacks=[HeadCheck(1.0)], limit_train_batches=1).fit(module, data)


def test_fine_tuning_from_python_tells_the_heads_of_the_new_people(
    records: Records, trainer: Trainer, tmp_path
) -> None:
    """The recipe of the README, with a head per camera."""
    network = {**NETWORK, "cameras": [1, 2, 3, 4, 5, 6]}

    def fit(module: ReIDModule, split: Split) -> list[dict[str, object]]:
        data = ReIDDataModule(split, (64, 32), identities=4, workers=0, within_camera=True)
        check = HeadCheck(path=str(tmp_path / "h.json"))
        trainer(callbacks=[check], limit_train_batches=1).fit(module, data)
        return json.loads((tmp_path / "h.json").read_text())["heads"]

    first = Resplit(train_fraction=0.5, seed=0)(records)
    module = module_of(first.labels, network=network)
    fits = fit(module, first)
    save(module, tmp_path / "first.ckpt")
    before = members(module)
    assert [f["members"] for f in fits] == [len(people) for people in before.values()]

    second = Resplit(train_fraction=0.5, seed=1)(records)
    start = read_checkpoint(tmp_path / "first.ckpt")
    module = module_of(
        fit_labels(start.labels, second.labels, "extend"), network=network, unknown="extend"
    )
    start_from(module, start)
    fits = fit(module, second)
    assert set(second.labels.pids) - set(first.labels.pids)
    for fit_of, (camera, people) in zip(fits, members(module).items(), strict=True):
        own = {r.pid for r in second.train if r.camera == camera}
        kept = set(before[camera]) - set(second.labels.pids)
        assert set(people) == own | kept
        assert fit_of["members"] == len(people)


def test_the_check_refuses_whom_a_camera_was_not_told_of(
    records: Records, trainer: Trainer
) -> None:
    split = OriginalSplit()(records)
    loader = ReIDDataModule(split, (64, 32), identities=4, workers=0).train_dataloader()
    pairs = [(r.pid, r.camera) for r in split.train]
    some = sorted({pid for pid, camera in pairs if camera == 3})[:2]
    module = module_of(split.labels)
    module.set_cameras(pair for pair in pairs if pair not in [(pid, 3) for pid in some])
    with pytest.raises(HeadMismatch, match=r"Head 'c3' does not train 2 identities of camera 3"):
        trainer(callbacks=[HeadCheck()], limit_train_batches=1).fit(module, loader)
    module.set_cameras(pairs)
    trainer(callbacks=[HeadCheck()], limit_train_batches=1).fit(module, loader)


def test_an_expert_of_one_camera_has_one_head(records: Records, trainer: Trainer) -> None:
    split = OriginalSplit(camera=3)(records)
    network = {**NETWORK, "cameras": [1, 3]}
    module = module_of(split.labels, network=network)
    data = ReIDDataModule(split, (64, 32), identities=4, workers=0)
    trainer(callbacks=[HeadCheck(1.0)], limit_train_batches=1).fit(module, data)
    assert members(module)[1] == []


def test_a_trainer_that_has_tested_a_checkpoint_tells_the_heads_of_the_next(
    records: Records, trainer: Trainer, tmp_path
) -> None:
    split = OriginalSplit()(records)
    data = ReIDDataModule(split, (64, 32), identities=4, workers=0)
    first = trainer(limit_train_batches=1, limit_test_batches=1)
    first.fit(module_of(split.labels), data)
    first.save_checkpoint(tmp_path / "a.ckpt")
    first.test(module_of(split.labels), data, ckpt_path=tmp_path / "a.ckpt", verbose=False)
    module = module_of(split.labels)
    first.fit(module, data)
    for camera, people in members(module).items():
        assert people == sorted({r.pid for r in split.train if r.camera == camera})
    strangers = ReIDDataModule(split, (64, 32), identities=4, workers=0)
    with pytest.raises(InputError, match=r"get one by model\.unknown=extend"):
        trainer(limit_train_batches=1).fit(module_of(LabelMap((7001, 7002))), strangers)


def test_what_is_gone_on_with_keeps_whom_its_cameras_have(
    records: Records, trainer: Trainer, tmp_path
) -> None:
    split = OriginalSplit()(records)
    data = ReIDDataModule(split, (64, 32), identities=4, workers=0)
    pairs = [(r.pid, r.camera) for r in split.train]
    module, first = module_of(split.labels), trainer(limit_train_batches=1)
    elsewhere = next(pid for pid in split.labels.pids if (pid, 3) not in pairs)
    module.set_cameras([*pairs, (elsewhere, 3)])
    before = members(module)
    first.fit(module, data.train_dataloader())
    first.save_checkpoint(tmp_path / "a.ckpt")
    again = module_of(split.labels)
    trainer(limit_train_batches=1, max_epochs=2).fit(again, data, ckpt_path=tmp_path / "a.ckpt")
    assert members(again) == before


def test_without_records_somebody_must_tell(records: Records, trainer: Trainer) -> None:
    split = OriginalSplit()(records)
    data = ReIDDataModule(split, (64, 32), identities=4, workers=0)
    loader = data.train_dataloader()
    with pytest.raises(InputError, match="call set_cameras"):
        trainer(limit_train_batches=1).fit(module_of(split.labels), loader)
    module = module_of(split.labels)
    module.set_cameras((r.pid, r.camera) for r in split.train)
    trainer(limit_train_batches=1).fit(module, loader)
