"""Files that are there whole, or not at all."""

import json
from pathlib import Path

import pytest

from camreid.cli.writing import write_json


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.json"
    write_json(path, {"mAP": 0.5})
    for wrong in ({"mAP": float("nan")}, {"mAP": object()}):
        with pytest.raises((ValueError, TypeError)):
            write_json(path, wrong)
    assert json.loads(path.read_text()) == {"mAP": 0.5}
    assert list(path.parent.iterdir()) == [path]
