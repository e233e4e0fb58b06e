"""Commands that fit vectors keep freed memory. The library never does."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from memvec.cli.allocator import keep_memory

# Frees a large block and asks what the process still holds.
HELD = """
import ctypes, sys
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
size = 400 << 20
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
def held():
    before = resident(); block = libc.malloc(size); ctypes.memset(block, 1, size); libc.free(block)
    return resident() - before > size // 2
"""
COMMAND = """
from memvec.cli.main import main
sys.argv = ["memvec", *sys.argv[1:]]
try: main()
except SystemExit: pass
print(held(), file=sys.stderr)
"""
PACK = """
import memvec
text, store, model = sys.argv[1:]
settings = memvec.PackSettings(max_steps=2, segment_tokens=8)
memvec.pack([text], store, model=model, dtype="float32", settings=settings)
print(held(), file=sys.stderr)
"""
# mallopt is glibc's own call.
glibc = pytest.mark.skipif("glibc" not in platform.libc_ver()[0], reason="glibc only")


def said(program: str, *arguments: object) -> str:
    """The last line that a program writes to standard error."""
    command = [sys.executable, "-c", HELD + program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()[-1]


@glibc
@pytest.mark.parametrize(("command", "held"), [("pack", "True"), ("calibrate", "True"), ("list", "False")])
def test_commands(command: str, held: str) -> None:
    assert said(COMMAND, command, "--help") == held


@glibc
def test_a_library_leaves_its_host_alone(tmp_path: Path, tiny: str) -> None:
    (tmp_path / "a.txt").write_text("It is a truth universally acknowledged, that a single man must want a wife.")
    assert said(PACK, tmp_path / "a.txt", tmp_path / "s.memvec", tiny) == "False"


def test_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("ctypes.CDLL", None)
    keep_memory()
