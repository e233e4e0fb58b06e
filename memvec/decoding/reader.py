"""Records of a store back to bytes, many at once.

A record that decodes to other bytes than were packed is tried again, alone and then in the numerics stores are certified
in. What comes out may still be wrong: whoever gives bytes out asks `Piece.mismatch` first.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from memvec.causes import enough_memory
from memvec.decoding.escalation import (
    ALLOWED,
    ALONE,
    CANONICAL,
    Attempt,
    Failure,
    attempt,
    examine,
    is_canonical,
    text_bytes,
)
from memvec.errors import ReconstructionError, UsageError
from memvec.formats.raw import raw_bytes
from memvec.guard import loading_alone
from memvec.identity.match import load_lm
from memvec.identity.verdict import Verdict, stored_identity
from memvec.progress import Progress, Watch, enter
from memvec.store.store import RecordRef, Store, StoredDocument, refused
from memvec.types import Kind, Record

if TYPE_CHECKING:
    from memvec.lm.frozen import FrozenLM

RECORDS_AT_ONCE, RECORDS_AT_ONCE_GPU = 128, 4096  # read ahead, so that rows of one shape find each other


@dataclass(frozen=True, slots=True)
class Piece:
    """A record and the bytes it gave."""

    id: str
    ref: RecordRef
    record: Record
    data: bytes
    failure: Failure | None = None  # when no attempt gave the packed bytes

    def mismatch(self) -> ReconstructionError | None:
        """What is wrong when the bytes are not those that were packed."""
        found = hashlib.sha256(self.data).digest()
        if found == self.record.text_sha256:
            return None
        expected = self.record.text_sha256.hex()
        name, failure = self.record.document.name, self.failure
        if failure is None:
            return ReconstructionError(name, self.id[:12], expected, found.hex())
        return ReconstructionError(
            name, self.id[:12], expected, found.hex(),
            tried=failure.tried, position=failure.position, evidence=failure.evidence, verdict=failure.verdict,
        )  # fmt: skip


class Decoder:
    """Decodes records of one store; the model is loaded when the first record needs it."""

    def __init__(
        self,
        store: Store,
        model: str | None,
        batch: int | None,
        device: str | None,
        watch: Watch,
        allow: Verdict = Verdict.IDENTICAL,
    ) -> None:
        """`model` None: the one named in the store; it is taken up to the verdict `allow`. `batch` None: by the device.

        UsageError for a batch under 1.
        """
        self.allow = allow
        if batch is not None and batch < 1:
            raise UsageError(f"batch is {batch}, expected 1 or more.")
        self.store, self.model, self.batch, self.device, self.watch = store, model, batch, device, watch
        self.progress = Progress(stage="reading records")
        self.helped: Counter[str] = Counter()  # records by what gave their bytes when the first attempt did not
        self._lm: FrozenLM | None = None
        self._canonical: FrozenLM | None = None
        self._begun = 0.0

    def documents(
        self, documents: Sequence[StoredDocument], at_once: int | None = None
    ) -> Iterator[tuple[StoredDocument, list[Piece]]]:
        """Each document with the pieces of its content in order, some `at_once` records decoded between two of them."""
        p = self.progress
        p.documents = len(documents)
        refs = [ref for document in documents for ref in document.records]
        p.tokens = sum(self._tokens(ref) for ref in refs)
        for group in _groups(documents, at_once or (self.at_once if p.tokens else RECORDS_AT_ONCE)):
            pieces = iter(self._pieces([ref for document in group for ref in document.records]))
            for document in group:
                p.documents_done += 1
                yield document, [next(pieces) for _ in document.records]
            self.watch(p)

    @property
    def at_once(self) -> int:
        """Records to read ahead: as many as the device likes."""
        with loading_alone():  # the first import of torch
            from memvec.lm.frozen import pick_device

        return RECORDS_AT_ONCE_GPU if pick_device(self.device).startswith("cuda") else RECORDS_AT_ONCE

    def _tokens(self, ref: RecordRef) -> int:
        return 0 if self.store.value(ref, "kind") == Kind.RAW else int(self.store.value(ref, "tokens"))

    @property
    def escalated(self) -> int:
        """Records that came out right only when they were tried again."""
        return self.helped.total()

    def _pieces(self, refs: Sequence[RecordRef]) -> list[Piece]:
        records = [self.store.record(ref) for ref in refs]
        texts = iter(self._texts([record for record in records if record.kind != Kind.RAW]))
        return [
            Piece(
                self.store.record_id(ref),
                ref,
                record,
                *((self._raw(ref, record), None) if record.kind == Kind.RAW else next(texts)),
            )
            for ref, record in zip(refs, records, strict=True)
        ]

    def _texts(self, records: Sequence[Record]) -> list[tuple[bytes, Failure | None]]:
        if not records:
            return []
        lm = self.load()
        from memvec.decoding.greedy import decode, rows_at_once

        enter("decoding", self.progress, self.watch)
        vectors, counts = [r.vectors for r in records], [r.tokens for r in records]
        batch = self.batch or rows_at_once(lm)
        with enough_memory(f"decode {min(batch, len(records))} records at once"):
            rows = decode(lm, vectors, counts, [r.corrections for r in records], self.batch, self._tick)
        how = f"in a batch of {batch}" if batch > 1 else ALONE
        return [
            self._settle(lm, record, Attempt(how, tuple(ids), text_bytes(lm, ids)))
            for record, ids in zip(records, rows, strict=True)
        ]

    def _settle(self, lm: FrozenLM, record: Record, first: Attempt) -> tuple[bytes, Failure | None]:
        """The bytes of the first attempt that is right, or of the first of all and why none is."""
        if first.gives(record):
            return first.data, None
        attempts = [first]
        for how, other in self._rungs(lm):
            attempts.append(attempt(other, record, how))
            if attempts[-1].gives(record):
                self.helped[how] += 1
                return attempts[-1].data, None
        failure = examine(lm, record, attempts)
        return first.data, failure if self.allow == Verdict.IDENTICAL else replace(failure, verdict=ALLOWED)

    def _rungs(self, lm: FrozenLM) -> Iterator[tuple[str, FrozenLM]]:
        """What is left to try, the dearest last."""
        if self.batch != 1:
            yield ALONE, lm
        if not is_canonical(lm):
            self._canonical = self._canonical or self._load("cpu")
            yield CANONICAL, self._canonical

    def _tick(self, tokens: int) -> None:
        self.progress.tokens_done += tokens
        self.progress.seconds = time.perf_counter() - self._begun
        self.watch(self.progress)

    def _raw(self, ref: RecordRef, record: Record) -> bytes:
        try:
            return raw_bytes(record)
        except ValueError as error:
            path = self.store.manifest.shards[ref.shard].path
            raise refused(f"{path} record {ref.row}", error) from error

    def load(self) -> FrozenLM:
        """The model in float32, the numerics every store of this version was certified in."""
        if self._lm is None:
            self._lm = self._load(self.device)
            self._begun = time.perf_counter()
        return self._lm

    def _load(self, device: str | None) -> FrozenLM:
        def notify(message: str) -> None:
            enter(message, self.progress, self.watch)

        return load_lm(stored_identity(self.store.manifest), self.model, device, notify, self.allow)


def _groups(documents: Iterable[StoredDocument], at_once: int) -> Iterator[list[StoredDocument]]:
    group: list[StoredDocument] = []
    for document in documents:
        group.append(document)
        if sum(len(d.records) for d in group) >= at_once:
            yield group
            group = []
    if group:
        yield group
