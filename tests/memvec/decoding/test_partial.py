"""unpack with on_error: one bad record or shard costs its documents, and nothing unverified is written."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import memvec
from memvec.decoding.partial import missing_ranges
from memvec.errors import NotFoundError, PartialError, ReconstructionError, StoreDamagedError, UsageError
from memvec.filesystem.sources import Source
from memvec.formats.container import read_header
from memvec.formats.shard import FORMAT_NAME
from memvec.store.store import Store
from memvec.store.transaction import Transaction
from memvec.types import Document


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def without(documents: dict[str, bytes], name: str) -> dict[str, bytes]:
    return {other: data for other, data in documents.items() if other != name}


def written(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def spoil_vectors(store: Path, name: str, which: int) -> tuple[int, int]:
    """Give record number `which` of a document vectors that decode to something else; its range of bytes."""
    opened = Store.open(store)
    record = opened.record(opened.documents()[name].records[which])
    Transaction(opened).commit([dataclasses.replace(record, vectors=record.vectors * 0)])
    return record.start, record.start + record.length


def flip(store: Path, tensor: str, offset: int, number: int = 0) -> None:
    """One bit of a tensor in a shard."""
    file = store / Store.open(store).manifest.shards[number].path
    data = bytearray(file.read_bytes())
    entries, _ = read_header(bytes(data), FORMAT_NAME)
    data[8 + int.from_bytes(data[:8], "little") + entries[tensor]["data_offsets"][0] + offset] ^= 1
    file.write_bytes(data)


def place_in_vectors(store: Path, name: str) -> int:
    """The offset in bytes of the vectors of a document's first record."""
    opened = Store.open(store)
    tensors = opened.shard(0).tensors
    row = opened.documents()[name].records[0].row
    return int(tensors["vectors_offsets"][row]) * tensors["vectors"].shape[1] * 2


def test_a_document_that_decodes_wrongly_is_skipped(store: Path, tmp_path: Path, documents: dict[str, bytes]) -> None:
    spoil_vectors(store, "prose.txt", 1)
    with pytest.raises(ReconstructionError):
        memvec.unpack(store, tmp_path / "fail")
    with pytest.raises(PartialError, match="Everything else was unpacked") as caught:
        memvec.unpack(store, tmp_path / "skip", on_error="skip")
    ((name, why),) = caught.value.skipped
    assert name == "prose.txt" and "decoded to other bytes" in why
    assert written(tmp_path / "skip") == without(documents, "prose.txt")
    assert caught.value.report is not None and caught.value.report.documents == len(documents) - 1


def test_partial_writes_what_is_right_and_what_is_missing(store: Path, out: Path, documents: dict[str, bytes]) -> None:
    begin, end = spoil_vectors(store, "prose.txt", 1)
    with pytest.raises(PartialError, match=rf"missing are bytes {begin} to {end}") as caught:
        memvec.unpack(store, out, on_error="partial")
    found, whole = written(out), documents["prose.txt"]
    assert found.pop("prose.txt.partial") == whole[:begin] + whole[end:]
    report = json.loads(found.pop("prose.txt.partial.json"))
    assert report["missing"] == [[begin, end]] and report["bytes"] == len(whole)
    assert report["written"] == len(whole) - (end - begin)
    assert found == without(documents, "prose.txt")  # and nothing under the document's own name
    assert caught.value.report is not None
    assert caught.value.report.partial == ("prose.txt.partial", "prose.txt.partial.json")  # type: ignore[union-attr]


def test_partial_writes_over_nothing(store: Path, out: Path, tiny: str) -> None:
    memvec.pack([Source("prose.txt.partial", b"x")], store, model=tiny)
    spoil_vectors(store, "prose.txt", 0)
    with pytest.raises(PartialError, match="exists"):
        memvec.unpack(store, out, on_error="partial", overwrite=True)
    assert (out / "prose.txt.partial").read_bytes() == b"x"
    assert not (out / "prose.txt.partial.json").exists()


def test_partial_writes_nothing_of_records_that_do_not_join(store: Path, out: Path) -> None:
    opened = Store.open(store)
    stored = opened.documents()["prose.txt"]
    lie = dataclasses.replace(stored.document, sha256="ab" * 32)
    Transaction(opened).commit([dataclasses.replace(opened.record(ref), document=lie) for ref in stored.records])
    with pytest.raises(PartialError, match="belong to different versions"):
        memvec.unpack(store, out, documents=["prose.txt", "empty"], on_error="partial")
    assert [*written(out)] == ["empty"]


@pytest.mark.parametrize("tensor", ["vectors", "start", "document", "kind", "text_sha256"])
def test_one_flipped_byte_costs_one_document(
    store: Path, tmp_path: Path, documents: dict[str, bytes], tensor: str
) -> None:
    flip(store, tensor, place_in_vectors(store, "prose.txt") if tensor == "vectors" else 0)
    with pytest.raises(StoreDamagedError):
        memvec.unpack(store, tmp_path / "fail")
    with pytest.raises(PartialError) as caught:
        memvec.unpack(store, tmp_path / "skip", on_error="skip")
    lost = {name for name, _ in caught.value.skipped}
    assert len(lost) == 1
    assert written(tmp_path / "skip") == {name: data for name, data in documents.items() if name not in lost}
    if tensor == "vectors":
        assert lost == {"prose.txt"}
        given = memvec.read(store, on_error="skip")
        assert next(given)[0] == "bom.txt"
        with pytest.raises(PartialError, match=r"prose\.txt: store is damaged"):
            list(given)


def test_partial_of_a_damaged_record(store: Path, out: Path, documents: dict[str, bytes]) -> None:
    first = Store.open(store).documents()["prose.txt"].records[0]
    flip(store, "vectors", place_in_vectors(store, "prose.txt"))
    with pytest.raises(PartialError, match=r"does not match its digest|does not match the digest"):
        memvec.unpack(store, out, documents=["prose.txt"], on_error="partial")
    assert written(out)["prose.txt.partial"] == documents["prose.txt"][first.length :]


def test_a_file_that_grew_loses_nothing(store: Path, out: Path, documents: dict[str, bytes]) -> None:
    file = store / Store.open(store).manifest.shards[0].path
    file.write_bytes(file.read_bytes() + b"\0\0")
    assert not memvec.verify(store).ok
    memvec.unpack(store, out, on_error="skip")
    assert written(out) == documents


def test_an_offset_that_leads_far_away_costs_no_more(store: Path, out: Path) -> None:
    for byte in range(8):
        flip(store, "vectors_offsets", 8 + byte)
    with pytest.raises(PartialError) as caught:
        memvec.unpack(store, out, on_error="skip")
    assert len(caught.value.skipped) <= 2 and len(written(out)) >= 13


def test_a_lost_shard_is_named_and_the_others_come_out(store: Path, out: Path, tiny: str) -> None:
    memvec.pack([Source("new.bin", b"\xff new")], store, model=tiny)
    lost = Store.open(store).manifest.shards[0].path
    (store / lost).unlink()
    with pytest.raises(PartialError, match="older version may have been read") as caught:
        memvec.unpack(store, out, on_error="skip")
    assert [name for name, _ in caught.value.skipped] == [lost]
    assert written(out) == {"new.bin": b"\xff new"}
    with pytest.raises(StoreDamagedError):  # it may have been there
        memvec.unpack(store, out, documents=["prose.txt"], on_error="skip")


def test_an_older_version_does_not_stand_in_for_a_damaged_newer_one(store: Path, tmp_path: Path, tiny: str) -> None:
    old, new = b"\xff the older version", b"\xff the newer version"
    for number, data in enumerate((old, new)):
        memvec.pack([Source("versions.bin", data)], store, model=tiny)
        assert len(Store.open(store).manifest.shards) == 2 + number
    flip(store, "payload", 9, number=2)
    with pytest.raises(PartialError) as caught:
        memvec.unpack(store, tmp_path / "a", on_error="skip")
    assert [name for name, _ in caught.value.skipped] == ["versions.bin"]
    assert "versions.bin" not in written(tmp_path / "a")
    flip(store, "payload", 9, number=2)  # whole again; now the older one
    flip(store, "payload", 9, number=1)
    memvec.unpack(store, tmp_path / "b", on_error="skip")
    assert (tmp_path / "b" / "versions.bin").read_bytes() == new


def test_what_was_removed_is_not_missed(store: Path, out: Path, documents: dict[str, bytes]) -> None:
    opened = Store.open(store)
    gone: Document = opened.documents()["prose.txt"].document
    place = place_in_vectors(store, "prose.txt")
    Transaction(opened).commit([], removed=[(gone.name, gone.sha256)])
    flip(store, "vectors", place)
    memvec.unpack(store, out, on_error="skip")
    assert written(out) == without(documents, "prose.txt")


def test_on_error_is_one_of_three(store: Path, out: Path) -> None:
    with pytest.raises(UsageError, match="on_error is 'ignore', expected fail, skip or partial"):
        memvec.unpack(store, out, on_error="ignore")  # type: ignore[arg-type]
    with pytest.raises(NotFoundError, match="no-such"):
        memvec.unpack(store, out, documents=["no-such*"], on_error="skip")


def test_as_a_user_would(store: Path, tmp_path: Path, capsysbinary: Any) -> None:
    from memvec.cli.main import run

    spoil_vectors(store, "prose.txt", 0)
    assert run(["unpack", str(store), "-o", str(tmp_path / "a"), "--on-error", "partial", "--json"]) == 8
    out, err = capsysbinary.readouterr()
    report = json.loads(out)
    assert list(report["skipped"]) == ["prose.txt"] and report["partial"][0] == "prose.txt.partial"
    assert report["escalated"] == 0 and b"prose.txt" in err
    assert run(["unpack", str(store), "--stdout", "--doc", "crlf.txt", "--doc", "prose.txt", "--on-error", "skip"]) == 8
    assert capsysbinary.readouterr()[0].startswith(b"first line\r\n")
    assert run(["unpack", str(store), "--stdout", "--on-error", "partial"]) == 2
    assert run(["unpack", str(store), "-o", str(tmp_path / "b")]) == 5


def test_ranges() -> None:
    assert missing_ranges(10, []) == [(0, 10)]
    assert missing_ranges(10, [(0, 4), (6, 10)]) == [(4, 6)]
    assert missing_ranges(10, [(1, 10)]) == [(0, 1)]
    assert missing_ranges(10, [(0, 10)]) == []
    assert missing_ranges(0, []) == []
