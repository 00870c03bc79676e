"""Calibrated probabilities are frequencies, and a file keeps them."""

import pytest
import torch

from camreid.errors import InputError
from camreid.evaluation.features import FeatureTable, Images
from camreid.evaluation.verification import Calibration, verify
from tests.evaluation.test_verification import table


def test_the_fit_is_the_minimum_of_the_balanced_loss() -> None:
    pairs = verify(table())
    found = Calibration.fit(pairs)
    genuine = pairs.genuine.double()
    centres = (torch.arange(pairs.impostors.shape[1]) + 0.5) * 2 / pairs.impostors.shape[1] - 1
    counts = pairs.impostors.sum(0).double()
    high, low = (len(genuine) + 1) / (len(genuine) + 2), 1 / (counts.sum() + 2)

    def loss(slope: float, offset: float) -> float:
        def of(scores: torch.Tensor, target: float) -> torch.Tensor:
            chance = (slope * scores + offset).sigmoid()
            return -(target * chance.log() + (1 - target) * (1 - chance).log())

        impostors = (of(centres.double(), float(low)) * counts).sum() / counts.sum()
        return float(of(genuine, high).mean() + impostors)

    best = loss(found.slope, found.offset)
    for a, b in ((0.05, 0), (-0.05, 0), (0, 0.05), (0, -0.05)):
        assert loss(found.slope + a, found.offset + b) > best
    assert found.slope > 0


def test_probabilities_are_frequencies() -> None:
    pairs = verify(table(lonely=0))
    rows = Calibration.fit(pairs).reliability(pairs)
    assert sum(row["weight"] for row in rows) == pytest.approx(1)
    assert all(
        abs(row["probability"] - row["genuine"]) < 0.15 for row in rows if row["weight"] > 0.1
    )


def test_separable_pairs_have_finite_maps() -> None:
    images = Images(
        torch.eye(3).repeat(2, 1), torch.tensor([1, 2, 3] * 2), torch.tensor([1] * 3 + [2] * 3)
    )
    found = Calibration.fit(verify(FeatureTable(images, images)))
    assert 0 < found.slope < 1e4
    assert Calibration.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    "content",
    [
        None,
        {},
        {"slope": "x", "offset": 1, "genuine": 1},
        {"slope": 1, "offset": 1, "genuine": 1, "cameras": {"1-2": [1]}},
        {"slope": float("nan"), "offset": 1, "genuine": 1},
    ],
)
def test_a_broken_calibration_is_refused(content: object) -> None:
    with pytest.raises(InputError, match="Calibration"):
        Calibration.from_json(content)


def test_one_identity_cannot_be_calibrated() -> None:
    images = Images(torch.eye(2), torch.tensor([5, 5]), torch.tensor([1, 2]))
    with pytest.raises(InputError, match="2 pairs of one identity and 0"):
        Calibration.fit(verify(FeatureTable(images, images)))


def test_cameras_with_enough_pairs_have_a_map_of_their_own() -> None:
    draw = torch.Generator().manual_seed(0)
    pids, cameras = torch.arange(240) % 40, 1 + torch.arange(240) // 120
    noise = torch.randn(240, 16, generator=draw) * (cameras[:, None] * 0.4)
    centres = torch.randn(40, 16, generator=draw)
    images = Images(centres[pids] + noise, pids + 1, cameras)
    pairs = verify(FeatureTable(images, images))
    found = Calibration.fit(pairs)
    assert set(found.cameras) == {"1-2", "2-1"}
    part = dict(pairs.by_cameras())["1-2"]
    alone = Calibration.fit(part)
    assert found.cameras["1-2"] == pytest.approx((alone.slope, alone.offset))
    cosines = torch.tensor([0.2, 0.8])
    own = found.probability(cosines, 1, 2)
    torch.testing.assert_close(own, alone.probability(cosines))
    assert not own.equal(found.probability(cosines, 1, 1))
