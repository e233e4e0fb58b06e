"""What each kind of corpus yields, and what it says of damage."""

from __future__ import annotations

import gzip
import io
import json
import sys
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from memvec.corpora.choose import corpus_at, gathered
from memvec.corpora.compressed import opened
from memvec.corpora.corpus import Corpus, Item
from memvec.corpora.datasets import Dataset
from memvec.corpora.spool import Spool
from memvec.errors import MissingExtraError, NotFoundError, UsageError
from memvec.filesystem.sources import Source, UnfitError
from memvec.settings import CorpusSettings

PLAIN = CorpusSettings()
FIELDS = CorpusSettings(id_field="id", meta_fields=("lang", "year"))
ROWS = [
    {"id": "one", "text": "first", "lang": "en", "year": 1813},
    {"id": 2, "text": "zwei\n", "lang": None},
    {"id": "a/b", "text": ""},
]
ENDINGS = ("", ".gz", ".zst")


def found(corpus: Corpus | None) -> list[Item]:
    assert corpus is not None
    first = list(corpus.items())
    assert first == list(corpus.items())  # it can be read again
    return first


def packed(data: bytes, ending: str) -> bytes:
    return {"": data, ".gz": gzip.compress(data), ".zst": zstandard.compress(data)}[ending]


def lines(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def archive(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


class TestJsonLines:
    @pytest.mark.parametrize("ending", ENDINGS)
    def test_a_row_is_a_document(self, tmp_path: Path, ending: str) -> None:
        (tmp_path / f"a.jsonl{ending}").write_bytes(packed(lines(*ROWS), ending))
        assert found(corpus_at(tmp_path / f"a.jsonl{ending}", FIELDS)) == [
            (f"a.jsonl{ending}#1", Source("one", b"first", {"lang": "en", "year": "1813"})),
            (f"a.jsonl{ending}#2", Source("2", b"zwei\n")),
            (f"a.jsonl{ending}#3", Source("a/b", b"")),
        ]

    def test_without_an_id_the_line_names_it(self, tmp_path: Path) -> None:
        (tmp_path / "a.ndjson").write_bytes(b"\xef\xbb\xbf" + lines({"text": "x"}) + b"\r\n  \n" + lines({"text": "y"}))
        assert found(corpus_at(str(tmp_path / "a.ndjson"), PLAIN)) == [
            ("a.ndjson#1", Source("a.ndjson#1", b"x")),
            ("a.ndjson#4", Source("a.ndjson#4", b"y")),
        ]

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            (b"{broken", "no JSON"),
            (b'"\xff"', "no JSON"),
            (b"[" * 100_000, "no JSON"),
            (b"[1]", "expected an object with a field 'text', found of the type list"),
            (b'{"id": "x", "body": 1}', "no field 'text'; its fields: 'id', 'body'"),
            (b'{"id": "x", "text": null}', "'text' is null"),
            (b'{"id": "x", "text": 5}', "'text' is of the type int"),
            (b'{"id": "x", "text": "\\ud800"}', "half a character"),
            (b'{"text": "t"}', "no field 'id'"),
            (b'{"id": true, "text": "t"}', "'id' is of the type bool"),
            (b'{"id": "../x", "text": "t"}', "must be relative"),
            (b'{"id": "", "text": "t"}', "must be relative"),
        ],
    )
    def test_a_broken_line_costs_itself_alone(self, tmp_path: Path, line: bytes, reason: str) -> None:
        (tmp_path / "a.jsonl").write_bytes(lines(ROWS[0]) + line + b"\n" + lines(ROWS[2]))
        first, (place, why), last = found(corpus_at(tmp_path / "a.jsonl", FIELDS))
        assert place == "a.jsonl#2" and isinstance(why, str) and reason in why
        assert isinstance(first[1], Source) and isinstance(last[1], Source)

    def test_a_line_that_is_too_long_is_passed_over(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("memvec.corpora.json_lines.MOST_BYTES", 40)
        (tmp_path / "a.jsonl").write_bytes(lines({"text": "x" * 200}, {"text": "y"}))
        (_, why), (_, document) = found(corpus_at(tmp_path / "a.jsonl", PLAIN))
        assert why == "the line is longer than 40 bytes" and document == Source("a.jsonl#2", b"y")

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.text()), st.sampled_from(ENDINGS))
    def test_any_text(self, texts: list[str], ending: str) -> None:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"a.jsonl{ending}"
            whole = [text.encode("utf-8", "replace").decode() for text in texts]
            file.write_bytes(packed(lines(*({"text": text} for text in whole)), ending))
            read = [document.data.decode() for _, document in found(corpus_at(file, PLAIN))]  # type: ignore[union-attr]
        assert read == whole


class TestDamage:
    """What stands before the damage is read. The rest is an error with a reason."""

    @pytest.mark.parametrize(
        ("ending", "reason"), [(".gz", "gzip stream is cut off"), (".zst", "zstd stream is cut off")]
    )
    def test_cut_off(self, tmp_path: Path, ending: str, reason: str) -> None:
        rows = [{"text": f"{n} " + "".join(chr(97 + (n * k) % 26) for k in range(4000))} for n in range(2000)]
        (tmp_path / f"a.jsonl{ending}").write_bytes(packed(lines(*rows), ending)[:-5])
        read = []
        corpus = corpus_at(tmp_path / f"a.jsonl{ending}", PLAIN)
        assert corpus is not None
        with pytest.raises(UnfitError, match=reason):
            read.extend(corpus.items())
        assert read and all(isinstance(document, Source) for _, document in read)

    @pytest.mark.parametrize("ending", [".gz", ".zst"])
    def test_other_bytes(self, tmp_path: Path, ending: str) -> None:
        (tmp_path / f"a.jsonl{ending}").write_bytes(b"no such stream")
        with pytest.raises(UnfitError, match="is damaged"):
            found(corpus_at(tmp_path / f"a.jsonl{ending}", PLAIN))

    def test_frames_behind_one_another(self, tmp_path: Path) -> None:
        frames = zstandard.compress(lines({"text": "a"})) + zstandard.compress(lines({"text": "b"}))
        (tmp_path / "a.jsonl.zst").write_bytes(frames)
        assert len(found(corpus_at(tmp_path / "a.jsonl.zst", PLAIN))) == 2

    def test_a_small_file_that_holds_much_is_read_in_steps(self, tmp_path: Path) -> None:
        file = tmp_path / "a.jsonl.zst"
        file.write_bytes(zstandard.ZstdCompressor(level=19).compress(bytes(1 << 30)))
        assert file.stat().st_size < 200_000
        tracemalloc.start()
        with opened(file) as stream:
            while stream.read(1 << 20):
                pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 100 * 2**20

    @pytest.mark.parametrize(("name", "reason"), [("a.parquet", "as Parquet"), ("a.tar", "as a tar archive")])
    def test_of_other_kinds(self, tmp_path: Path, name: str, reason: str) -> None:
        (tmp_path / name).write_bytes(b"no such file" * 100)
        with pytest.raises(UnfitError, match=reason):
            found(corpus_at(tmp_path / name, PLAIN))

    @pytest.mark.parametrize(("size", "reason"), [(2000, "it is cut off"), (2100, "unexpected end")])
    def test_a_cut_archive(self, tmp_path: Path, size: int, reason: str) -> None:
        (tmp_path / "a.tar").write_bytes(archive({"a": b"x" * 600, "b": b"y" * 600})[:size])
        corpus = corpus_at(tmp_path / "a.tar", PLAIN)
        assert corpus is not None
        items = corpus.items()
        assert next(items) == ("a.tar/a", Source("a", b"x" * 600))
        with pytest.raises(UnfitError, match=reason):
            list(items)


class TestParquet:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        columns = {"id": ["one", "two"], "text": ["first", None], "raw": [b"\xff", b"\0"], "year": [1813, None]}
        parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
        return tmp_path / "a.parquet"

    def test_a_row_is_a_document(self, file: Path) -> None:
        assert found(corpus_at(file, FIELDS)) == [
            ("a.parquet#0", Source("one", b"first", {"year": "1813"})),
            ("a.parquet#1", "its field 'text' is null, expected a text"),
        ]

    def test_bytes_are_taken_as_they_are(self, file: Path) -> None:
        assert found(corpus_at(file, CorpusSettings("raw"))) == [
            ("a.parquet#0", Source("a.parquet#0", b"\xff")),
            ("a.parquet#1", Source("a.parquet#1", b"\0")),
        ]

    def test_a_wrong_field(self, file: Path) -> None:
        assert {why for _, why in found(corpus_at(file, CorpusSettings("body")))} == {
            "it has no field 'body'; its fields: 'id', 'text', 'raw', 'year'"
        }

    def test_without_pyarrow(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(MissingExtraError, match=r"memvec\[corpora\]"):
            found(corpus_at(file, PLAIN))


class TestTar:
    @pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz", "a.tar.zst"])
    def test_files_are_documents(self, tmp_path: Path, name: str) -> None:
        data = archive({"./x/a.txt": b"one", "b.bin": b"\0\xff"})
        (tmp_path / name).write_bytes(
            packed(data, {".tgz": ".gz", ".tar": ""}.get(name[1:], "." + name.split(".")[-1]))
        )
        assert found(corpus_at(tmp_path / name, PLAIN)) == [
            (f"{name}/x/a.txt", Source("x/a.txt", b"one")),
            (f"{name}/b.bin", Source("b.bin", b"\0\xff")),
        ]

    def test_members_that_are_no_documents(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("memvec.corpora.archive.MOST_BYTES", 5)
        with tarfile.open(tmp_path / "a.tar", "w") as tar:
            for name, kind in (("folder", tarfile.DIRTYPE), ("link", tarfile.SYMTYPE), ("pipe", tarfile.FIFOTYPE)):
                member = tarfile.TarInfo(name)
                member.type, member.linkname = kind, "/etc/passwd"
                tar.addfile(member)
            for name in ("../up", "/root", "long"):
                member = tarfile.TarInfo(name)
                member.size = 6
                tar.addfile(member, io.BytesIO(b"secret"))
        said = dict(found(corpus_at(tmp_path / "a.tar", PLAIN)))
        assert said["a.tar/link"] == said["a.tar/pipe"] == "not a regular file" and "a.tar/folder" not in said
        assert all("must be relative" in str(said[name]) for name in ("a.tar/../up", "a.tar//root"))
        assert "longer than 5 bytes" in str(said["a.tar/long"])


class TestDatasets:
    @pytest.fixture
    def library(self) -> Any:
        return pytest.importorskip("datasets")

    def test_a_saved_folder(self, tmp_path: Path, library: Any) -> None:
        rows = library.Dataset.from_dict({"text": ["a", "b"], "id": ["x", "y"], "lang": ["en", "de"]})
        rows.save_to_disk(tmp_path / "one")
        library.DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "two")
        assert found(corpus_at(tmp_path / "one", PLAIN)) == [
            ("one#0", Source("one#0", b"a")),
            ("one#1", Source("one#1", b"b")),
        ]
        assert found(corpus_at(tmp_path / "one", FIELDS))[1] == ("one#1", Source("y", b"b", {"lang": "de"}))
        assert [place for place, _ in found(corpus_at(tmp_path / "two", PLAIN))] == [
            "two/train#0",
            "two/train#1",
            "two/test#0",
            "two/test#1",
        ]
        assert "its fields: 'text', 'id', 'lang'" in str(found(corpus_at(tmp_path / "one", CorpusSettings("t")))[0][1])

    @pytest.mark.parametrize(
        ("address", "asked"),
        [
            ("hf://datasets/imdb", ("imdb", None, None, None)),
            ("hf://datasets/own/name:train[:10]", ("own/name", None, None, "train[:10]")),
            ("hf://datasets/own/name/2023.en@main:test", ("own/name", "2023.en", "main", "test")),
        ],
    )
    def test_on_the_hub(
        self, library: Any, monkeypatch: pytest.MonkeyPatch, address: str, asked: tuple[str | None, ...]
    ) -> None:
        calls = []

        def load_dataset(path: str, name: str | None, revision: str | None, split: str | None) -> Any:
            calls.append((path, name, revision, split))
            return library.Dataset.from_dict({"text": ["a"]})

        monkeypatch.setattr(library, "load_dataset", load_dataset)
        ((place, _),) = found(corpus_at(address, PLAIN))
        assert calls == [asked] and place == f"{asked[0]}#0"

    def test_what_is_not_there(self, library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def load_dataset(*args: object, **kwargs: object) -> Any:
            raise library.exceptions.DatasetNotFoundError("Dataset 'x' doesn't exist.\nmore")

        monkeypatch.setattr(library, "load_dataset", load_dataset)
        with pytest.raises(NotFoundError, match=r"'hf://datasets/x' cannot be loaded: Dataset 'x' doesn't exist\."):
            corpus_at("hf://datasets/x", PLAIN)
        for wrong in ("hf://models/x", "hf://datasets/", "hf://datasets/a/b/c/d"):
            with pytest.raises(UsageError, match="no address of a dataset"):
                corpus_at(wrong, PLAIN)

    def test_without_the_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(MissingExtraError, match=r"memvec\[corpora\]"):
            Dataset("hf://datasets/x", PLAIN)


def test_other_files_are_no_corpora(tmp_path: Path) -> None:
    for name in ("a.json", "a.txt", "jsonl", "a.parquet.gz", "a.gz", "a.tar.bz2"):
        (tmp_path / name).write_bytes(b"x")
        assert corpus_at(tmp_path / name, PLAIN) is None
    (tmp_path / "folder.jsonl").mkdir()
    assert corpus_at(tmp_path / "folder.jsonl", PLAIN) is None
    assert corpus_at(tmp_path / "missing.jsonl", PLAIN) is None  # `gather` says that it is not there


def test_an_iterator_is_read_once_and_its_documents_twice(tmp_path: Path) -> None:
    sources = [Source("a", b"x\n"), Source("b/c", b"", {"k": "v"}), Source("d", b'{"n"}\n\0')]
    assert [document for _, document in found(Spool(iter(sources)))] == sources
    (tmp_path / "file.txt").write_bytes(b"f")
    documents = gathered(iter([sources[0], tmp_path / "file.txt", *sources[1:]]), (), (), tmp_path / "s", PLAIN)
    documents.list()
    assert documents.count == 4 and [source.name for source in documents] == ["file.txt", "a", "b/c", "d"]
    with pytest.raises(UsageError):
        Spool(iter([Source("../a", b"")]))
