"""Rows that are written hold the documents, and can be read again."""

from __future__ import annotations

import base64
import errno
import gzip
import hashlib
import json
from pathlib import Path

import pytest
import zstandard

from memvec.corpora.choose import corpus_at
from memvec.corpora.row_writer import WRITERS, RowForm
from memvec.errors import UsageError, WriteError
from memvec.filesystem.sources import Source
from memvec.settings import CorpusSettings
from memvec.types import Document

DOCUMENTS = {"a": b"one\r\n\xe2\x80\xa8two", "b/c": b"", "d": b"\xff\0"}
META = {"a": {"lang": "en", "id": "7"}}
FIELDS = CorpusSettings("body", "name")


def write(file: Path, form: RowForm = "jsonl", settings: CorpusSettings = FIELDS) -> list[Document]:
    with WRITERS[form](file, META, settings) as writer:
        for name, data in DOCUMENTS.items():
            writer.add(Document(name, len(data), hashlib.sha256(data).hexdigest(), 0, 0), data)
        return writer.finish()


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_json_lines(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"a.jsonl{ending}"
    assert [document.name for document in write(file)] == list(DOCUMENTS)
    data = file.read_bytes()
    data = {".gz": gzip.decompress, ".zst": lambda d: zstandard.ZstdDecompressor().decompressobj().decompress(d)}.get(
        ending, bytes
    )(data)
    assert [json.loads(line) for line in data.split(b"\n")[:-1]] == [
        {"name": "a", "body": "one\r\n\u2028two", "lang": "en", "id": "7"},
        {"name": "b/c", "body": ""},
        {"name": "d", "base64": base64.b64encode(b"\xff\0").decode()},
    ]
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_the_same_documents_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write(tmp_path / name)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


@pytest.mark.parametrize(("name", "form"), [("a.jsonl.zst", "jsonl"), ("a.parquet", "parquet")])
def test_rows_are_read_again(tmp_path: Path, name: str, form: RowForm) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    write(tmp_path / name, form)
    corpus = corpus_at(tmp_path / name, CorpusSettings("body", "name", ("lang",)))
    assert corpus is not None
    first, second, (_, why) = (item for item in corpus.items())
    assert first[1] == Source("a", DOCUMENTS["a"], {"lang": "en"}) and second[1] == Source("b/c", b"")
    assert isinstance(why, str)  # a document that is no text has no field "body" in JSON, and null in Parquet


def test_metadata_with_the_name_of_a_field(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", settings=CorpusSettings())
    assert json.loads((tmp_path / "a.jsonl").read_text().split("\n")[0])["meta.id"] == "7"


def test_fields_of_one_name() -> None:
    for settings in (CorpusSettings("id"), CorpusSettings("x", "x"), CorpusSettings("base64")):
        with pytest.raises(UsageError, match="three different names"):
            WRITERS["jsonl"](Path("x"), {}, settings)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_after_an_error_the_earlier_file_stays(tmp_path: Path, form: RowForm) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    (tmp_path / "a").write_text("earlier")
    with pytest.raises(RuntimeError), WRITERS[form](tmp_path / "a", {}, FIELDS) as writer:
        writer.add(Document("a", 1, "0" * 64, 0, 0), b"x")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "earlier"


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("memvec.formats.files.flush", full)
    with pytest.raises(WriteError, match="No space left"):
        write(tmp_path / "a.jsonl")
    assert list(tmp_path.iterdir()) == []
