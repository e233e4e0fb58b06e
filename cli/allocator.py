"""Tell glibc's allocator to keep freed memory in commands that fit vectors.

By default glibc gives the large blocks of every step back to the system, which then has to fill them with zeros again. On one
thread that takes 5 % of the processor time of a step, of the default model and of a tiny one (docs/LOG.md). Keeping the
memory takes up to 200 MiB more of it.

This is one setting of the process. glibc cannot tell its value, and setting it turns off its own adjustments for good. So
only the program sets it, never the library: a host program can set MALLOC_MMAP_MAX_=0 and
MALLOC_TRIM_THRESHOLD_=2147483647 in its environment.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

FITTING = ("pack", "add", "calibrate", "capacity")
# Parameter numbers of glibc's mallopt(3), and values.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_KEEP = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 * 1024 * 1024}


def keep_memory_for(arguments: Sequence[str]) -> None:
    """Let freed memory stay with the process if the command fits vectors, on Linux with glibc."""
    if arguments[:1] and arguments[0] in FITTING:
        keep_memory()


def keep_memory() -> None:
    """Let freed memory stay with the process, on Linux with glibc."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:  # musl and others
        return
    if hasattr(libc, "mallopt"):
        for parameter, value in _KEEP.items():
            libc.mallopt(parameter, value)
