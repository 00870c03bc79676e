"""A resumed run has the parts that its first command typed."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from camreid.cli.train import _check_parts
from camreid.errors import InputError

OWN = {"data": {"augment": {"_target_": "camreid.data.Augment"}, "sampler": None}}


@pytest.mark.parametrize(
    ("then", "expected"),
    [
        (OWN, ""),
        ({}, ""),
        ({"data": {"sampler": {"_target_": "mine.Sampler"}}}, "data.sampler="),
        ({"data": {"augment": {"_target_": "mine.Augment"}}}, "data.augment=.*mine.Augment"),
        ({"data": {"augment": None}}, "data.augment=null"),
        ({"model": {"loss": {"extra": {"_target_": "mine.Loss"}}}}, "model.loss.extra="),
    ],
)
def test_a_part_that_is_missing_is_refused(then: object, expected: str, tmp_path: Path) -> None:
    OmegaConf.save(OmegaConf.create(then), tmp_path / "config.yaml")
    resumed = SimpleNamespace(path=str(tmp_path / "checkpoints" / "last.ckpt"))
    if not expected:
        _check_parts(resumed, OmegaConf.create(OWN))
        return
    with pytest.raises(InputError, match=expected):
        _check_parts(resumed, OmegaConf.create(OWN))
