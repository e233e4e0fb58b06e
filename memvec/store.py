"""A store on disk: what is in it, and how a shard of new records becomes part of it. Knows no model.

Shards are immutable and named by their digest; a commit writes the shard, then replaces the manifest (SPEC §2, §8).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors import SafetensorError

from memvec.errors import FormatTooNewError, MemvecError, NotFoundError, StoreChangedError, StoreDamagedError
from memvec.formats import container, files, manifest, shard
from memvec.formats import keys as keys_format
from memvec.formats.keys import Keys
from memvec.formats.manifest import KeysEntry, Manifest, ShardEntry
from memvec.formats.shard import Shard
from memvec.store_files import keys_file, shard_file
from memvec.types import Document, Kind, Problem, ProblemKind, Record

if TYPE_CHECKING:
    from memvec.searching import Hit

# A damaged file may make a parser fail in any of these ways; all of them mean the same.
PARSE_ERRORS = (ValueError, SafetensorError, OverflowError, RecursionError)
Entry = TypeVar("Entry", ShardEntry, KeysEntry)


@dataclass(frozen=True, slots=True)
class RecordRef:
    """Where a record lies: shard number and row, and the bytes of its document it stands for."""

    shard: int
    row: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document, the records that hold its content and those that make up its memory, each in order of bytes."""

    document: Document
    records: tuple[RecordRef, ...]  # exact and raw ones; where they leave a gap, all there are
    complete: bool  # `records` cover the document without a gap: its content is whole
    memory: tuple[RecordRef, ...] = ()  # context ones; none unless they cover the document without a gap
    unjoined: tuple[RecordRef, ...] = ()  # context ones where they leave a gap

    @property
    def usable(self) -> bool:
        """Is its content whole, or its memory?"""
        return self.complete or bool(self.memory)

    @property
    def unfinished(self) -> bool:
        """Did a pack leave content or a memory that is not whole? What was never begun is not missing."""
        return bool(self.unjoined) or (bool(self.records) and not self.complete)


class Store:
    """An opened store: one generation of its manifest, and its shards as they are asked for."""

    def __init__(self, path: Path, state: Manifest) -> None:
        self.path = path
        self.manifest = state
        self._load = lru_cache(maxsize=4)(self._load_shard)
        self._versions: list[StoredDocument] | None = None

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """The store at `path`. NotFoundError, FormatTooNewError or StoreDamagedError."""
        path = Path(path)
        file = path / manifest.FILE_NAME
        if not file.is_file():
            if any((path / "shards").glob("*.safetensors")):
                raise damaged(manifest.FILE_NAME, "missing_file", "the manifest is missing but shards are there")
            raise NotFoundError(
                f"no store at {str(path)!r}: expected a folder with {manifest.FILE_NAME}. `memvec pack` makes one."
            )
        try:
            return cls(path, manifest.decode(file.read_bytes()))
        except FormatTooNewError:
            raise
        except PARSE_ERRORS as error:
            raise damaged(manifest.FILE_NAME, "invalid_value", str(error)) from None

    @staticmethod
    def exists(path: Path) -> bool:
        """Is there a store, whole or damaged?"""
        return (path / manifest.FILE_NAME).exists() or any((path / "shards").glob("*.safetensors"))

    @classmethod
    def create(cls, path: str | Path, state: Manifest) -> Store:
        """A new empty store at `path`, whose write lock is held."""
        path = Path(path)
        files.make_folder(path / "shards")
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
        """Put a file on disk under the name of its entry; it is no part of the store yet. WriteError."""
        file = self.path / entry.path
        files.make_folder(file.parent)
        files.write_atomically(file, data)
        return entry

    def switch(self, state: Manifest) -> None:
        """From now on the store is what `state` names, all of which is on disk. WriteError leaves it as it was."""
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
                raise ValueError("its embedder or its number of texts are not what the manifest says")
        except PARSE_ERRORS as error:
            raise damaged(entry.path, "invalid_value", str(error)) from None
        return found

    def shard(self, number: int) -> Shard:
        """Shard number `number`, structure and digests checked. StoreDamagedError names the place."""
        return self._load(self.manifest.shards[number])

    def record(self, ref: RecordRef) -> Record:
        """The record at `ref`, its digest checked. StoreDamagedError names the place."""
        entry = self.manifest.shards[ref.shard]
        try:
            return self.shard(ref.shard).record(ref.row)
        except PARSE_ERRORS as error:
            raise damaged(f"{entry.path} record {ref.row}", "invalid_value", str(error)) from None

    def record_id(self, ref: RecordRef) -> str:
        """The 64 hex digits that name the record at `ref`."""
        return self.shard(ref.shard).digest(ref.row).hex()

    def versions(self) -> list[StoredDocument]:
        """Every document version that was not removed, whole or not, in order of its newest record."""
        if self._versions is None:
            self._versions = self._read_versions()
        return self._versions

    def _read_versions(self) -> list[StoredDocument]:
        known: dict[tuple[str, str], Document] = {}
        found: dict[tuple[str, str], tuple[dict[int, RecordRef], dict[int, RecordRef]]] = {}
        removed = set(self.manifest.removed)
        for number in range(len(self.manifest.shards)):
            part = self.shard(number)
            columns = (part.tensors[name].tolist() for name in ("kind", "document", "start", "length"))
            for row, (kind, place, start, length) in enumerate(zip(*columns, strict=True)):
                document = part.documents[place]
                key = document.name, document.sha256
                if key in removed:
                    continue
                content, context = found.pop(key, ({}, {}))  # re-inserted: the newest comes last
                refs = context if kind == Kind.CONTEXT else content
                refs[start] = RecordRef(number, row, start, length)
                found[key] = content, context
                known.setdefault(key, document)
        return [_assemble(known[key], *refs) for key, refs in found.items()]

    def documents(self) -> dict[str, StoredDocument]:
        """The live documents by name: of several versions with whole content or a whole memory, the newest.

        A newer version that has only a memory hides the content of an older one: that content is of other bytes.
        """
        live = {stored.document.name: stored for stored in self.versions() if stored.usable}
        return dict(sorted(live.items()))

    def search(self, query: str, k: int = 5, **options: Any) -> list[Hit]:
        """The `k` records that fit a query best; see `searching.search`."""
        from memvec.searching import search

        return search(self, query, k, **options)

    def size(self) -> int:
        """Bytes of the manifest and the files it names."""
        return (self.path / manifest.FILE_NAME).stat().st_size + sum(entry.bytes for entry in self.manifest.named)

    def _read(self, entry: ShardEntry | KeysEntry, format_name: str) -> bytes:
        """The bytes of a file that the manifest names, compared with it."""
        file = self.path / entry.path
        try:
            if (size := file.stat().st_size) != entry.bytes:
                raise damaged(entry.path, "size_mismatch", f"expected {entry.bytes} bytes, found {size}")
            data = file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise self._gone(entry.path) from None
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
            raise damaged(entry.path, "invalid_value", str(error)) from None
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
                raise ValueError(f"{name} is {part.metadata[name]}, the manifest says {value}")
        if manifest.CONTEXT not in state.required and (part.tensors["kind"] == Kind.CONTEXT).any():
            raise ValueError(
                f"it holds context records, but the manifest does not name the feature {manifest.CONTEXT!r}"
            )


def damaged(location: str, kind: ProblemKind, message: str) -> StoreDamagedError:
    """StoreDamagedError with one problem."""
    return StoreDamagedError([Problem(location, kind, message)])


def _assemble(document: Document, content: dict[int, RecordRef], context: dict[int, RecordRef]) -> StoredDocument:
    records, memory = _joined(document, content), _joined(document, context)
    return StoredDocument(
        document,
        records=records or tuple(content.values()),
        complete=bool(records),
        memory=memory,
        unjoined=() if memory else tuple(context.values()),
    )


def _joined(document: Document, refs: dict[int, RecordRef]) -> tuple[RecordRef, ...]:
    """Those of `refs`, by start, that cover the document in order; none when there is a gap."""
    # Records of an interrupted pack with other settings may lie across: the walk takes those that join, newest first.
    ordered: list[RecordRef] = []
    reached = 0
    while (ref := refs.get(reached)) is not None and ref not in ordered[-1:]:
        ordered.append(ref)
        reached += ref.length
    return tuple(ordered) if reached == document.bytes else ()
