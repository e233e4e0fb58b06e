"""Which documents a pack reads, how often, and what zstd makes of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made import document, exact, kv, memory, put

import memvec
from memvec.corpora.documents import Documents
from memvec.filesystem.sources import Entry, Source, gather
from memvec.formats import raw
from memvec.packing import outstanding as module
from memvec.packing.outstanding import Outstanding, PackKind, described, sample
from memvec.store.catalogue import known
from memvec.store.documents import Known
from memvec.store.store import Store


def entries(*documents: Source) -> Documents:
    return Documents(Entry(d.name, len(d.data), d) for d in documents)


def files(*paths: Path) -> Documents:
    return Documents(gather(paths).entries)


class TestBaseline:
    """zstd -19 of all documents as one stream."""

    def test_is_shared_out_by_length(self) -> None:
        data = [b"a line that repeats\n" * 40, b"", b"a line that repeats\n" * 10, bytes(range(256))]
        found = described([Source(str(n), piece) for n, piece in enumerate(data)])
        assert sum(d.zstd_bytes for d in found) == raw.stream_size(data)
        assert [d.bytes for d in found] == [800, 0, 200, 256] and found[1].zstd_bytes == 0
        assert abs(found[0].zstd_bytes - 4 * found[2].zstd_bytes) <= 4

    def test_of_a_large_pack_is_estimated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        chance = random.Random(0)
        documents = [Source(f"{n:02}", chance.randbytes(5000) if n % 2 else bytes(5000)) for n in range(40)]
        whole = Outstanding(entries(*documents), Known(), "exact")
        whole.measure()
        assert not whole.baseline.sampled
        monkeypatch.setattr(module, "SAMPLE_OVER", 199_999)
        monkeypatch.setattr(module, "PIECE_BYTES", 1000)
        large = Outstanding(entries(*documents), Known(), "exact")
        large.measure()
        assert large.baseline.sampled and large.baseline.of_bytes == 200_000
        assert large.baseline.zstd_bytes == pytest.approx(whole.baseline.zstd_bytes, rel=0.15)
        assert sum(d.zstd_bytes for _, d in large.lacking(())) == large.baseline.zstd_bytes

    def test_the_sample_is_spread_evenly(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "PIECES", 4)
        monkeypatch.setattr(module, "PIECE_BYTES", 10)
        long = Source("b", bytes(range(200)))
        found = list(sample(entries(Source("a", b""), long, Source("c", b"x" * 4), Source("d", b"y" * 196)).entries))
        assert found == [bytes(range(10)), bytes(range(100, 110)), b"x" * 4, b"y" * 6, b"y" * 10]

    def test_the_sample_leaves_out_what_cannot_be_read(self, tmp_path: Path) -> None:
        for name in "ab":
            (tmp_path / name).write_bytes(name.encode() * 100)
        found = gather(tmp_path)
        (tmp_path / "a").unlink()
        assert set(b"".join(sample(found.entries))) == set(b"b")


class TestPasses:
    """Each pass reads the documents anew."""

    @pytest.fixture
    def read(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        seen: list[str] = []
        real = Entry.read
        monkeypatch.setattr(Entry, "read", lambda self: seen.append(self.name) or real(self))
        return seen

    def test_what_the_store_holds_is_read_once(self, packed: Path, tree: Path, read: list[str]) -> None:
        (tree.parent / "more.txt").write_bytes(b"fresh")
        found = Outstanding(files(tree, tree.parent / "more.txt"), known(Store.open(packed)), "exact")
        found.measure()
        assert found.unchanged == len(read) - 1 == 15
        read.clear()
        assert [source.name for source, _ in found.lacking(found.content)] == ["more.txt"] == read

    def test_one_document_after_the_other(self, tmp_path: Path, read: list[str]) -> None:
        for name in "abc":
            (tmp_path / name).write_bytes(name.encode())
        found = Outstanding(files(tmp_path), Known(), "exact").lacking(())
        assert next(found).source.data == b"a" and read == ["a"]

    def test_a_document_that_changes_in_between_is_skipped(self, tmp_path: Path) -> None:
        for name in "ab":
            (tmp_path / name).write_bytes(name.encode())
        documents = files(tmp_path)
        found = Outstanding(documents, Known(), "both")
        assert len(list(found.lacking(()))) == 2
        (tmp_path / "a").write_bytes(b"other")
        assert [source.name for source, _ in found.lacking(())] == ["b"]
        assert documents.skipped == [("a", "it changed while it was packed")]


@pytest.mark.parametrize(("kind", "lacking"), [("exact", "bcd"), ("context", "acd"), ("both", "abcd"), ("kv", "abd")])
def test_each_kind_has_versions_of_its_own(tmp_path: Path, kind: PackKind, lacking: str) -> None:
    data = {name: name.encode() * 40 for name in "abcd"}
    store = put(tmp_path / "s", exact("a", data["a"]), memory("b", data["b"]), kv("c", data["c"]), kv("d", b"older"))
    found = Outstanding(entries(*(Source(name, text) for name, text in data.items())), known(store), kind)
    found.measure()
    assert "".join(source.name for source, _ in found.lacking(found.held)) == lacking
    assert found.unchanged == 4 - len(lacking)
    assert len(found.kv) == 2 and ("c", document("c", data["c"]).sha256) in found.kv


def test_restored_documents_are_read_by_name(
    store: Path, tree: Path, tiny: str, tiny_settings: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    memvec.rm(store, "crlf.txt")
    before = [entry.path for entry in Store.open(store).manifest.shards]
    report = memvec.pack([tree], store, model=tiny, settings=tiny_settings(), dtype="float32")
    assert report.unchanged == report.documents == 15
    assert [entry.path for entry in Store.open(store).manifest.shards] == before
