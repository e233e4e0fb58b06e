"""What can be saved of a damaged store's files: which are whole, and which records of the others still pass their digest."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memvec.errors import ReadError
from memvec.formats import files, limits, shard
from memvec.formats import keys as keys_format
from memvec.formats.manifest import KeysEntry, Manifest, ShardEntry
from memvec.formats.refusal import Refusal
from memvec.formats.shard import Shard
from memvec.store.problems import PARSE_ERRORS, problem
from memvec.types import Kind, Problem, Record


@dataclass(frozen=True, slots=True)
class Salvaged:
    """A shard as it was found."""

    path: str
    entry: ShardEntry | None  # of a whole one
    records: tuple[Record, ...]  # those that pass their digest, where it is not whole
    lost: int | None  # records that do not; None: it cannot be known how many there were
    hurt: tuple[str, ...]  # names of documents that lost records, as far as they are known
    problem: Problem | None  # None: it is whole
    generation: int = 0  # that the shard says it is of
    context: bool = False  # does it hold context records?


@dataclass(frozen=True, slots=True)
class SalvagedKeys:
    """A file of keys as it was found."""

    path: str
    entry: KeysEntry | None  # of a whole one
    embedder: str  # "" where it cannot be known
    problem: Problem | None


def examine(store: Path, path: str, expected: ShardEntry | None, state: Manifest) -> Salvaged:
    """The shard at `path`, a record at a time; `expected` is what the manifest says of it, where there is one."""
    count = expected.records if expected else None
    try:
        size = files.size_of(store, path)
        # What was added to its end is no reason to lose it.
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
    records, hurt = _readable(part)
    lost = len(part) - len(records)
    generation = part.metadata.get("generation")
    generation = generation if type(generation) is int else 0
    context = any(record.kind == Kind.CONTEXT for record in records)
    if lost == 0 and digest == Path(path).stem and size == len(data):
        entry = ShardEntry(digest, size, len(part), len(part.documents))
        return Salvaged(path, entry, (), 0, (), None, generation, context)
    message = f"{lost} of {len(part)} records do not pass their digest" if lost else "damaged, but no record of it"
    wrong = Problem(path, "digest_mismatch", message)
    return Salvaged(path, None, records, lost, hurt, wrong, generation, context)


def examine_keys(store: Path, path: str, expected: KeysEntry | None) -> SalvagedKeys:
    """The file of keys at `path`: whole, or of no use."""
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
    """The metadata of a shard; None when it cannot be read."""
    try:
        return shard.read_metadata(files.read(store, path, limits.HEADER_BYTES + 8))
    except ReadError as error:
        problem(path, error)  # raises what is not about the file
        return None
    except PARSE_ERRORS:
        return None


def _read(store: Path, path: str, limit: int | None) -> bytes:
    """The first `limit` bytes of a file; without a limit all of it, if a reader would accept its size. Refusal, ReadError."""
    if limit is None and (size := files.size_of(store, path)) > limits.FILE_BYTES:
        raise Refusal("file-too-large", f"it is {size} bytes, at most {limits.FILE_BYTES} are read")
    return files.read(store, path, limit)


def _read_shard(store: Path, path: str) -> bytes:
    """Read a shard whose length no manifest states. Its header is checked before the rest is read."""
    shard.read_metadata(files.read(store, path, limits.HEADER_BYTES + 8))
    return _read(store, path, None)


def _readable(part: Shard) -> tuple[tuple[Record, ...], tuple[str, ...]]:
    """(records that pass their digest, names of documents of which some do not)."""
    records, hurt = [], set()
    column = part.tensors["seconds"]
    # The one value that no record's digest covers.
    trusted = hashlib.sha256(column.tobytes()).hexdigest() == part.metadata["digests"].get("seconds")
    for row in range(len(part)):
        try:
            record = part.record(row)
        except PARSE_ERRORS:
            hurt.add(part.documents[int(part.tensors["document"][row])].name)
            continue
        report = record.report if trusted else dataclasses.replace(record.report, seconds=0.0)
        records.append(dataclasses.replace(record, report=report))
    return tuple(records), tuple(sorted(hurt))
