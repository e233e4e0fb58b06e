"""Two writers at once, and readers beside them: writers wait or get an error, and nothing is lost."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from made import TEXT, content, exact, files, filled, make, put

import memvec
from memvec.errors import StoreChangedError, StoreLockedError, UsageError
from memvec.store.lock import writing
from memvec.store.store import Store

TESTS = Path(__file__).parents[1]


def holder(store: Path, seconds: float) -> subprocess.Popen[str]:
    """A process that holds the write lock."""
    program = (
        "import sys, time; from memvec.store.lock import writing\n"
        "with writing(sys.argv[1]):\n    print('held', flush=True); time.sleep(float(sys.argv[2]))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, store, str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_locked(tmp_path: Path) -> None:
    """The second writer gets an error that names the first."""
    filled(tmp_path / "s")
    before = files(tmp_path / "s"), content(tmp_path / "s")
    with holder(tmp_path / "s", 60) as process:
        for verb in (
            lambda: memvec.rm(tmp_path / "s", ["a"]),
            lambda: memvec.compact(tmp_path / "s", lock_wait=0.05),
            lambda: memvec.gc(tmp_path / "s"),
            lambda: memvec.merge([tmp_path / "s"], tmp_path / "s"),
            lambda: memvec.repair(tmp_path / "s", yes=True),
        ):
            with pytest.raises(StoreLockedError, match=rf"process {process.pid} on .*lock_wait=SECONDS"):
                verb()
        assert memvec.list(tmp_path / "s")  # readers do not wait
        process.kill()
    assert (files(tmp_path / "s"), content(tmp_path / "s")) == before
    memvec.compact(tmp_path / "s")  # a killed writer holds nothing


def test_lock_wait(tmp_path: Path) -> None:
    """A writer waits for `lock_wait` seconds."""
    filled(tmp_path / "s")
    with holder(tmp_path / "s", 0.5):
        assert memvec.compact(tmp_path / "s", lock_wait=30).changed
    for wait in (-1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="expected 0 to"), writing(tmp_path / "s", wait):
            pass


def test_first_pack_failed(tmp_path: Path) -> None:
    """A writer that waited for a first pack makes the store itself if that pack left none."""
    with holder(tmp_path / "s", 0.5), writing(tmp_path / "s", 30):
        make(tmp_path / "s").commit(exact("a", TEXT), "made")
    assert list(Store.open(tmp_path / "s").documents()) == ["a"]


def test_waiting_writers(tmp_path: Path) -> None:
    """Writers that wait for each other lose nothing."""
    make(tmp_path / "s")
    program = (
        f"import sys; sys.path.insert(0, {str(TESTS)!r})\n"
        "from made import exact; from memvec.store.lock import writing; from memvec.store.transaction import Transaction\n"
        "for number in range(5):\n"
        "    with writing(sys.argv[1], 60):\n"
        "        Transaction.open(sys.argv[1]).commit(exact(f'{sys.argv[2]}-{number}', b'some text'), 'made')\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program, tmp_path / "s", str(i)]) for i in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    opened = Store.open(tmp_path / "s")
    assert len(opened.documents()) == opened.manifest.generation == 15


def test_readers(tmp_path: Path) -> None:
    """A reader sees one generation, or gets an error."""
    store = filled(tmp_path / "s")
    wanted, problems, seen = content(store), [], []
    done = threading.Event()

    def read(told: bool) -> None:
        while not done.is_set():
            try:
                found = content(store)
            except StoreChangedError:
                problems.append("told") if told else problems.append("lost")
                continue
            seen.append(found["live"]["c"] == wanted["live"]["c"])

    for collecting in (False, True):
        done.clear()
        thread = threading.Thread(target=read, args=(collecting,))
        thread.start()
        for number in range(8):
            put(store, exact(f"new-{number}", TEXT))
            memvec.compact(store)
            if collecting:
                memvec.gc(store)
        done.set()
        thread.join()
        assert "lost" not in problems
    assert seen and all(seen)
