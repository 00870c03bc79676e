"""The check of imported rows."""

import pytest
import torch

from camreid import create_model
from camreid.checkpoints.foreign.rows import check_rows
from camreid.data import OriginalSplit, Records, ReIDDataModule
from camreid.errors import HeadMismatch
from camreid.labels import LabelMap
from camreid.provenance import Provenance
from tests.checkpoints.test_import import SMALL


def test_a_wrong_order_is_refused(records: Records) -> None:
    split = OriginalSplit()(records)
    torch.manual_seed(0)
    module = create_model("small", split.labels, network__backbone="test_resnet", **SMALL).eval()
    data = ReIDDataModule(split, (64, 32), workers=0)
    with torch.no_grad():  # rows that fit their identities: the mean features
        module.provenance = Provenance(inherited={"identity": ()})
        module.start_rows(data.eval_dataloader(split.train))
    numeric = LabelMap.of(split.labels.pids)
    with pytest.raises(HeadMismatch, match=r"labels\.order=fastreid"):
        check_rows(module, numeric, split.train)
    assert "UNSURE" not in check_rows(module, split.labels, split.train)
    torch.nn.init.normal_(module.model.heads["identity"].weight)
    assert "UNSURE" in check_rows(module, split.labels, split.train)
