"""A corpus from the command line: packed, changed, packed again, searched and written as rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

import memvec
from memvec.errors import InterruptedPackError
from memvec.filesystem.sources import Source
from memvec.packing.commit import Committer
from memvec.store import catalogue
from memvec.store.store import Store

ROWS = 300  # of the corpus; every thirtieth is long enough for vectors
OPTIONS = [
    "--id-field", "id", "--keys", "bm25", "--nats-per-vector", "9", "--segment-tokens", "32", "--max-steps", "150",
    "--learning-rate", "1", "--dtype", "float32",
]  # fmt: skip


@pytest.fixture
def corpus(tmp_path: Path) -> tuple[Path, list[dict[str, str]]]:
    rows = [
        {
            "id": f"{n % 7}/{n:03}",
            "text": f"{n:03}" if n % 30 else f"The heron waits by the pier, said Ingrid; page {n}.",
        }
        for n in range(ROWS)
    ]
    rows[5]["text"] = ""
    rows[6]["text"] = "\0" * 100
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (tmp_path / "pages.jsonl.zst").write_bytes(zstandard.compress(data))
    return tmp_path / "pages.jsonl.zst", rows


def read(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text().split("\n")[:-1]]


def test_there_and_back(tmp_path: Path, corpus: tuple[Path, list[Any]], tiny: str, call: Callable[..., Any]) -> None:
    file, rows = corpus
    store = str(tmp_path / "s.memvec")
    done = call("pack", str(file), "-o", store, "-m", tiny, "--json", *OPTIONS)
    report = done.json
    assert report["documents"] == ROWS and report["exact"] and report["vectors"] > 0
    assert call("unpack", store, "-o", tmp_path / "back.jsonl", "--as", "jsonl", "-m", tiny).code == 0
    assert read(tmp_path / "back.jsonl") == sorted(rows, key=lambda row: row["id"])
    assert (
        call("cat", store, "5/005", "-m", tiny).out == "" and call("cat", store, "6/006", "-m", tiny).out == "\0" * 100
    )
    before = Store.open(store).manifest
    assert call("pack", file, "-o", store, "-m", tiny, "--json", *OPTIONS).json["unchanged"] == ROWS
    assert Store.open(store).manifest == before
    hits = call("search", store, "heron pier", "-m", tiny, "--json").json["hits"]
    assert {hit["document"] for hit in hits} <= {row["id"] for row in rows if len(row["text"]) > 20} and hits


def test_a_changed_row_replaces_its_document(tmp_path: Path, tiny: str) -> None:
    file, store = tmp_path / "a.jsonl", tmp_path / "s.memvec"
    named = memvec.CorpusSettings(id_field="id")
    for texts in (("one", "two"), ("one", "deux", "trois")):
        file.write_text("".join(json.dumps({"id": str(n), "text": text}) + "\n" for n, text in enumerate(texts)))
        report = memvec.pack([file], store, model=tiny, keys=(), corpus=named)
    assert (report.documents, report.unchanged) == (3, 1)
    assert dict(memvec.read(store, model=tiny)) == {"0": b"one", "1": b"deux", "2": b"trois"}


def test_metadata_of_rows_and_of_the_pack(tmp_path: Path, tiny: str) -> None:
    sources = [Source("a", b"1", {"lang": "en"}), Source("b", b"2"), Source("c", b"3", {"kind": "own"})]
    memvec.pack(iter(sources), tmp_path / "s", model=tiny, keys=(), meta={"kind": "page"})
    assert Store.open(tmp_path / "s").manifest.meta == {
        "a": {"kind": "page", "lang": "en"},
        "b": {"kind": "page"},
        "c": {"kind": "own"},
    }
    memvec.pack(iter([Source("a", b"1", {}), Source("b", b"2")]), tmp_path / "s", model=tiny, keys=())
    assert Store.open(tmp_path / "s").manifest.meta == {"b": {"kind": "page"}, "c": {"kind": "own"}}


def test_strict_input_writes_nothing(tmp_path: Path, tiny: str, call: Callable[..., Any]) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{}\n')
    done = call("pack", str(tmp_path / "a.jsonl"), "-o", str(tmp_path / "s"), "-m", tiny, "--strict-input")
    assert done.code == 8 and "a.jsonl#2: it has no field 'text'" in done.err
    assert not Store.exists(tmp_path / "s")
    done = call("pack", str(tmp_path / "a.jsonl"), "-o", str(tmp_path / "s"), "-m", tiny)
    assert done.code == 8 and [row.name for row in memvec.documents(tmp_path / "s")] == ["a.jsonl#1"]


def test_an_interrupted_pack_goes_on(tmp_path: Path, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It commits what is finished. The second run reads the corpus again and makes the rest."""
    rows = [Source(f"{n:03}", bytes([n, 0xFF])) for n in range(50)]
    add, count = Committer.add, 0

    def stopping(self: Committer, *args: Any, **kwargs: Any) -> None:
        nonlocal count
        count += 1
        if count == 21:
            raise KeyboardInterrupt
        add(self, *args, **kwargs)

    monkeypatch.setattr(Committer, "add", stopping)
    with pytest.raises(InterruptedPackError) as caught:
        memvec.pack(iter(rows), tmp_path / "s", model=tiny, keys=())
    assert caught.value.report.documents == 20
    monkeypatch.setattr(Committer, "add", add)
    report = memvec.pack(iter(rows), tmp_path / "s", model=tiny, keys=())
    assert (report.documents, report.unchanged) == (50, 20)
    assert dict(memvec.read(tmp_path / "s", model=tiny)) == {row.name: row.data for row in rows}


def test_with_a_catalogue(tmp_path: Path, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack asks the catalogue of a large store which documents there are."""
    monkeypatch.setattr(catalogue, "LEAST_RECORDS", 10)
    rows = [Source(f"d/{n:03}", bytes([n, 0xFF])) for n in range(40)]
    memvec.pack(iter(rows), tmp_path / "s", model=tiny, keys=())
    store = Store.open(tmp_path / "s")
    assert catalogue.path_of(store).is_file()
    monkeypatch.setattr(Store, "versions", lambda self: pytest.fail("it walks all documents"))
    report = memvec.pack(
        iter([*rows, Source("d/100", b"new\xff"), Source("d", b"x")]), tmp_path / "s", model=tiny, keys=()
    )
    assert (report.documents, report.unchanged) == (41, 40)
    assert report.skipped == (("d", "'d' would be a document and a folder"),)
    assert memvec.cat(tmp_path / "s", "d/100", model=tiny) == b"new\xff"
