"""Stores survive full disks, folders that cannot be written, signals and wrong clocks."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made import NEWER, TEXT, content, exact, files, filled, put, raw

import memvec
from memvec.errors import NotFoundError, WriteError
from memvec.store.lock import LOCK_NAME
from memvec.store.store import Store

TESTS = Path(__file__).parents[1]


def damage(store: Path) -> Path:
    """Change a byte of a shard."""
    file = store / Store.open(store).manifest.shards[0].path
    data = bytearray(file.read_bytes())
    data[-40] ^= 1
    file.write_bytes(data)
    return store


VERBS: dict[str, Callable[[Path, Path], object]] = {
    "commit": lambda store, other: put(store, exact("new", TEXT), meta={"new": {"k": "v"}}),
    "rm": lambda store, other: memvec.rm(store, ["a"]),
    "compact": lambda store, other: memvec.compact(store),
    "merge": lambda store, other: memvec.merge([other], store),
    "repair": lambda store, other: memvec.repair(store, yes=True),
}


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
@pytest.mark.parametrize("verb", list(VERBS))
def test_full_disk(verb: str, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first system call that fails gives a typed error. The store stays as it was, and the same command then works."""
    store, other = filled(tmp_path / "s"), put(tmp_path / "other", exact("z", NEWER), exact("a", TEXT)).path
    finished, before = filled(tmp_path / "finished"), content(store)
    if verb == "repair":
        damage(store), damage(finished)
    VERBS[verb](finished, other)
    wanted = content(finished)
    real: Callable[..., Any] = getattr(os, call)
    for left in range(100):
        calls = iter(range(100))

        def failing(*arguments: Any, left: int = left, calls: Any = calls, **options: Any) -> Any:
            writes = call != "open" or arguments[1] & os.O_CREAT
            if writes and not str(arguments[0]).endswith(LOCK_NAME) and next(calls) == left:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **options)

        monkeypatch.setattr(os, call, failing)
        try:
            VERBS[verb](store, other)
        except WriteError as error:
            assert error.exit_code == 10 and "No space left on device" in str(error) and "run the same" in str(error)
            monkeypatch.setattr(os, call, real)
            if verb != "repair":  # before it was repaired nobody can read it
                assert content(store) in (before, wanted)
            assert not [name for name in files(store) if ".tmp-" in name]
        except (
            NotFoundError
        ):  # the last call, which flushes the folder, failed when all was done: nothing is left to rm
            assert verb == "rm" and call == "fsync"
            break
        else:
            break
    monkeypatch.setattr(os, call, real)
    assert left >= 1 and content(store) == wanted and memvec.verify(store).ok


def test_real_full_disk(tmp_path: Path) -> None:
    """A file system without space gives the same error."""
    filled(tmp_path / "s")
    before = content(tmp_path / "s")
    program = "from memvec.cli.main import run; import sys; sys.exit(run(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, "compact", str(tmp_path / "s")],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
    )
    assert done.returncode == 10 and re.search(r"could not write '.*shards.*': File too large", done.stderr)
    assert content(tmp_path / "s") == before and not [name for name in files(tmp_path / "s") if ".tmp-" in name]


def test_read_only_folder() -> None:
    """A folder without write permission gives a WriteError."""
    program = (
        "import os, sys, memvec.cli.main as main; s, new = sys.argv[1:]\n"
        "for words in (['list', s, '-q'], *([v, s, '--dry-run'] for v in ('compact', 'gc')), ['rm', s, 'none'],\n"
        "              ['merge', s, '-o', s]): main.run(words)\n"  # so that every module is loaded
        "if os.geteuid() == 0: os.setuid(65534)\n"  # root may write everywhere
        "print('now', flush=True)\n"
        "for words in (['rm', s, 'a'], ['compact', s], ['gc', s], ['merge', s, '-o', new]):\n"
        "    print(main.run(words), flush=True)\n"
        "print(main.run(['list', s, '-q']))\n"
    )
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other users
        folder = Path(name)
        store = filled(folder / "s")
        before = content(store)
        for path in (store / "shards", store / "keys", store, folder):
            path.chmod(0o555)
        try:
            done = subprocess.run(
                [sys.executable, "-c", program, str(store), str(folder / "new")],
                capture_output=True,
                text=True,
                check=False,
            )
        finally:
            for path in (folder, store, store / "shards", store / "keys"):
                path.chmod(0o755)
        if "setuid" in done.stderr:
            pytest.skip("no other user to be")
        lines = done.stdout.partition("\nnow\n")[2].splitlines()
        assert lines[:4] == ["10"] * 4 and lines[-1] == "0", done.stdout + done.stderr  # reading needs no permission
        assert done.stderr.count("Permission denied. Everything finished before is complete") == 4
        assert content(store) == before and not (folder / "new").exists()


def test_ctrl_c(tmp_path: Path) -> None:
    """Ctrl-C leaves the store as it was."""
    filled(tmp_path / "s")
    before, there = content(tmp_path / "s"), files(tmp_path / "s")
    program = (
        "import os, signal, sys, time; from memvec.cli.main import run\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores it
        "def slow(handle): print('writing', flush=True); time.sleep(60)\n"
        "os.fsync = slow; sys.exit(run(['compact', sys.argv[1]]))\n"
    )
    command = [sys.executable, "-c", program, tmp_path / "s"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130 and process.stderr.read().strip() == "memvec: interrupted"
    assert (content(tmp_path / "s"), files(tmp_path / "s")) == (before, there)


def test_closed_pipe(tmp_path: Path) -> None:
    """A closed pipe stops the output and not the work."""
    filled(tmp_path / "s")
    program = f"{sys.executable} -m memvec.cli rm {tmp_path / 's'} a | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 141) and done.stderr == ""  # 0 where `true` was slower
    assert "a" not in Store.open(tmp_path / "s").documents() and memvec.verify(tmp_path / "s").ok


def test_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that jumps changes nothing."""

    def run(store: Path) -> list[bytes]:
        states = []
        for step in (filled, memvec.compact, lambda s: put(s, exact("a", TEXT)), memvec.gc):
            step(store)
            states.append((store / "manifest.json").read_bytes())
        return states

    usual = run(tmp_path / "usual")
    now = iter(range(10**9, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    monkeypatch.setattr(time, "time_ns", lambda: next(now) * 10**9)
    assert run(tmp_path / "backwards") == usual
    store = tmp_path / "backwards"
    for age, entry in enumerate(Store.open(store).manifest.shards):
        os.utime(store / entry.path, (10**9 - age * 1000, 10**9 - age * 1000))
    wanted = content(store)
    (store / "manifest.json").unlink()
    memvec.repair(store, yes=True)
    assert content(store) == wanted | {"meta": {}}


def test_flush_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are on disk before the manifest names them."""
    put(tmp_path / "s", exact("a", TEXT))
    done: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def name(path: str | Path) -> str:
        return re.sub(r"[0-9a-f]{16,}", "*", Path(path).relative_to(tmp_path).as_posix())

    def logged_fsync(handle: int) -> None:
        done.append(("fsync", name(os.readlink(f"/proc/self/fd/{handle}"))))
        fsync(handle)

    def logged_replace(source: Path, target: Path) -> None:
        done.append(("replace", name(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(os, "replace", logged_replace)
    put(tmp_path / "s", raw("b", b"\xff\xff"))
    shards, top = "s/shards", "s"
    assert done == [
        ("fsync", f"{shards}/.tmp-*"), ("replace", f"{shards}/*.safetensors"), ("fsync", shards),
        ("fsync", f"{top}/.tmp-*"), ("replace", f"{top}/manifest.json"), ("fsync", top),
    ]  # fmt: skip


def test_file_modes(tmp_path: Path) -> None:
    """Modes of files follow the umask."""
    before = os.umask(0o027)
    try:
        filled(tmp_path / "s")
        memvec.compact(tmp_path / "s")
        memvec.export_store(tmp_path / "s", tmp_path / "one")
        memvec.import_store(tmp_path / "one", tmp_path / "back")
    finally:
        os.umask(before)
    found = [tmp_path / "one", *(f for top in ("s", "back") for f in (tmp_path / top).rglob("*"))]
    assert len(found) > 20
    for file in found:
        assert stat.S_IMODE(file.stat().st_mode) == (0o750 if file.is_dir() else 0o640), file
