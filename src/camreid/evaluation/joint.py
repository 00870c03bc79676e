"""Query and gallery as one set of images, for re-ranking and query expansion."""

import torch
from torch import Tensor

from camreid.errors import InputError, require_whole


def joint_features(query: Tensor, gallery: Tensor) -> Tensor:
    """Features of queries, (Q, D), and gallery, (G, D), one below the other in float32.

    Raises:
        InputError: shapes do not fit together, a side is empty, or features are not finite.

    >>> joint_features(torch.zeros(1, 2), torch.ones(2, 2, dtype=torch.float16))
    tensor([[0., 0.],
            [1., 1.],
            [1., 1.]])
    """
    if query.ndim != 2 or gallery.ndim != 2 or query.shape[1] != gallery.shape[1]:
        raise InputError(
            f"features of shapes {tuple(query.shape)} and {tuple(gallery.shape)}: expected (Q, D) "
            "for the query and (G, D) for the gallery, with the same D, from one model."
        )
    if not len(query) or not len(gallery):
        raise InputError(
            f"{len(query)} query and {len(gallery)} gallery images: expected at least one of each."
        )
    for name, features in (("query", query), ("gallery", gallery)):
        broken = (~features.isfinite().all(1)).nonzero().flatten().tolist()
        if broken:
            raise InputError(
                f"{len(broken)} of {len(features)} {name} features are NaN or infinite, the first "
                f"at {broken[:5]}: the model has diverged, or overflowed at half precision."
            )
    return torch.cat([query.float(), gallery.float()])


def require_neighbours(name: str, value: int, most: int, where: str) -> None:
    """Refuse a number of neighbours that is not in 1..`most`, the number of images `where`.

    >>> require_neighbours("k1", 20, 100, "in the gallery")
    """
    require_whole(name, value, least=1)
    if value > most:
        raise InputError(
            f"{name}={value} neighbours, but there are only {most} images {where}: expected "
            f"1..{most}, such as {name}={max(1, most // 2)}."
        )
