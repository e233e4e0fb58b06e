"""Read damaged files of a store record by record: every record whose own digest matches is saved.

`examine` reads one shard for `repair`. `SalvagedStore` is the store without its damaged records, for `unpack`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memvec.errors import ReadError, StoreDamagedError, counted
from memvec.formats import files, limits, shard
from memvec.formats import keys as keys_format
from memvec.formats.manifest import KeysEntry, Manifest, ShardEntry
from memvec.formats.raw import raw_bytes
from memvec.formats.refusal import Refusal
from memvec.formats.shard import Shard
from memvec.store.problems import PARSE_ERRORS, damaged, problem
from memvec.store.store import Store, StoredDocument
from memvec.store.transaction import features
from memvec.types import Document, Kind, Problem, Record


@dataclass(frozen=True, slots=True)
class Salvaged:
    """The records of a shard that can be saved, or the entry of an undamaged shard."""

    path: str
    entry: ShardEntry | None  # of an undamaged shard
    records: tuple[Record, ...]  # sound records of a damaged shard
    lost: int | None  # damaged records; None: their number is not known
    hurt: tuple[str, ...]  # names of documents that lost records, as far as they are known
    problem: Problem | None  # None: it is undamaged
    generation: int = 0  # as the shard says
    features: frozenset[str] = frozenset()  # that a reader of its sound records must understand


@dataclass(frozen=True, slots=True)
class SalvagedKeys:
    """The entry of an undamaged file of keys, or its problem. Single keys are not saved."""

    path: str
    entry: KeysEntry | None  # of an undamaged file
    embedder: str  # "" if it is not known
    problem: Problem | None


def examine(store: Path, path: str, expected: ShardEntry | None, state: Manifest) -> Salvaged:
    """Read the shard at `path` record by record. `expected` is its entry in the manifest, if there is a manifest."""
    count = expected.records if expected else None
    try:
        size = files.size_of(store, path)
        # Bytes appended to the file do no harm: the first `expected.bytes` are read.
        data = _read(store, path, expected.bytes) if expected else _read_shard(store, path)
    except (ReadError, *PARSE_ERRORS) as error:
        return Salvaged(path, None, (), count, (), problem(path, error))
    digest = hashlib.sha256(data).hexdigest()
    try:
        part = Shard(data, strict=False)
        if (part.metadata["fingerprint"], part.metadata["vocabulary"]) != (state.fingerprint.id, state.vocabulary):
            raise ValueError(f"it belongs to another model, {part.metadata['fingerprint']}")
    except PARSE_ERRORS as error:
        return Salvaged(path, None, (), count, (), Problem(path, "invalid_value", f"none of it can be read: {error}"))
    records, hurt = _sound_records(part)
    lost = len(part) - len(records)
    generation = part.metadata.get("generation")
    generation = generation if type(generation) is int else 0
    named = frozenset(features(records))
    if lost == 0 and digest == Path(path).stem and size == len(data):
        entry = ShardEntry(digest, size, len(part), len(part.documents))
        return Salvaged(path, entry, (), 0, (), None, generation, named)
    message = (
        f"{lost} of {len(part)} records do not match their digests"
        if lost
        else "the file is damaged, but all its records are sound"
    )
    wrong = Problem(path, "digest_mismatch", message)
    return Salvaged(path, None, records, lost, hurt, wrong, generation, named)


def examine_keys(store: Path, path: str, expected: KeysEntry | None) -> SalvagedKeys:
    """Read the file of keys at `path`. It is used only if it is undamaged."""
    name = expected.embedder if expected else ""
    try:
        data = _read(store, path, expected.bytes + 1 if expected else None)
    except (ReadError, Refusal) as error:
        return SalvagedKeys(path, None, name, problem(path, error))
    try:
        part = keys_format.decode(data)
        made = part.embedder
        entry = KeysEntry(hashlib.sha256(data).hexdigest(), len(data), len(part), made.name, made.id)
        if entry.path != path or expected not in (None, entry):
            raise ValueError("it is not what its name or the manifest says")
    except PARSE_ERRORS as error:
        return SalvagedKeys(path, None, name, Problem(path, "digest_mismatch", str(error)))
    return SalvagedKeys(path, entry, made.name, None)


def header(store: Path, path: str) -> dict[str, Any] | None:
    """Return the metadata of a shard, or None if it cannot be read."""
    try:
        return shard.read_metadata(files.read(store, path, limits.HEADER_BYTES + 8))
    except ReadError as error:
        problem(path, error)  # raises the error if it is not about the file
        return None
    except PARSE_ERRORS:
        return None


@dataclass(frozen=True, slots=True)
class Broken:
    """A document that lost records to damage, and the rest of it."""

    document: Document
    problem: Problem
    rest: StoredDocument | None  # None if no record is left


@dataclass(frozen=True, slots=True)
class _Damage:
    problem: Problem
    documents: tuple[Document, ...] = ()  # listed by the shard, unless all its records are sound
    lost: bool = False  # neither a record nor the list of documents can be read


class SalvagedStore(Store):
    """A store without its damaged records. Sound records are read even if the file around them is damaged."""

    def __init__(self, path: Path, state: Manifest) -> None:
        super().__init__(path, state)
        self._sound: set[str] = set()  # digests of shards whose records are all sound
        self._damaged: dict[str, _Damage] = {}  # by the shard's digest
        self._left: dict[str, Shard] = {}

    @property
    def lost(self) -> list[Problem]:
        """The problems of shards that cannot be read at all."""
        self.versions()
        return [damage.problem for damage in self._damaged.values() if damage.lost]

    def broken(self) -> dict[str, Broken]:
        """Return documents by name whose newest version lost records to damage, or may have."""
        versions = {v.version: v for v in self.versions()}
        live, removed = self.documents(), set(self.manifest.removed)
        found: dict[str, Broken] = {}
        for number, entry in enumerate(self.manifest.shards):
            damage = self._damaged.get(entry.sha256)
            for document in damage.documents if damage else ():
                key = document.name, document.sha256
                rest, holder = versions.get(key), live.get(document.name)
                newer = holder is not None and _last_shard(holder) > number
                if damage and key not in removed and not newer and not (rest and rest.complete):
                    found[document.name] = Broken(document, damage.problem, rest)
        if self.lost:
            # An unfinished version may be missing the records of the lost shard.
            newest = {v.document.name: v for v in self.versions()}
            for name, version in newest.items():
                if version.unfinished:
                    found.setdefault(name, Broken(version.document, self.lost[0], version))
        return dict(sorted(found.items()))

    @contextmanager
    def explaining(self, entry: ShardEntry, place: str = "") -> Iterator[None]:
        """As in `Store`. A shard that was damaged after it was opened may lack the row now."""
        with super().explaining(entry, place):
            try:
                yield
            except IndexError as error:
                raise damaged(
                    f"{entry.path}{place}", "missing_file", "it was damaged or deleted after it was opened"
                ) from error

    def _read_shard(self, entry: ShardEntry) -> Shard:
        return self._load_shard(entry)  # all of it, since it may be damaged

    def _load_shard(self, entry: ShardEntry) -> Shard:
        if entry.sha256 in self._left:
            return self._left[entry.sha256]
        wrong = None
        try:
            part: Shard | None = super()._load_shard(entry)
        except StoreDamagedError as error:
            part, wrong = self._read_anyway(entry), error.problems[0]
        except ReadError as error:
            part, wrong = None, problem(entry.path, error)
        if part is not None and wrong is None and entry.sha256 in self._sound:
            return part
        records = [found for row in range(len(part or ())) if part and (found := _readable_record(part, row))]
        sound = part is not None and len(records) == len(part)
        if part is not None and sound and wrong is None:
            self._sound.add(entry.sha256)
            return part
        wrong = wrong or Problem(
            entry.path, "invalid_value", f"damage in {counted(len(part or ()) - len(records), 'record')}"
        )
        listed = tuple(part.documents) if part is not None and not sound else ()
        self._damaged[entry.sha256] = _Damage(wrong, listed, lost=part is None)
        # The sound records as a shard of their own: code that reads shards needs no other case.
        origin = self.manifest.fingerprint
        left = Shard(shard.encode(records, origin.id, origin.width, self.manifest.vocabulary))
        self._left[entry.sha256] = left
        return left

    def _read_anyway(self, entry: ShardEntry) -> Shard | None:
        """Parse a damaged shard as far as possible. Records have their own digests, the table of documents a checksum."""
        try:
            part = Shard(files.read(self.path, entry.path, entry.bytes), strict=False)
            self._check_belongs(part, entry)
        except (ReadError, *PARSE_ERRORS):
            return None
        return part


def open_salvaged(path: str | Path) -> SalvagedStore:
    """Open the store at `path` without its damaged records. NotFoundError, FormatTooNewError, StoreDamagedError."""
    opened = SalvagedStore.open(path)
    assert isinstance(opened, SalvagedStore)
    return opened


def _read(store: Path, path: str, limit: int | None) -> bytes:
    """Read the first `limit` bytes of a file, or all of it within the size limit of the format. Refusal, ReadError."""
    if limit is None and (size := files.size_of(store, path)) > limits.FILE_BYTES:
        raise Refusal("file-too-large", f"it is {size} bytes, at most {limits.FILE_BYTES} are read")
    return files.read(store, path, limit)


def _read_shard(store: Path, path: str) -> bytes:
    """Read a shard whose length no manifest states. Its header is checked before the rest is read."""
    shard.read_metadata(files.read(store, path, limits.HEADER_BYTES + 8))
    return _read(store, path, None)


def _sound_records(part: Shard) -> tuple[tuple[Record, ...], tuple[str, ...]]:
    """(records that match their digests, names of the documents of the others)."""
    every = [(row, _sound_record(part, row)) for row in range(len(part))]
    hurt = {part.documents[int(part.tensors["document"][row])].name for row, record in every if record is None}
    column = part.tensors["seconds"]
    # No digest of a record covers `seconds`.
    trusted = hashlib.sha256(column.tobytes()).hexdigest() == part.metadata["digests"].get("seconds")
    records = [record for _, record in every if record is not None]
    if not trusted:
        records = [dataclasses.replace(r, report=dataclasses.replace(r.report, seconds=0.0)) for r in records]
    return tuple(records), tuple(sorted(hurt))


def _sound_record(part: Shard, row: int) -> Record | None:
    """The record in a row, or None when it does not match its digest."""
    try:
        return part.record(row)
    except PARSE_ERRORS:
        return None


def _readable_record(part: Shard, row: int) -> Record | None:
    """The record in a row, or None when it does not match its digest or its raw bytes cannot be decompressed."""
    record = _sound_record(part, row)
    try:
        if record is not None and record.kind == Kind.RAW:
            raw_bytes(record)
    except PARSE_ERRORS:
        return None
    return record


def _last_shard(stored: StoredDocument) -> int:
    return max(ref.shard for ref in (*stored.records, *stored.memory, *stored.kv))
