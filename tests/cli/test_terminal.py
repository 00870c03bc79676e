"""Threads, and the hint on a busy machine."""

import os
from types import SimpleNamespace

import pytest
import torch

from camreid.cli.terminal import set_threads


@pytest.mark.parametrize(
    ("trainer", "load", "threads", "expected"),
    [
        ({"threads": None}, 1e6, 2, "type trainer.threads=1"),
        (None, 1e6, 2, "set OMP_NUM_THREADS=1"),
        (None, 1e6, 1, ""),
        ({"threads": None}, 0.0, 2, ""),
        ({"threads": 2}, 1e6, 2, ""),
    ],
)
def test_a_busy_machine_gets_a_hint(
    trainer: dict[str, object] | None,
    load: float,
    threads: int,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen = SimpleNamespace(threads=0)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0, 0))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: setattr(chosen, "threads", n))
    set_threads(trainer)
    out = capsys.readouterr().out
    assert expected in out
    assert bool(out) == bool(expected)
    assert chosen.threads == ((trainer or {}).get("threads") or 0)
