"""Write documents below a folder: many are flushed to disk together, and each is read back by its name at the end.

A document is written under another name, flushed, and then renamed. So a kill or a power cut never leaves half a document
under its name. When `finish` returns, all documents and their names are on disk.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from memvec.errors import ReadError, WriteError
from memvec.formats import files
from memvec.formats.refusal import Refusal
from memvec.types import Document

FILES_AT_ONCE, BYTES_AT_ONCE, SECONDS_AT_ONCE = 1024, 1 << 26, 2.0  # limits of the documents that wait for a flush
FLUSHES = 16  # threads that flush: a journalling file system joins waiting flushes into one write
PIECE = 1 << 22  # bytes that are read back at once
# Errors that concern one name. Any other, such as a full disk, would hit the next document as well.
OF_THE_NAME = frozenset(
    (
        errno.ENAMETOOLONG,
        errno.EINVAL,
        errno.EILSEQ,
        errno.EISDIR,
        errno.ENOTDIR,
        errno.EEXIST,
        errno.ENOTEMPTY,
        errno.ENOENT,
        errno.EACCES,
        errno.EPERM,
        errno.ELOOP,
        errno.EFBIG,
    )
)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A document that is written under another name."""

    document: Document
    scratch: Path


class DocumentWriter:
    """Writes documents below a folder. A context manager: after an error, verified documents still get their names."""

    def __init__(self, folder: Path, names: Mapping[str, str], skip: bool = False) -> None:
        """`names` maps documents to files. With `skip` a document is left out if the system refuses its name."""
        self.folder, self.names, self.skip = folder, names, skip
        self.refused: list[tuple[str, str]] = []  # (name, why) of documents that are not there
        self._named: list[Document] = []
        self._waiting: list[_Waiting] = []
        self._bytes, self._since, self._count = 0, time.monotonic(), 0
        self._staging: Path | None = None
        self._folders: set[Path] = set()  # that have new entries

    def __enter__(self) -> DocumentWriter:  # noqa: PYI034 (typing.Self is of Python 3.11)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None:  # documents that were verified before are written, as far as the system allows
                with contextlib.suppress(OSError):
                    self._flush()
                    self._sync()
        finally:
            if self._staging is not None:
                shutil.rmtree(self._staging, ignore_errors=True)

    def add(self, document: Document, data: bytes) -> None:
        """Take a document whose bytes were verified. WriteError."""
        self._count += 1
        target = self.folder / self.names[document.name]
        if self._staging is None:
            self._staging = self._made()
        scratch = self._staging / str(self._count)
        try:
            files.write_new(scratch, data, sync=False)
        except OSError as error:
            self._refuse(document, target, error, (errno.EFBIG,))
            return
        self._waiting.append(_Waiting(document, scratch))
        self._bytes += len(data)
        late = time.monotonic() - self._since > SECONDS_AT_ONCE
        if late or len(self._waiting) >= FILES_AT_ONCE or self._bytes >= BYTES_AT_ONCE:
            self._flush()

    def finish(self) -> list[Document]:
        """Finish all and return the documents that were read back from disk by their names. WriteError."""
        self._flush()
        self._sync()
        right = []
        for document in self._named:
            why = _read_back(self.folder, self.names[document.name], document)
            if why is None:
                right.append(document)
            else:
                self.refused.append((document.name, why))
        return right

    def _made(self) -> Path:
        """A folder inside the one for the documents, so that a rename out of it stays within one file system."""
        staging = self.folder / f"{files.SCRATCH}{secrets.token_hex(8)}"
        try:
            self._make_folder(self.folder)
            staging.mkdir()
        except OSError as error:
            raise files.write_error(self.folder, error) from error
        return staging

    def _flush(self) -> None:
        """Flush the waiting documents, then rename each. WriteError, raised after all were tried."""
        waiting, self._waiting, self._bytes, self._since = self._waiting, [], 0, time.monotonic()
        flushed = _each(files.flush, [one.scratch for one in waiting])
        first: WriteError | None = None
        for one, failed in zip(waiting, flushed, strict=True):
            target = self.folder / self.names[one.document.name]
            try:
                if failed is not None:
                    raise failed
                self._make_folder(target.parent)
                _rename(one.scratch, target)
            except OSError as error:
                try:
                    self._refuse(one.document, target, error, OF_THE_NAME)
                except WriteError as stopping:
                    first = first or stopping
                continue
            self._folders.add(target.parent)
            self._named.append(one.document)
        if first is not None:
            raise first

    def _make_folder(self, folder: Path) -> None:
        if folder in self._folders or folder.is_dir():
            return
        above = [folder, *(parent for parent in folder.parents if not parent.exists())]
        folder.mkdir(parents=True, exist_ok=True)
        self._folders.update(made.parent for made in above)
        self._folders.add(folder)

    def _sync(self) -> None:
        """Flush the folders that have new names in them, each once."""
        folders = sorted(self._folders)
        for folder, failed in zip(folders, _each(files.sync_folder, folders), strict=True):
            if failed is not None:
                raise files.write_error(folder, failed) from failed

    def _refuse(self, document: Document, target: Path, error: OSError, skipped: Collection[int]) -> None:
        if not self.skip or error.errno not in skipped:
            raise error if isinstance(error, WriteError) else files.write_error(target, error) from error
        self.refused.append((document.name, f"could not write {str(target)!r}: {error.strerror or error}"))


def _each(call: Callable[[Path], object], paths: Sequence[Path]) -> list[OSError | None]:
    """Call `call` with each path, in several threads. Return the error of each, or None."""

    def said(path: Path) -> OSError | None:
        try:
            call(path)
        except OSError as error:
            return error
        return None

    if len(paths) < 2:
        return [said(path) for path in paths]
    with ThreadPoolExecutor(min(FLUSHES, len(paths))) as pool:
        found = list(pool.map(said, paths))
    # A process with few handles has enough for one file at a time.
    again = [failed is not None and failed.errno in files.OUT_OF_HANDLES for failed in found]
    return [said(path) if alone else failed for path, failed, alone in zip(paths, found, again, strict=True)]


def _rename(scratch: Path, target: Path) -> None:
    try:
        os.replace(scratch, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        files.write_atomically(target, scratch.read_bytes())  # a folder that lies on another file system


def _read_back(folder: Path, name: str, document: Document) -> str | None:
    """Read a document's file back. Return why it differs, or None."""
    digest, size = hashlib.sha256(), 0
    try:
        with files.open_regular(folder / name) as file:
            while piece := file.read(PIECE):
                digest.update(piece)
                size += len(piece)
    except (Refusal, ReadError) as error:
        return f"it was written to {str(folder / name)!r}, but cannot be read back: {error}"
    if (size, digest.hexdigest()) != (document.bytes, document.sha256):
        return (
            f"it was written to {str(folder / name)!r}, but other bytes are there now: another document's name may lead "
            "to the same file. Unpack it by itself, or with rename_collisions=True"
        )
    return None
