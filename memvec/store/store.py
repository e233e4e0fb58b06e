"""A store on disk: what is in it, and how a shard of new records becomes part of it. Knows no model.

Shards are immutable and named by their digest; a commit writes the shard, then replaces the manifest (SPEC §2, §8).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from memvec.arguments import checked
from memvec.errors import FormatTooNewError, MemvecError, NotFoundError, ReadError, StoreChangedError, StoreDamagedError
from memvec.formats import container, files, manifest, shard
from memvec.formats import keys as keys_format
from memvec.formats.keys import Keys
from memvec.formats.manifest import KeysEntry, Manifest, ShardEntry
from memvec.formats.partial import ShardReader
from memvec.formats.refusal import Refusal, code_of
from memvec.formats.shard import Shard
from memvec.store.documents import RecordRef, StoredDocument, assemble
from memvec.store.files import keys_file, shard_file
from memvec.types import Document, Kind, Problem, ProblemKind, Record

__all__ = ["PARSE_ERRORS", "RecordRef", "Store", "StoredDocument", "damaged"]

Entry = TypeVar("Entry", ShardEntry, KeysEntry)

# A file that no reader may use is a Refusal, which is a ValueError; should a parser fail otherwise, it means the same.
PARSE_ERRORS = (ValueError, OverflowError, RecursionError)

KINDS: dict[str, ProblemKind] = {"missing-file": "missing_file", "digest-mismatch": "digest_mismatch"}


class Store:
    """An opened store: one generation of its manifest, and its shards as they are asked for."""

    def __init__(self, path: Path, state: Manifest) -> None:
        self.path = path
        self.manifest = state
        self._load = lru_cache(maxsize=4)(self._load_shard)
        self._open_reader = lru_cache(maxsize=16)(self._read_shard)
        self._versions: list[StoredDocument] | None = None

    @classmethod
    @checked()
    def open(cls, path: str | Path) -> Store:
        """The store at `path`. NotFoundError, FormatTooNewError, StoreDamagedError or ReadError."""
        path = Path(path)
        try:
            if files.size_of(path, manifest.FILE_NAME) > manifest.MAX_BYTES:
                raise Refusal("file-too-large", f"it is over the limit of {manifest.MAX_BYTES} bytes")
            return cls(path, manifest.decode(files.read(path, manifest.FILE_NAME, manifest.MAX_BYTES + 1)))
        except FormatTooNewError:
            raise
        except PARSE_ERRORS as error:
            if code_of(error) != "missing-file":
                raise refused(manifest.FILE_NAME, error) from error
        if cls.exists(path):
            raise damaged(manifest.FILE_NAME, "missing_file", "the manifest is missing but shards are there")
        raise NotFoundError(
            f"no store at {str(path)!r}: expected a folder with {manifest.FILE_NAME}. `memvec pack` makes one."
        )

    @staticmethod
    def exists(path: Path) -> bool:
        """Is there a store, whole or damaged? ReadError."""
        try:
            return os.path.lexists(path / manifest.FILE_NAME) or bool(files.listing(path, "shards", "*.safetensors"))
        except Refusal as refusal:  # a link in the place of its folder; a file there may be anything
            return refusal.code == "symlink"

    @classmethod
    def create(cls, path: str | Path, state: Manifest) -> Store:
        """A new empty store at `path`, whose write lock is held."""
        path = Path(path)
        files.make_folder(path / "shards", inside=True)
        files.write_atomically(path / manifest.FILE_NAME, manifest.encode(state))
        return cls(path, state)

    def commit(
        self,
        records: Sequence[Record],
        tool: str = "",
        keys: Sequence[Keys] = (),
        meta: Mapping[str, Mapping[str, str]] | None = None,
        removed: Iterable[tuple[str, str]] | None = None,
    ) -> None:
        """Make `records`, `keys` and `meta` part of the store, on disk when this returns; all of them or none.

        `meta` is what is said of documents by name; it takes the place of what was said of them before. `removed` are
        the (name, sha256) whose records no longer count, in place of those before; records committed now always count.
        """
        state = self.manifest
        entry = self.write(*shard_file(state, records, state.generation + 1)) if records else None
        entries = [self.write(*keys_file(part)) for part in keys]
        # In the same manifest as the shard: no reader that lacks the kind ever meets it.
        required = {manifest.CONTEXT} if any(record.kind == Kind.CONTEXT for record in records) else ()
        gone = set(state.removed if removed is None else removed)
        gone -= {(record.document.name, record.document.sha256) for record in records}
        self.switch(state.following(tool, entry, entries, required, meta, gone))

    def write(self, entry: Entry, data: bytes) -> Entry:
        """Put a file on disk under the name of its entry; it is no part of the store yet. WriteError, FormatTooNewError."""
        self.manifest.check_writable()
        file = self.path / entry.path
        files.make_folder(file.parent, inside=True)
        files.write_atomically(file, data)
        return entry

    def switch(self, state: Manifest) -> None:
        """From now on the store is what `state` names, all of which is on disk. WriteError leaves it as it was."""
        self.manifest.check_writable()
        files.write_atomically(self.path / manifest.FILE_NAME, manifest.encode(state))
        self.manifest = state
        self._versions = None

    def keys(self, entry: KeysEntry) -> Keys:
        """The keys in one file, digest and structure checked. StoreDamagedError names the place."""
        data = self._read(entry, keys_format.FORMAT_NAME)
        try:
            found = keys_format.decode(data)
            if (len(found), found.embedder.name, found.embedder.id) != (
                entry.texts,
                entry.embedder,
                entry.embedder_id,
            ):
                raise Refusal("manifest-mismatch", "its embedder or its number of texts are not what the manifest says")
        except PARSE_ERRORS as error:
            raise refused(entry.path, error) from error
        return found

    def shard(self, number: int) -> Shard:
        """Shard number `number`, structure and digests checked. StoreDamagedError names the place."""
        return self._load(self.manifest.shards[number])

    def reader(self, number: int) -> Shard:
        """Shard number `number`, to read columns and single records of. StoreDamagedError names the place."""
        return self._open_reader(self.manifest.shards[number])

    @contextmanager
    def explaining(self, entry: ShardEntry, place: str = "") -> Iterator[None]:
        """Turn what the reader of a shard finds wrong at `place` into a StoreDamagedError that names it."""
        try:
            yield
        except PARSE_ERRORS as error:
            if code_of(error) == "missing-file":  # collected in between
                raise self._gone(entry.path) from error
            self._load_shard(entry)  # read whole, a file that was changed says where
            raise refused(f"{entry.path}{place}", error) from error

    def record(self, ref: RecordRef) -> Record:
        """The record at `ref`, its digest checked. StoreDamagedError names the place."""
        with self.explaining(self.manifest.shards[ref.shard], f" record {ref.row}"):
            return self.reader(ref.shard).record(ref.row)

    def value(self, ref: RecordRef, column: str) -> Any:
        """The value of one column for the record at `ref`, as numpy has it. StoreDamagedError names the place."""
        with self.explaining(self.manifest.shards[ref.shard]):
            return self.reader(ref.shard).tensors[column][ref.row]

    def record_id(self, ref: RecordRef) -> str:
        """The 64 hex digits that name the record at `ref`."""
        with self.explaining(self.manifest.shards[ref.shard]):
            return self.reader(ref.shard).digest(ref.row).hex()

    def versions(self) -> list[StoredDocument]:
        """Every document version that was not removed, whole or not, in order of its newest record."""
        found = self._versions  # another thread may reset it
        if found is None:
            found = self._versions = self._read_versions()
        return found

    def _read_versions(self) -> list[StoredDocument]:
        known: dict[tuple[str, str], Document] = {}
        found: dict[tuple[str, str], tuple[dict[int, RecordRef], dict[int, RecordRef]]] = {}
        removed = set(self.manifest.removed)
        for number, entry in enumerate(self.manifest.shards):
            with self.explaining(entry):
                part = self.reader(number)
                documents = part.documents[:]
                columns = [part.tensors[name].tolist() for name in ("kind", "document", "start", "length")]
            for row, (kind, place, start, length) in enumerate(zip(*columns, strict=True)):
                document = documents[place]
                key = document.name, document.sha256
                if key in removed:
                    continue
                content, context = found.pop(key, ({}, {}))  # re-inserted: the newest comes last
                refs = context if kind == Kind.CONTEXT else content
                refs[start] = RecordRef(number, row, start, length)
                found[key] = content, context
                known.setdefault(key, document)
        return [assemble(known[key], *refs) for key, refs in found.items()]

    def documents(self) -> dict[str, StoredDocument]:
        """The live documents by name: of several versions with whole content or a whole memory, the newest.

        A newer version that has only a memory hides the content of an older one: that content is of other bytes.
        """
        live = {stored.document.name: stored for stored in self.versions() if stored.usable}
        return dict(sorted(live.items()))

    def size(self) -> int:
        """Bytes of the manifest and the files it names."""
        return (self.path / manifest.FILE_NAME).stat().st_size + sum(entry.bytes for entry in self.manifest.named)

    def check_there(self, entry: ShardEntry | KeysEntry) -> Path:
        """Where a file lies that the manifest names. StoreDamagedError when missing, a link or too long; ReadError."""
        try:
            size = files.size_of(self.path, entry.path)
        except Refusal as refusal:
            raise (
                self._gone(entry.path) if refusal.code == "missing-file" else refused(entry.path, refusal)
            ) from refusal
        if size != entry.bytes:
            raise damaged(entry.path, "size_mismatch", f"expected {entry.bytes} bytes, found {size}")
        return self.path / entry.path

    def _read(self, entry: ShardEntry | KeysEntry, format_name: str) -> bytes:
        """The bytes of a file that the manifest names, compared with it."""
        self.check_there(entry)
        try:
            data = files.read(self.path, entry.path, entry.bytes + 1)
        except Refusal as refusal:
            gone = refusal.code == "missing-file"  # collected in between
            raise (self._gone(entry.path) if gone else refused(entry.path, refusal)) from refusal
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            where = f"{entry.path} {container.damaged_place(data, format_name)}"
            raise damaged(where, "digest_mismatch", "the file does not match the digest in its name")
        return data

    def _gone(self, location: str) -> MemvecError:
        """Why a file is not there: it was collected after a newer generation was made, or it is lost."""
        now = Store.open(self.path).manifest.generation
        if now > self.manifest.generation:
            return StoreChangedError(location, self.manifest.generation, now)
        return damaged(location, "missing_file", "the manifest names this file but it is not there")

    def _load_shard(self, entry: ShardEntry) -> Shard:
        data = self._read(entry, shard.FORMAT_NAME)
        try:
            part = Shard(data)
            self._check_belongs(part, entry)
        except PARSE_ERRORS as error:
            raise refused(entry.path, error) from error
        return part

    def _read_shard(self, entry: ShardEntry) -> Shard:
        file = self.check_there(entry)
        with self.explaining(entry):
            part = ShardReader(file)
            self._check_belongs(part, entry)
        return part

    def _check_belongs(self, part: Shard, entry: ShardEntry) -> None:
        state = self.manifest
        expected = {
            "fingerprint": state.fingerprint.id,
            "width": state.fingerprint.width,
            "vocabulary": state.vocabulary,
            "records": entry.records,
            "documents": entry.documents,
        }
        for name, value in expected.items():
            if part.metadata[name] != value:
                raise Refusal("manifest-mismatch", f"{name} is {part.metadata[name]}, the manifest says {value}")
        if manifest.CONTEXT not in state.required and (part.tensors["kind"] == Kind.CONTEXT).any():
            raise Refusal(
                "feature-not-named",
                f"it holds context records, but the manifest does not name the feature {manifest.CONTEXT!r}",
            )


def damaged(location: str, kind: ProblemKind, message: str) -> StoreDamagedError:
    """StoreDamagedError with one problem."""
    return StoreDamagedError([Problem(location, kind, message)])


def problem(location: str, error: Exception) -> Problem:
    """What a parser said of the file, or record, at `location`."""
    return Problem(location, KINDS.get(code_of(error), "invalid_value"), str(error), code_of(error))


def unreadable(location: str, error: ReadError) -> Problem:
    """The problem of a file that the system cannot read. Raises `error` if it is about this process, not the file."""
    if error.errno in files.OUT_OF_HANDLES:
        raise error
    return Problem(location, "unreadable", f"the system could not read it ({error.reason})")


def refused(location: str, error: Exception) -> StoreDamagedError:
    """StoreDamagedError with what a parser said of `location`."""
    return StoreDamagedError([problem(location, error)])
