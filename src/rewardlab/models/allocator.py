"""Large blocks that are freed stay with the process.

glibc gives every block above a threshold back to the system when it is freed, and gets it again page by page
at the next use. A training step allocates the same large blocks over and over, so on the CPU this costs a
tenth of its time and more.
"""

from __future__ import annotations

import ctypes
import functools
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER = (1 << 31) - 1


@functools.cache
def keep_freed_memory() -> bool:
    """Tell glibc's malloc to keep what is freed; true if it was told. Elsewhere nothing happens."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    # A block above the threshold would be mapped by itself; 1 GiB is the most that is useful to keep.
    return bool(mallopt(_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
