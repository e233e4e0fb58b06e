"""A pack holds no more of its documents than it works on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import memvec
from memvec.filesystem import sources
from memvec.filesystem.plain_text import as_text, may_be_text
from memvec.filesystem.sources import Entry, Source
from memvec.formats import raw
from memvec.packing import commit, exact, outstanding, plan
from memvec.settings import ContextSettings
from memvec.store.store import Store
from memvec.store.transaction import Transaction
from memvec.training.fit import FitEngine

Settings = Callable[..., memvec.PackSettings]
MEBIBYTE = 1024**2
LINES = [f"Letter {i}. She was not sorry to be recalled from so dull a walk by the {i}th call.\n" for i in range(6)]

MEASURED = """
import os, resource, sys
import memvec
from memvec.formats import raw
raw.LEVEL = 1  # a fast level: memory is measured, not time
folder, model = sys.argv[1:]
def packed(name, files):
    os.mkdir(f"{folder}/{name}")
    for number in range(files):
        with open(f"{folder}/{name}/{number}", "wb") as file:
            file.write(os.urandom(4 * 1024**2))
    report = memvec.pack([f"{folder}/{name}"], f"{folder}/{name}.memvec", model=model, dtype="float32")
    assert report.documents == report.raw_records == files and report.zstd_sampled
    assert memvec.cat(f"{folder}/{name}.memvec", "7") == open(f"{folder}/{name}/7", "rb").read()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
small, large = packed("small", 32), packed("large", 96)
print((large - small) // 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss has other units")
def test_binaries_are_not_held(tmp_path: Path, tiny: str) -> None:
    """384 MiB of random bytes take no more memory than 128. When a pack held its corpus, it grew by 885 MiB."""
    made = subprocess.run(
        [sys.executable, "-c", MEASURED, tmp_path, tiny], stdout=subprocess.PIPE, text=True, check=True
    )
    assert int(made.stdout) < 64  # MiB


class TestOneLotAfterTheOther:
    """Lots of one document."""

    @pytest.fixture(autouse=True)
    def lots(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(plan, "LOT_TEXT", 1)

    @pytest.fixture
    def options(self, tiny: str, tiny_settings: Settings) -> dict[str, Any]:
        return {"model": tiny, "settings": tiny_settings(max_steps=60), "dtype": "float32"}

    def test_the_first_commit_waits_for_no_later_document(
        self, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        events: list[str] = []
        read, write = Entry.read, Transaction.commit
        monkeypatch.setattr(Entry, "read", lambda self: events.append(self.name) or read(self))
        monkeypatch.setattr(Transaction, "commit", lambda *all: events.append("commit") or write(*all))
        monkeypatch.setattr(commit, "COMMIT_SECONDS", -1.0)
        monkeypatch.setattr(exact, "CERTIFY_AT_ONCE", 1)
        monkeypatch.setattr(outstanding, "SAMPLE_OVER", 0)  # or all are read to be measured
        many = [Source(f"{n:02}", f"{n}. She was not sorry.".encode()) for n in range(40)]
        report = memvec.pack(many, tmp_path / "s.memvec", **options)
        assert report.documents == 40 and report.exact
        assert events.index("commit") < events.index("39")

    def test_a_text_of_an_earlier_lot_is_copied(
        self, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fitted: list[tuple[int, ...]] = []
        add = FitEngine.add

        def noted(self: FitEngine, tasks: Any) -> None:
            tasks = list(tasks)
            fitted.extend(task.ids for task in tasks)
            add(self, tasks)

        monkeypatch.setattr(FitEngine, "add", noted)
        monkeypatch.setattr(commit, "COMMIT_RECORDS", 3)  # some copies are of pending records, some of committed ones
        many = [Source(f"{n:02}", LINES[n % 2].encode()) for n in range(24)]
        report = memvec.pack(many, tmp_path / "s.memvec", **options)
        assert len(fitted) == len(set(fitted)) == report.records - report.reused
        for source in many:
            assert memvec.cat(tmp_path / "s.memvec", source.name) == source.data

    def test_memories(self, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("memvec.packing.context.AHEAD", 1)
        short = ContextSettings(steps=2, memory=1)
        many = [Source(str(n), LINES[n % 3].encode()) for n in range(5)]
        store = tmp_path / "s.memvec"
        report = memvec.pack(many, store, kind="both", context=short, **options)
        assert (report.documents, report.context_records, report.skipped) == (5, 5, ())
        vectors = {n: [Store.open(store).record(r).vectors.tobytes() for r in d.memory]
                   for n, d in Store.open(store).documents().items()}  # fmt: skip
        assert vectors["0"] == vectors["3"] != vectors["1"] == vectors["4"]
        assert memvec.verify(store, decode=True).ok


def test_a_file_that_is_gone_when_its_turn_comes_is_skipped(
    tmp_path: Path, tiny: str, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_text(LINES[0] + name)
    read = Entry.read

    def gone(self: Entry) -> Source:
        if self.name == "b":
            (tmp_path / "in" / "b").unlink()
        return read(self)

    monkeypatch.setattr(Entry, "read", gone)
    report = memvec.pack(tmp_path / "in", tmp_path / "s", model=tiny, settings=tiny_settings(), dtype="float32")
    assert report.documents == 2 and report.skipped == (("b", "it is gone"),)
    assert not report.zstd_sampled


class TestLargeBinaries:
    """Files that are not text and too long to hold."""

    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sources, "LARGE", 1000)
        monkeypatch.setattr(raw, "MAX_RAW_BYTES", 400)

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        (tmp_path / "disk.img").write_bytes(bytes(range(256)) * 5)
        return tmp_path / "disk.img"

    def test_they_are_read_in_frames(self, file: Path, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sources, "read_file", None)  # nothing is read whole
        store = file.parent / "s.memvec"
        report = memvec.pack(file, store, model=tiny, dtype="float32")
        assert (report.records, report.raw_records, report.exact) == (4, 4, True)
        assert memvec.cat(store, "disk.img") == file.read_bytes()
        assert memvec.pack(file, store, model=tiny, dtype="float32").unchanged == 1

    def test_text_is_read_whole(self, tmp_path: Path) -> None:
        (tmp_path / "t").write_text("äöü " * 300)
        (entry,) = sources.gather(tmp_path / "t").entries
        assert isinstance(entry.read(), Source) and entry.size > 1000

    def test_one_that_changes_meanwhile_is_skipped(
        self, file: Path, tiny: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        frames = sources.LargeBinary.frames

        def changing(self: sources.LargeBinary, size: int) -> Any:
            file.write_bytes(file.read_bytes()[:-1] + b"x")  # after it was hashed
            yield from frames(self, size)

        monkeypatch.setattr(sources.LargeBinary, "frames", changing)
        monkeypatch.setattr(outstanding, "SAMPLE_OVER", 0)  # or it is read once more, to be measured
        report = memvec.pack(file, file.parent / "s.memvec", model=tiny, dtype="float32")
        assert report.skipped == (("disk.img", "it changed while it was packed"),) and report.incomplete == 1
        assert memvec.list(file.parent / "s.memvec") == []


def test_what_can_be_text() -> None:
    for data in ("ä".encode()[:1], b"a\0" * 40, b"", "€".encode()):
        assert may_be_text(data)
    for data in (b"\xff", b"\0" * 64, b"a\xc3("):
        assert not may_be_text(data) and as_text(data) is None
