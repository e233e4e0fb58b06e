"""Write documents as rows: JSON lines, which may be compressed, or a Parquet file."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

import zstandard

from memvec.errors import MissingExtraError, UsageError
from memvec.formats import files
from memvec.settings import CorpusSettings
from memvec.types import Document

RowForm = Literal["jsonl", "parquet"]
BASE64 = "base64"  # the field of a document that is no UTF-8 text
GROUP_ROWS, GROUP_BYTES = 1024, 64 * 1024**2  # of a row group, which is held in memory


class RowWriter(ABC):
    """Writes documents into one file. A context manager: after an error there is no file, or the one from before."""

    def __init__(self, path: Path, meta: Mapping[str, Mapping[str, str]], settings: CorpusSettings) -> None:
        """`meta` is the metadata of documents by name. UsageError if two fields have one name in the `settings`."""
        own = _own(settings)
        if len(set(own)) < len(own):
            raise UsageError(
                f"the fields of name, text and bytes are {', '.join(own)}, expected three different names."
            )
        self.path, self.meta, self.settings = path, meta, settings
        self.refused: list[tuple[str, str]] = []  # none: every document has a row
        self._done: list[Document] = []
        self._scratch = path.parent / f"{files.SCRATCH}{secrets.token_hex(8)}"

    def __enter__(self) -> RowWriter:  # noqa: PYI034 (typing.Self is of Python 3.11)
        try:
            self._open()
        except OSError as error:
            raise files.write_error(self.path, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._close()
        with contextlib.suppress(OSError):
            self._scratch.unlink()

    def add(self, document: Document, data: bytes) -> None:
        """Take a document whose bytes were verified. WriteError."""
        try:
            self._write(row(document.name, data, self.meta.get(document.name, {}), self.settings))
        except OSError as error:
            raise files.write_error(self.path, error) from error
        self._done.append(document)

    def finish(self) -> list[Document]:
        """Put the file in its place, and return the documents in it. WriteError."""
        try:
            self._close()
            files.flush(self._scratch)
            os.replace(self._scratch, self.path)
            files.sync_folder(self.path.parent)
        except OSError as error:
            raise files.write_error(self.path, error) from error
        return self._done

    @abstractmethod
    def _open(self) -> None: ...

    @abstractmethod
    def _write(self, fields: Mapping[str, str]) -> None: ...

    @abstractmethod
    def _close(self) -> None:
        """Write what is left. It may be called twice."""


class JsonLinesWriter(RowWriter):
    """JSON lines, compressed if the file's name ends in .gz or .zst."""

    def _open(self) -> None:
        self._streams: list[IO[bytes]] = [open(self._scratch, "xb")]  # noqa: SIM115  # `_close` closes it
        if self.path.suffix == ".gz":
            self._streams.append(gzip.GzipFile("", "wb", fileobj=self._streams[0], mtime=0))  # type: ignore[arg-type]
        elif self.path.suffix == ".zst":
            packer = zstandard.ZstdCompressor(level=9, write_checksum=True)
            self._streams.append(packer.stream_writer(self._streams[0], closefd=False))

    def _write(self, fields: Mapping[str, str]) -> None:
        self._streams[-1].write(line(fields))

    def _close(self) -> None:
        while self._streams:
            self._streams.pop().close()


class ParquetWriter(RowWriter):
    """A Parquet file. Its columns are texts: the name, the text, the base64 of documents that are no text, and metadata."""

    def _open(self) -> None:
        pyarrow = _pyarrow()
        from pyarrow import parquet

        own = _own(self.settings)
        labels = sorted({_field(key, own) for labels in self.meta.values() for key in labels})
        self._schema = pyarrow.schema([(name, pyarrow.large_string()) for name in [*own, *labels]])
        self._writer: Any = parquet.ParquetWriter(self._scratch, self._schema, compression="zstd")
        self._rows: list[Mapping[str, str]] = []
        self._bytes = 0

    def _write(self, fields: Mapping[str, str]) -> None:
        self._rows.append(fields)
        self._bytes += sum(map(len, fields.values()))
        if len(self._rows) >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(_pyarrow().Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._bytes = [], 0

    def _close(self) -> None:
        if self._writer is not None:
            writer = self._writer
            if self._rows:
                self._flush()
            self._writer = None
            writer.close()


WRITERS: Mapping[RowForm, type[RowWriter]] = {"jsonl": JsonLinesWriter, "parquet": ParquetWriter}


def row(name: str, data: bytes, meta: Mapping[str, str], settings: CorpusSettings) -> dict[str, str]:
    """The fields of a document: its name, its text or else its bytes in base64, and its metadata."""
    own = _own(settings)
    try:
        content = {settings.text_field: data.decode()}
    except UnicodeDecodeError:
        content = {BASE64: base64.b64encode(data).decode()}
    return {own[0]: name} | content | {_field(key, own): value for key, value in meta.items()}


def line(fields: Mapping[str, str]) -> bytes:
    """A row as a line of JSON."""
    return json.dumps(fields, ensure_ascii=False).encode() + b"\n"


def _own(settings: CorpusSettings) -> list[str]:
    """The fields of a document's name, text and bytes."""
    return [settings.id_field or "id", settings.text_field, BASE64]


def _field(key: str, taken: Iterable[str]) -> str:
    """The field of a metadata key."""
    return f"meta.{key}" if key in taken else key


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtraError(
            "writing Parquet needs pyarrow. Install it with: pip install 'memvec[corpora]'"
        ) from error
    return pyarrow
