"""Read a store: one state of its manifest, and the shard and key files that it names. Knows no model."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from memvec.arguments import checked
from memvec.errors import FormatTooNewError, MemvecError, NotFoundError, StoreChangedError
from memvec.formats import container, files, limits, manifest, shard
from memvec.formats import keys as keys_format
from memvec.formats.container import Array
from memvec.formats.keys import Keys
from memvec.formats.manifest import KeysEntry, Manifest, ShardEntry
from memvec.formats.partial import ShardReader
from memvec.formats.refusal import Refusal, code_of
from memvec.formats.shard import Shard
from memvec.store.documents import RecordRef, StoredDocument, Version, missing
from memvec.store.problems import PARSE_ERRORS, damaged, refused
from memvec.store.scan import Scan
from memvec.types import Conditioning, Record

__all__ = ["RecordRef", "Store", "StoredDocument"]


class Store:
    """One state of a store, to read. It never changes; `Store.open` reads the newest state.

    Args:
        path: The store's folder.
        state: The manifest of the state.

    Example:
        >>> opened = memvec.Store.open(store)
        >>> stored = opened.documents()["harbour.txt"]
        >>> stored.complete, len(stored.memory)
        (True, 1)
    """

    def __init__(self, path: Path, state: Manifest) -> None:
        self.path = path
        self.manifest = state
        self._load = lru_cache(maxsize=1)(self._load_shard)  # one can have 256 MiB
        self._open_reader = lru_cache(maxsize=16)(self._read_shard)

    @classmethod
    @checked()
    def open(cls, path: str | Path) -> Store:
        """Open the newest state of the store at `path`. NotFoundError, FormatTooNewError, StoreDamagedError, ReadError."""
        path = Path(path)
        try:
            if files.size_of(path, manifest.FILE_NAME) > limits.MANIFEST_BYTES:
                raise Refusal("file-too-large", f"it is over the limit of {limits.MANIFEST_BYTES} bytes")
            return cls(path, manifest.decode(files.read(path, manifest.FILE_NAME, limits.MANIFEST_BYTES + 1)))
        except FormatTooNewError:
            raise
        except PARSE_ERRORS as error:
            if code_of(error) != "missing-file":
                raise refused(manifest.FILE_NAME, error) from error
        if cls.exists(path):
            raise damaged(manifest.FILE_NAME, "missing_file", "the manifest is missing but shards are there")
        raise NotFoundError(
            f"no store at {str(path)!r}: expected a folder with {manifest.FILE_NAME}. `memvec.pack(…)` makes one."
        )

    @staticmethod
    def exists(path: Path) -> bool:
        """Is there a store, undamaged or damaged? ReadError."""
        try:
            return os.path.lexists(path / manifest.FILE_NAME) or bool(files.listing(path, "shards", "*.safetensors"))
        except Refusal as refusal:  # the folder of shards is a link; a file there may be anything
            return refusal.code == "symlink"

    def keys(self, entry: KeysEntry) -> Keys:
        """Read a file of keys and check its digest and structure. StoreDamagedError names the place."""
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
        """Read shard `number` as a whole and check its structure and digests. StoreDamagedError names the place."""
        return self._load(self.manifest.shards[number])

    def reader(self, number: int) -> Shard:
        """Open shard `number` to read columns and single records. StoreDamagedError names the place."""
        return self._open_reader(self.manifest.shards[number])

    @contextmanager
    def explaining(self, entry: ShardEntry, place: str = "") -> Iterator[None]:
        """Turn an error of a parser inside the block into a StoreDamagedError that names the shard and `place`."""
        try:
            yield
        except PARSE_ERRORS as error:
            if code_of(error) == "missing-file":  # `gc` deleted it in the meantime
                raise self._gone(entry.path) from error
            self._load_shard(entry)  # reading it as a whole finds the damaged place
            raise refused(f"{entry.path}{place}", error) from error

    def record(self, ref: RecordRef) -> Record:
        """Read the record at `ref` and check its digest. StoreDamagedError names the place."""
        with self.explaining(self.manifest.shards[ref.shard], f" record {ref.row}"):
            return self.reader(ref.shard).record(ref.row)

    def texts(self, number: int) -> Array:
        """Return the sha256 of the texts of the records of shard `number` (k, 32). StoreDamagedError names the place."""
        with self.explaining(self.manifest.shards[number]):
            column: Array = self.reader(number).tensors["text_sha256"]
            return column

    def version_of(self, ref: RecordRef) -> Version:
        """Return the document version of the record at `ref`, as its shard says. StoreDamagedError names the place."""
        with self.explaining(self.manifest.shards[ref.shard]):
            part = self.reader(ref.shard)
            document = part.documents[int(part.tensors["document"][ref.row])]
            return document.name, document.sha256

    def value(self, ref: RecordRef, column: str) -> Any:
        """Read one column of the record at `ref`, as a numpy scalar. StoreDamagedError names the place."""
        with self.explaining(self.manifest.shards[ref.shard]):
            return self.reader(ref.shard).tensors[column][ref.row]

    def conditioning(self, ref: RecordRef) -> Conditioning:
        """Read the report of the context or kv record at `ref`, and not its vectors, keys and values. StoreDamagedError."""
        with self.explaining(self.manifest.shards[ref.shard], f" record {ref.row}"):
            return self.reader(ref.shard).conditioning(ref.row)

    def record_id(self, ref: RecordRef) -> str:
        """Return the id of the record at `ref`, 64 hex digits."""
        with self.explaining(self.manifest.shards[ref.shard]):
            return self.reader(ref.shard).digest(ref.row).hex()

    def versions(self) -> list[StoredDocument]:
        """Return all document versions that are not removed, also unfinished ones, in order of their newest record."""
        return self._versions

    @cached_property
    def _versions(self) -> list[StoredDocument]:
        return self.scan().documents()

    def scan(self, counts: bool = False, begun: Scan | None = None) -> Scan:
        """Read the columns of all records, see `memvec.store.scan`. StoreDamagedError names the place.

        `begun` is a scan of the first shards, with `counts`. The others are added to it.
        """
        found = begun or Scan(self.manifest.removed, counts)
        for number, entry in list(enumerate(self.manifest.shards))[found.shards :]:
            with self.explaining(entry):
                found.add(number, self.reader(number))
        return found

    def documents(self) -> dict[str, StoredDocument]:
        """Return the live documents by name: of each the newest version whose content or a memory is complete.

        A newer version with only a memory hides the content of an older one, which is of other bytes.
        """
        live = {stored.document.name: stored for stored in self.versions() if stored.usable}
        return dict(sorted(live.items()))

    def missing(self, name: str) -> NotFoundError:
        """Return the error for a document that is not live."""
        return missing(name, {version.document.name for version in self.versions()}, self.documents(), self.path)

    def size(self) -> int:
        """Return the bytes of the manifest and the files it names."""
        return (self.path / manifest.FILE_NAME).stat().st_size + sum(entry.bytes for entry in self.manifest.named)

    def check_there(self, entry: ShardEntry | KeysEntry) -> Path:
        """Return the path of a file that the manifest names. StoreDamagedError if it is missing, a link or of another size; ReadError."""
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
        """Read a file that the manifest names, and compare it with the digest."""
        self.check_there(entry)
        try:
            data = files.read(self.path, entry.path, entry.bytes + 1)
        except Refusal as refusal:
            gone = refusal.code == "missing-file"  # `gc` deleted it in the meantime
            raise (self._gone(entry.path) if gone else refused(entry.path, refusal)) from refusal
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            where = f"{entry.path} {container.damaged_place(data, format_name)}"
            raise damaged(where, "digest_mismatch", "the file does not match the digest in its name")
        return data

    def _gone(self, location: str) -> MemvecError:
        """Return the error for a missing file: `gc` deleted it after a newer commit, or it is lost."""
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
        for feature in sorted(part.required - set(state.required)):
            raise Refusal(
                "feature-not-named",
                f"it holds {feature} records, but the manifest does not name the feature {feature!r}",
            )
