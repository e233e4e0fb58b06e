"""Records of a store back to bytes, many at once. What comes out is not yet compared with anything."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memvec.errors import ReconstructionError, UsageError
from memvec.loading import load_lm
from memvec.progress import Progress, Watch, enter
from memvec.records import raw_bytes
from memvec.store import RecordRef, Store, StoredDocument, refused
from memvec.types import Kind, Record

if TYPE_CHECKING:
    from memvec.lm import FrozenLM

RECORDS_AT_ONCE = 128  # read ahead, so that rows of one shape find each other


@dataclass(frozen=True, slots=True)
class Piece:
    """A record and the bytes it gave."""

    id: str
    ref: RecordRef
    record: Record
    data: bytes

    def mismatch(self) -> ReconstructionError | None:
        """What is wrong when the bytes are not those that were packed."""
        found = hashlib.sha256(self.data).digest()
        if found == self.record.text_sha256:
            return None
        expected = self.record.text_sha256.hex()
        return ReconstructionError(self.record.document.name, self.id[:12], expected, found.hex())


class Decoder:
    """Decodes records of one store; the model is loaded when the first record needs it."""

    def __init__(self, store: Store, model: str | None, batch: int, device: str | None, watch: Watch) -> None:
        """`model` None: the one named in the store. UsageError for a batch under 1."""
        if batch < 1:
            raise UsageError(f"batch is {batch}, expected 1 or more.")
        self.store, self.model, self.batch, self.device, self.watch = store, model, batch, device, watch
        self.progress = Progress(stage="reading records")
        self._lm: FrozenLM | None = None
        self._begun = 0.0

    def documents(self, documents: Sequence[StoredDocument]) -> Iterator[tuple[StoredDocument, list[Piece]]]:
        """Each document with the pieces of its content in order."""
        p = self.progress
        p.documents = len(documents)
        refs = [ref for document in documents for ref in document.records]
        p.tokens = sum(self._tokens(ref) for ref in refs)
        for group in _groups(documents):
            pieces = iter(self._pieces([ref for document in group for ref in document.records]))
            for document in group:
                p.documents_done += 1
                yield document, [next(pieces) for _ in document.records]
            self.watch(p)

    def _tokens(self, ref: RecordRef) -> int:
        tensors = self.store.shard(ref.shard).tensors
        return 0 if tensors["kind"][ref.row] == Kind.RAW else int(tensors["tokens"][ref.row])

    def _pieces(self, refs: Sequence[RecordRef]) -> list[Piece]:
        records = [self.store.record(ref) for ref in refs]
        texts = iter(self._texts([record for record in records if record.kind != Kind.RAW]))
        return [
            Piece(
                self.store.record_id(ref),
                ref,
                record,
                self._raw(ref, record) if record.kind == Kind.RAW else next(texts),
            )
            for ref, record in zip(refs, records, strict=True)
        ]

    def _texts(self, records: Sequence[Record]) -> list[bytes]:
        if not records:
            return []
        from memvec.decode import decode

        lm = self.load()
        enter("decoding", self.progress, self.watch)
        vectors, counts = [r.vectors for r in records], [r.tokens for r in records]
        rows = decode(lm, vectors, counts, [r.corrections for r in records], self.batch, self._tick)
        return [lm.decode(ids).encode("utf-8", "surrogatepass") for ids in rows]

    def _tick(self, tokens: int) -> None:
        self.progress.tokens_done += tokens
        self.progress.seconds = time.perf_counter() - self._begun
        self.watch(self.progress)

    def _raw(self, ref: RecordRef, record: Record) -> bytes:
        try:
            return raw_bytes(record)
        except ValueError as error:
            path = self.store.manifest.shards[ref.shard].path
            raise refused(f"{path} record {ref.row}", error) from None

    def load(self) -> FrozenLM:
        """The model in float32, the numerics every store of this version was certified in."""
        if self._lm is not None:
            return self._lm
        self._lm = load_lm(
            self.store.manifest.fingerprint,
            self.model,
            self.device,
            lambda message: enter(message, self.progress, self.watch),
        )
        self._begun = time.perf_counter()
        return self._lm


def _groups(documents: Iterable[StoredDocument]) -> Iterator[list[StoredDocument]]:
    group: list[StoredDocument] = []
    for document in documents:
        group.append(document)
        if sum(len(d.records) for d in group) >= RECORDS_AT_ONCE:
            yield group
            group = []
    if group:
        yield group
