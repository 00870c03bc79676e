"""What the system refuses, as a sentence with what to lower."""

import errno
import re

_SPACE = "Free some space there, or type another run_dir=; resume= continues from last.ckpt."
_FILES = "Too many files are open. Type data.workers=0, or raise the limit with ulimit -n 4096."
_MEMORY = (
    "Lower data.identities, data.instances or data.eval_batch_size, type data.workers=0, or type "
    "trainer.precision=bf16-mixed."
)
_SHARED = "The shared memory (/dev/shm) is too small: enlarge it, or type data.workers=0."
_REMEDIES = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: _SPACE,
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.ENOMEM: _MEMORY,
    errno.EACCES: "Expected a place that this user may read and write.",
    errno.EROFS: "Expected a place that can be written.",
    errno.ENAMETOOLONG: "Type a shorter path.",
    errno.ENOENT: "It was there before: was the run folder or the dataset moved?",
}
_SIGNS = {  # in what libraries say
    r"bus error|shared memory|\bshm\b": _SHARED,
    r"too many open files|ancdata": _FILES,
    r"DataLoader worker": f"A loader process was killed, often for lack of memory. {_MEMORY}",
    r"allocate|out of memory": _MEMORY,
    r"connection (closed|reset) by|gloo|nccl": "Another process of this training has ended.",
}


def fault(error: BaseException) -> str | None:
    """The sentence of an error of the system or of its limits; None for another error."""
    if not isinstance(error, OSError | RuntimeError | MemoryError):
        return None
    text = " ".join(str(error).split())[:300]
    if isinstance(error, OSError) and error.errno is not None:
        return f"{text}. {_REMEDIES.get(error.errno, '')}".strip()
    found = [words for sign, words in _SIGNS.items() if re.search(sign, str(error), re.I)]
    if found or isinstance(error, MemoryError):
        return f"{found[0] if found else _MEMORY} ({text or 'no memory'})"
    return None
