"""What the system refuses, as a sentence with what to lower."""

import errno
import re

_SPACE = "Free some space there, or type another run_dir=; resume= continues from last.ckpt."
_FILES = "Too many files are open. Type data.workers=0, or raise the limit with ulimit -n 4096."
_MEMORY = "Type data.workers=0, or lower data.identities, data.instances or data.eval_batch_size."
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _SPACE),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), _FILES),
    **dict.fromkeys((errno.EACCES, errno.EROFS), "Expected a place that this user may write to."),
    errno.ENOMEM: _MEMORY,
    errno.ENOENT: "It was there before: was the run folder or the dataset moved?",
}
_SIGNS = {  # in what libraries say
    r"bus error|shared memory": "/dev/shm is too small: enlarge it, or type data.workers=0.",
    r"too many open files|ancdata": _FILES,
    r"DataLoader worker": f"A loader process was killed, often for lack of memory. {_MEMORY}",
    r"MemoryError|allocate|out of memory|failed to map": _MEMORY,
    r"connection (closed|reset) by|gloo|nccl": "Another process of this training has ended.",
}


def fault(error: BaseException) -> str | None:
    """The sentence of an error of the system or of its limits; None for another error."""
    text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    if isinstance(error, OSError) and error.errno is not None:
        return f"{error}. {_REMEDIES.get(error.errno, '')}".strip()
    found = [words for sign, words in _SIGNS.items() if re.search(sign, text, re.I)]
    return f"{found[0]} ({text})" if found else None
