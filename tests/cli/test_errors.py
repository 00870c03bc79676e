"""Faults of the system become sentences with what to lower."""

import errno
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from camreid.cli._entry import begin
from camreid.cli.errors import fault, one_paragraph
from camreid.errors import InputError


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a.ckpt"), "a.ckpt.*Free some space"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "ulimit -n"),
        (BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)), "ulimit -u"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (OSError(errno.ENOSPC, "No space left on device"), "/dev/shm"),  # a lock of a loader
        (RuntimeError("received 0 items of ancdata"), "ulimit -n"),
        (RuntimeError("shared memory object </torch_1>: Too many open files (24)"), "ulimit -n"),
        (RuntimeError("unable to resize file </torch_1_0> to the right size"), "/dev/shm"),
        (RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed."), "data.workers=0"),
        (
            RuntimeError("DataLoader worker (pid 3) is killed by signal: Bus error. It is possible "
                         "that dataloader's workers are out of shared memory."),
            "/dev/shm",
        ),
        (RuntimeError("Caught in DataLoader worker process 0.\nOriginal Traceback:\n  x"
                      "\nRuntimeError: unable to allocate shared memory\n"),
         "/dev/shm"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "data.instances"),
        (MemoryError(), "data.eval_batch_size"),
        (ImportError("libtorch.so: failed to map segment from shared object"), "data.workers=0"),
        (PermissionError(errno.EACCES, "Permission denied", "r"), "another place"),
        (FileNotFoundError(errno.ENOENT, "No such file", "r/metrics.csv"), "r/metrics.csv"),
    ],
)  # fmt: skip
def test_the_sentence_names_what_to_lower(error: Exception, expected: str) -> None:
    assert re.search(expected, str(fault(error)))


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 differ"), KeyError("x")])
def test_a_bug_is_not_a_fault_of_the_system(error: Exception) -> None:
    assert fault(error) is None


def test_too_little_address_space_is_refused_before_pytorch_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (3_500_000_000, -1))
    with pytest.raises(InputError, match=r"3.5 GB.*ulimit -v unlimited"):
        begin("camreid.files")


@pytest.mark.parametrize("error", [ValueError("C code lost the interrupt"), InputError("cut")])
def test_an_error_after_a_signal_is_an_interruption(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("camreid.cli.errors.stopped", [signal.SIGTERM])
    with pytest.raises(SystemExit) as ended, one_paragraph("camreid-x"):
        raise error
    assert ended.value.code == 128 + signal.SIGTERM


def test_a_fault_of_the_system_is_a_short_paragraph_in_every_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as ended, one_paragraph("camreid-report"):
        (tmp_path / ("a" * 9000)).exists()  # a name that is too long
    assert ended.value.code == 1
    found = capsys.readouterr().err
    assert found.startswith("camreid-report: ")
    assert found.count("\n") == 1
    assert len(found) < 5100


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(KeyError), one_paragraph("camreid-report"):
        {}["a"]
