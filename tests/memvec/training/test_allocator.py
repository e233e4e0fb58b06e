"""The allocator setting: harmless, and gone after a pack."""

from __future__ import annotations

import subprocess
import sys

import pytest

from memvec.training import allocator

# Frees a large block and asks what the process still holds: kept within the context, given back outside.
PROGRAM = """
import ctypes
from memvec.training.allocator import keeping_memory
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
size = 400 << 20
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
def held():
    before = resident(); block = libc.malloc(size); ctypes.memset(block, 1, size); libc.free(block)
    return resident() - before > size // 2
outside = held()
with keeping_memory():
    inside = held()
print(outside, inside, held())
"""


# mallopt is glibc's own call: elsewhere there is nothing to keep, and the test below holds.
@pytest.mark.skipif(allocator._glibc() is None, reason="glibc only")
def test_memory_is_kept_within_and_given_back_after() -> None:
    out = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "True", "False"]


# A thread that ends first must not take the setting from one that goes on.
NESTED = PROGRAM.replace("    inside = held()", "    with keeping_memory(): pass\n    inside = held()")


@pytest.mark.skipif(allocator._glibc() is None, reason="glibc only")
def test_memory_is_kept_until_the_last_holder_is_done() -> None:
    assert NESTED != PROGRAM
    out = subprocess.run([sys.executable, "-c", NESTED], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "True", "False"]


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with allocator.keeping_memory():
        assert allocator._glibc() is None
