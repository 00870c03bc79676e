"""matrix.json: what camreid-matrix has found, ready to be written."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from camreid.cli.experts import Expert
from camreid.cli.provenance import origin
from camreid.evaluation.ensembles import Spaces
from camreid.evaluation.matrix import comparison

if TYPE_CHECKING:
    from camreid.cli.matrix_run import Matrix


def matrix_content(
    matrix: "Matrix", experts: Sequence[Expert], controls: Sequence[Expert]
) -> dict[str, Any]:
    """All numbers, ready for JSON.

    Args:
        matrix: every row tested.
        experts: those that were put together.
        controls: those beside them.
    """
    summaries = {name: row.summary() for name, row in matrix.rows.items()}
    alone = {expert.name: summaries.pop(expert.name) for expert in experts}
    beside = {control.name: summaries.pop(control.name) for control in controls}
    some = next(iter(alone.values()))
    return {
        "split": {**matrix.split.record.to_json(), "strategy": matrix.split.strategy},
        "evaluation": OmegaConf.to_container(matrix.config.evaluation),
        "protocol": some["protocol"],
        "partial": matrix.partial,
        "cameras": [int(camera) for camera in some["by_camera"]],
        "experts": {e.name: {**_about(matrix, e), **alone[e.name]} for e in experts},
        "controls": {c.name: {**_about(matrix, c), **beside[c.name]} for c in controls},
        "combinations": {name: {**s, **matrix.about[name]} for name, s in summaries.items()},
        "origin": origin(matrix.config),
        "notes": matrix.notes,
        "left_out": matrix.left_out,
        **comparison(matrix.rows, [expert.name for expert in experts]),
        "spaces": None if matrix.spaces is None else _spaces(matrix.spaces),
    }


def _about(matrix: "Matrix", expert: Expert) -> dict[str, Any]:
    saved = matrix.config.evaluation.save_features
    return {
        "checkpoint": expert.path,
        "camera": expert.camera,
        "rows": expert.rows,
        "coverage": expert.coverage(matrix.split),
        "features": f"features/{expert.name}.safetensors" if saved else None,
    }


def _spaces(spaces: Spaces) -> Mapping[str, Any]:
    return {
        "experts": list(spaces.names),
        "images": spaces.images,
        "agreement": [[None if x != x else x for x in row] for row in spaces.agreement.tolist()],
        "cka": spaces.cka.tolist(),
    }
