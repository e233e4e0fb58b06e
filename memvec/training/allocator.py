"""glibc's allocator, told to keep memory while packing: on Linux every step otherwise gives it back and faults it in."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

from memvec.guard import Held

# Parameter numbers of glibc's mallopt(3) and its default values.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_KEEP = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 * 1024 * 1024}
_DEFAULTS = {_MMAP_MAX: 65536, _TRIM_THRESHOLD: 128 * 1024, _TOP_PAD: 128 * 1024}


@contextlib.contextmanager
def keeping_memory() -> Iterator[None]:
    """Within: freed memory stays with the process. After: glibc's defaults and the memory given back. Else: nothing.

    It is one setting of the process, which the last thread takes back.
    """
    with _kept.holding():
        yield


def _keep() -> ctypes.CDLL | None:
    libc = _glibc()
    if libc is not None:
        _set(libc, _KEEP)
    return libc


def _give_back(libc: ctypes.CDLL | None) -> None:
    if libc is not None:
        _set(libc, _DEFAULTS)
        libc.malloc_trim(0)


_kept = Held(_keep, _give_back)


def _set(libc: ctypes.CDLL, values: dict[int, int]) -> None:
    for parameter, value in values.items():
        libc.mallopt(parameter, value)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:  # musl and others
        return None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
