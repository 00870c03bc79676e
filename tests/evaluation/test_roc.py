import pytest
import torch

from camreid.errors import InputError
from camreid.evaluation import rank, rank_distances
from tests.evaluation import twin


def scores_by_hand(problem, protocol):
    """Minus the squared distances of matches and of other people's images, of valid queries."""
    matches, others = [], []
    for q, pid in enumerate(problem.query_pids):
        if not twin.places(problem, q, protocol):
            continue
        for g, other in enumerate(problem.gallery_pids):
            same_camera = problem.gallery_cameras[g] == problem.query_cameras[q]
            own = problem.gallery_sequences[g] == problem.query_sequences[q]
            pairs = zip(problem.query[q], problem.gallery[g], strict=True)
            score = -sum((a - b) ** 2 for a, b in pairs)
            across = protocol == "cross-camera"
            if other == pid and (not same_camera if across else same_camera and not own):
                matches.append(score)
            elif other not in (-1, pid) and (across or same_camera):
                others.append(score)
    return matches, others


@pytest.mark.parametrize("protocol", ["cross-camera", "within-camera"])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_rates_are_those_of_the_pairs_one_by_one(protocol: str, chunk_size: int | None) -> None:
    problem = twin.random_problem(9, 80, 4, 3, 6, seed=1)
    result = rank(
        *problem.tensors(), "euclidean", protocol=protocol, roc=True, chunk_size=chunk_size,
        **problem.sequences(),
    )  # fmt: skip
    matches, others = scores_by_hand(problem, protocol)
    roc = result.roc
    # scores are whole numbers, so that one of half a number apart has no score in its bin
    for threshold in torch.arange(-50.5, 0.0).tolist():
        near = (roc.thresholds - threshold).abs().argmin()
        found = roc.true_positive_rate[near].item(), roc.false_positive_rate[near].item()
        rates = [sum(s > threshold for s in scores) / len(scores) for scores in (matches, others)]
        assert found == pytest.approx(rates)
    for target in (0.0, 0.05, 0.3, 1.0):
        best = max(
            sum(s > t for s in matches) / len(matches)
            for t in torch.arange(-99.5, 1).tolist()
            if sum(s > t for s in others) / len(others) <= target
        )
        assert roc.at(target) == pytest.approx(best)


def test_cosine_and_distances_have_a_curve() -> None:
    problem = twin.random_problem(9, 80, 4, 3, 50, seed=2)
    q, g, *people = problem.tensors()
    roc = rank(q, g, *people, roc=True).roc
    assert roc.at(1.0) == 1
    assert roc.at(0.0) < 1
    assert roc.thresholds[0].item() == pytest.approx(-1, abs=1e-3)
    assert roc.resolution == pytest.approx(2 / 2**16, rel=1e-3)
    normal = [torch.nn.functional.normalize(f, dim=1) for f in (q, g)]
    distances = 1 - normal[0] @ normal[1].T
    assert rank_distances(distances, *people, roc=True).roc.at(0.1) == pytest.approx(roc.at(0.1))
    assert rank(q, g, *people).roc is None
    with pytest.raises(InputError, match="false_positive_rate=2"):
        roc.at(2)
