"""A pack that is stopped keeps its finished records, and the next pack continues from there."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import memvec
from memvec.errors import (
    InterruptedPackError,
    NotFoundError,
)
from memvec.filesystem.sources import Source
from memvec.store.listing import incomplete_documents
from memvec.store.store import Store

Settings = Callable[..., memvec.PackSettings]
Records = Callable[[Path], list[Any]]


LONG = [
    Source(f"{i:02}.txt", (f"Letter {i}. She was not sorry to be recalled from so dull a walk. " * 2).encode())
    for i in range(9)
]


def test_interrupt(
    tmp_path: Path, tiny: str, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch, records_of: Records
) -> None:
    """Ctrl-C keeps finished records, and the next pack fits only the rest."""
    monkeypatch.setattr("memvec.packing.exact.CERTIFY_AT_ONCE", 1)
    monkeypatch.setattr("memvec.packing.plan.SORTED_AT_ONCE", 1)
    store = tmp_path / "s.memvec"
    settings = tiny_settings(memory=4_000_000)  # a few slots, so that documents end one after the other

    def stop(progress: Any) -> None:
        if progress.segments and progress.documents_done >= 3 and progress.stage == "fitting":
            raise KeyboardInterrupt

    with pytest.raises(InterruptedPackError) as caught:
        memvec.pack(LONG, store, model=tiny, settings=settings, dtype="float32", watch=stop)
    assert memvec.verify(store, decode=True).ok
    kept = memvec.list(store)
    unfinished = incomplete_documents(store)
    assert len(kept) + len(unfinished) <= len(LONG)
    for name in unfinished:
        with pytest.raises(NotFoundError, match="incomplete"):
            memvec.cat(store, name)
    assert 3 <= len(kept) < len(LONG)
    assert caught.value.finished == len(records_of(store)) >= len(kept)
    first = {(r.document.name, r.start): r.vectors.tobytes() for r in records_of(store)}
    report = memvec.pack(LONG, store, model=tiny, settings=settings, dtype="float32")
    assert report.documents == len(LONG) and report.unchanged == len(kept)
    assert memvec.verify(store, decode=True).ok
    for source in LONG:
        assert memvec.cat(store, source.name) == source.data
    later = {(r.document.name, r.start): r.vectors.tobytes() for r in records_of(store)}
    assert first.items() <= later.items()  # nothing that was finished was fitted again
    assert len(records_of(store)) == report.records


def test_kill(tmp_path: Path, tiny: str) -> None:
    """A killed pack leaves a valid store."""
    store = tmp_path / "s.memvec"
    program = (
        "import sys, memvec, memvec.packing.commit, memvec.packing.exact; from memvec.filesystem.sources import Source\n"
        "memvec.packing.commit.COMMIT_SECONDS = 0.0; memvec.packing.exact.CERTIFY_AT_ONCE = 1\n"
        "s = memvec.PackSettings(nats_per_vector=9.0, segment_tokens=32, memory=1_500_000)\n"
        "docs = [Source(f'{i}', (f'Letter {i}. She was not sorry to be recalled from it. ' * 2).encode()) for i in range(40)]\n"
        "memvec.pack(docs, sys.argv[1], model=sys.argv[2], settings=s, dtype='float32',\n"
        "            watch=lambda p: print(p.segments_done, flush=True))\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, store, tiny], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 5:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    report = memvec.verify(store, decode=True)
    assert report.ok and report.records >= 4
    for row in memvec.list(store):
        assert (
            memvec.cat(store, row.name)
            == (f"Letter {row.name}. She was not sorry to be recalled from it. " * 2).encode()
        )


def test_a_full_lot_is_not_waited_for_when_it_is_time_to_commit(
    tmp_path: Path, tiny: str, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memvec.packing.exact.CERTIFY_AT_ONCE", 10**6)
    monkeypatch.setattr("memvec.packing.commit.COMMIT_SECONDS", 0.0)
    memvec.pack(LONG, tmp_path / "s.memvec", model=tiny, settings=tiny_settings(memory=4_000_000), dtype="float32")
    assert len(Store.open(tmp_path / "s.memvec").manifest.shards) > 1
