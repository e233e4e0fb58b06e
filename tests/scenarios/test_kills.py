"""A writer is killed at each of its system calls. Nothing is lost, and the same command then works."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from made import NEWER, TEXT, content, exact, files, filled, put

import memvec
from memvec.store.store import Store

TESTS = Path(__file__).parents[1]
VERBS: dict[str, Callable[[Path, Path], object]] = {
    "compact": lambda store, other: memvec.compact(store),
    "gc": lambda store, other: memvec.gc(store),
    "merge": lambda store, other: memvec.merge([other], store),
    "rm": lambda store, other: memvec.rm(store, ["a"]),
    "repair": lambda store, other: memvec.repair(store, yes=True),
}
# A process that forks another for each call that it is killed at: one import for all of them.
PROGRAM = """
import os, shutil, sys; from pathlib import Path
sys.path[:0] = [sys.argv.pop(), sys.argv.pop()]
from test_kills import VERBS
verb = VERBS[sys.argv.pop()]
import memvec, memvec.maintenance.compact, memvec.maintenance.gc, memvec.maintenance.merge
import memvec.maintenance.remove, memvec.maintenance.repair
first, other, work = map(Path, sys.argv[1:])
for call in ("replace", "rename", "unlink", "link"):
    for left in range(20):
        store = work / f"{call}-{left}"
        shutil.copytree(first, store)
        child = os.fork()
        if child == 0:
            real, count = getattr(os, call), iter(range(1000))
            def killing(*a, **k):
                if next(count) == left: os.kill(os.getpid(), 9)
                return real(*a, **k)
            setattr(os, call, killing)
            verb(store, other)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status != 9:
            assert status == 0, (call, left, status)
            shutil.rmtree(store)
            break
        print(store.name, flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
@pytest.mark.parametrize("verb", list(VERBS))
def test_kill(verb: str, tmp_path: Path) -> None:
    """Every committed document is there after a kill, and the verb ends as usual when it runs again."""
    store, other = filled(tmp_path / "s"), put(tmp_path / "other", exact("z", NEWER), exact("a", TEXT)).path
    if verb == "gc":
        memvec.compact(store)
    if verb == "repair":
        file = store / Store.open(store).manifest.shards[0].path
        damaged = bytearray(file.read_bytes())
        damaged[-40] ^= 1
        file.write_bytes(damaged)
    (tmp_path / "work").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, store, other, tmp_path / "work", verb, TESTS, TESTS / "scenarios"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    killed = [tmp_path / "work" / name for name in done.stdout.split()]
    assert len(killed) >= 2
    before = content(store) if verb != "repair" else None
    VERBS[verb](store, other)
    wanted = content(store)
    for each in killed:
        if verb != "repair":  # before it was repaired nobody can read it
            assert content(each) in (before, wanted), each.name
        try:
            VERBS[verb](each, other)
        except memvec.errors.NotFoundError:
            assert verb == "rm"  # it was killed when all was done
        assert content(each) == wanted and memvec.verify(each).ok, each.name
        memvec.gc(each)
        assert not [name for name in files(each) if ".tmp-" in name]
        if verb == "repair":
            kept = [path.read_bytes() for path in (each / "damaged").iterdir() if path.is_file()]
            assert kept == [bytes(damaged)], each.name
