"""Read documents of a store: records become pieces of bytes, decoded many at once and compared with their digests.

A record that decodes to other bytes than were packed is tried again, see `escalation`. Bytes that are still wrong come
with an error, so a caller checks `Piece.error` before it gives bytes out.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from memvec.causes import enough_memory
from memvec.decoding.escalation import ALONE, Attempt, Failure, Retries, text_bytes
from memvec.errors import ReconstructionError
from memvec.formats.raw import raw_bytes
from memvec.guard import loading_alone
from memvec.identity.runtime import Runtime
from memvec.progress import Progress, enter
from memvec.store.problems import refused
from memvec.store.store import RecordRef, StoredDocument
from memvec.types import Kind, Record

RECORDS_AT_ONCE, RECORDS_AT_ONCE_GPU = 128, 4096  # records read ahead, so that many rows have the same shape


@dataclass(frozen=True, slots=True)
class Piece:
    """A record and the bytes it gave."""

    id: str
    ref: RecordRef
    record: Record
    data: bytes
    error: ReconstructionError | None  # None: these are the bytes that were packed


class Reader:
    """Reads documents of a store. The model is loaded when the first record needs it."""

    def __init__(self, runtime: Runtime) -> None:
        """Read from the store of `runtime`."""
        self.runtime, self.store = runtime, runtime.store
        self.progress = Progress(stage="reading records")
        self.retries = Retries(runtime)
        self._begun = 0.0

    def documents(
        self, documents: Sequence[StoredDocument], at_once: int | None = None
    ) -> Iterator[tuple[StoredDocument, list[Piece]]]:
        """Yield each document with the pieces of its content in order. About `at_once` records are decoded together."""
        p = self.progress
        p.documents = len(documents)
        p.tokens = sum(self._tokens(ref) for document in documents for ref in document.records)
        for group in _groups(documents, at_once or (self.at_once if p.tokens else RECORDS_AT_ONCE)):
            pieces = iter(self._pieces([ref for document in group for ref in document.records]))
            for document in group:
                p.documents_done += 1
                yield document, [next(pieces) for _ in document.records]
            self.runtime.watch(p)

    @property
    def at_once(self) -> int:
        """The number of records to read ahead. A GPU decodes more of them together."""
        with loading_alone():  # because this may import torch
            from memvec.lm.device import main_device, pick_device

        return (
            RECORDS_AT_ONCE_GPU if main_device(pick_device(self.runtime.device)).startswith("cuda") else RECORDS_AT_ONCE
        )

    def _tokens(self, ref: RecordRef) -> int:
        return 0 if self.store.value(ref, "kind") == Kind.RAW else int(self.store.value(ref, "tokens"))

    def _pieces(self, refs: Sequence[RecordRef]) -> list[Piece]:
        records = [self.store.record(ref) for ref in refs]
        decoded = iter(self._decode([record for record in records if record.kind != Kind.RAW]))
        return [
            self._piece(ref, record, *((self._raw(ref, record), None) if record.kind == Kind.RAW else next(decoded)))
            for ref, record in zip(refs, records, strict=True)
        ]

    def _piece(self, ref: RecordRef, record: Record, data: bytes, failure: Failure | None) -> Piece:
        identity, error = self.store.record_id(ref), None
        if failure is not None or record.kind == Kind.RAW:  # others were compared while they were decoded
            found, expected = hashlib.sha256(data).hexdigest(), record.text_sha256.hex()
            if found != expected:
                said = failure.values() if failure is not None else {}
                error = ReconstructionError(record.document.name, identity[:12], expected, found, **said)
        return Piece(identity, ref, record, data, error)

    def _decode(self, records: Sequence[Record]) -> list[tuple[bytes, Failure | None]]:
        """The bytes of records that are not raw. If no attempt gave the packed bytes, also the reason."""
        if not records:
            return []
        lm = self.runtime.lm
        from memvec.decoding.greedy import decode, rows_at_once

        enter("decoding", self.progress, self.runtime.watch)
        self._begun = self._begun or time.perf_counter()
        vectors, counts = [r.vectors for r in records], [r.tokens for r in records]
        batch = self.runtime.batch or rows_at_once(lm)
        with enough_memory(f"decode {min(batch, len(records))} records at once"):
            rows = decode(lm, vectors, counts, [r.corrections for r in records], self.runtime.batch, self._tick)
        how = f"in a batch of {batch}" if batch > 1 else ALONE
        return [
            self.retries.settle(record, Attempt(how, tuple(ids), text_bytes(lm, ids)))
            for record, ids in zip(records, rows, strict=True)
        ]

    def _tick(self, tokens: int) -> None:
        self.progress.tokens_done += tokens
        self.progress.seconds = time.perf_counter() - self._begun
        self.runtime.watch(self.progress)

    def _raw(self, ref: RecordRef, record: Record) -> bytes:
        try:
            return raw_bytes(record)
        except ValueError as error:
            path = self.store.manifest.shards[ref.shard].path
            raise refused(f"{path} record {ref.row}", error) from error


def _groups(documents: Iterable[StoredDocument], at_once: int) -> Iterator[list[StoredDocument]]:
    group: list[StoredDocument] = []
    for document in documents:
        group.append(document)
        if sum(len(d.records) for d in group) >= at_once:
            yield group
            group = []
    if group:
        yield group
