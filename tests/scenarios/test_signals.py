"""Ctrl-C and SIGTERM, as real signals, in every phase of a pack."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import memvec
import memvec.errors
from memvec.errors import InterruptedPackError
from memvec.filesystem.sources import Source
from memvec.store.store import Store

Settings = Callable[..., memvec.PackSettings]
LETTERS = [
    Source(f"{i:02}.txt", f"Letter {i}. She was not sorry to be recalled from so dull a walk, number {i}.".encode())
    for i in range(8)
]
# As `docker stop` ends the command line: SIGTERM comes as KeyboardInterrupt. The first signal comes in the phase that
# is named in sys.argv[3], once `done` segments are; a second one follows in the commit.
PROGRAM = """
import os, signal, sys
import memvec, memvec.packing.exact
from memvec.errors import InterruptedPackError
from memvec.filesystem.sources import Source
from memvec.store.transaction import Transaction
store, model, phase, done, kind = sys.argv[1:4] + [int(sys.argv[4]), sys.argv[5]]
signal.signal(signal.SIGTERM, signal.default_int_handler)
memvec.packing.exact.CERTIFY_AT_ONCE = 1
sent = []
def watch(p):
    if p.stage.startswith(phase) and p.segments_done >= done and not sent:
        sent.append(1)
        os.kill(os.getpid(), signal.SIGTERM)
write = Transaction.switch
def switch(self, state):
    if sent:
        os.kill(os.getpid(), signal.SIGTERM)
    write(self, state)
    if sent:
        os.kill(os.getpid(), signal.SIGINT)
Transaction.switch = switch
settings = memvec.PackSettings(nats_per_vector=9.0, segment_tokens=32, max_steps=150, learning_rate=1.0, last_rate=1.0, memory=1)
context = memvec.ContextSettings(steps=2, question_rows=1, aside_rows=0)
docs = [Source(f"{i:02}.txt", f"Letter {i}. She was not sorry to be recalled from so dull a walk, number {i}.".encode()) for i in range(8)]
try:
    memvec.pack(docs, store, model=model, settings=settings, context=context, dtype="float32", kind=kind, watch=watch)
except InterruptedPackError as error:
    print("finished", error.finished)
    sys.exit(130)
"""


@pytest.mark.parametrize(
    ("phase", "done", "kind"),
    [
        ("measuring surprisal", 0, "exact"),
        ("fitting", 3, "exact"),
        ("distilling", 2, "context"),
    ],
)
def test_sigterm(tmp_path: Path, tiny: str, phase: str, done: int, kind: str) -> None:
    """SIGTERM in any phase keeps the finished records."""
    store = tmp_path / "s.memvec"
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(store), tiny, phase, str(done), kind],
        check=False,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 130 and "finished" in ran.stdout, ran.stderr
    if not done:
        assert not store.exists() or not Store.open(store).versions()
        return
    assert memvec.verify(store, decode=kind == "exact").ok
    kept = [r for v in Store.open(store).versions() for r in v.records + v.memory]
    assert done <= len(kept) == int(ran.stdout.split()[1])
    assert sum(e.records for e in Store.open(store).manifest.shards) == len(kept)  # nothing was committed twice


class TestOtherEnds:
    """Errors and a second Ctrl-C lose no finished record either."""

    def test_error(self, tmp_path: Path, tiny: str, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        """An error keeps certified records."""
        monkeypatch.setattr("memvec.packing.exact.CERTIFY_AT_ONCE", 1)
        store = tmp_path / "s.memvec"

        def fail(progress: Any) -> None:
            if progress.segments_done >= 3:
                raise RuntimeError("out of memory")

        options: dict[str, Any] = {"model": tiny, "settings": tiny_settings(memory=1), "dtype": "float32"}
        with pytest.raises(memvec.errors.OutOfMemoryError, match="out of memory"):
            memvec.pack(LETTERS, store, watch=fail, **options)
        assert len(Store.open(store).versions()) >= 3 and memvec.verify(store, decode=True).ok

    def test_second_ctrl_c(
        self, tmp_path: Path, tiny: str, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Finished records are committed before the rest is certified."""
        monkeypatch.setattr("memvec.packing.exact.CERTIFY_AT_ONCE", 1)
        store = tmp_path / "s.memvec"
        seen: list[int] = []

        def stop(progress: Any) -> None:
            if progress.stage.startswith("stopping"):
                raise KeyboardInterrupt  # who asks twice wants what is finished, and no more
            if progress.segments_done >= 3:
                seen.append(progress.segments_done)
                raise KeyboardInterrupt

        options: dict[str, Any] = {"model": tiny, "settings": tiny_settings(memory=1), "dtype": "float32"}
        with pytest.raises(InterruptedPackError) as caught:
            memvec.pack(LETTERS, store, watch=stop, **options)
        assert caught.value.finished == len(Store.open(store).versions()) >= seen[0]
