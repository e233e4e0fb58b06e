"""Find the documents of a pack that the store lacks, and their size under zstd. Reads one document at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate
from typing import Literal, NamedTuple

from memvec.filesystem.sources import CHANGED, Entry, Gathered, LargeBinary, Source, UnfitError
from memvec.formats import raw
from memvec.store.documents import Version
from memvec.store.store import Store
from memvec.types import Document

PackKind = Literal["exact", "context", "kv", "both"]  # "both": exact and context

SAMPLE_OVER = 64 * 1024**2  # bytes; of a larger pack only a sample is compressed
PIECES, PIECE_BYTES = 16, 1024**2  # of the sample


class Unpacked(NamedTuple):
    """A document that was read and that the store lacks, or holds without the wanted content or memory."""

    source: Source | LargeBinary
    document: Document


class Baseline(NamedTuple):
    """The size of the documents of a pack as one zstd -19 stream."""

    of_bytes: int
    zstd_bytes: int
    sampled: bool  # is it estimated from a sample?

    def until(self, end: int) -> int:
        """The share of the first `end` bytes."""
        return self.zstd_bytes * end // max(1, self.of_bytes)


class Outstanding:
    """The documents of a pack that a store lacks. Each pass over them reads them anew.

    `seen` has the sha256 of every document that was read, by name. `baseline` is known after `measure`.
    """

    def __init__(self, documents: Gathered, store: Store | None, kind: PackKind) -> None:
        self.documents = documents
        self.seen: dict[str, str] = {}
        live = store.documents() if store else {}
        content = {stored.version for stored in live.values() if stored.complete}
        memory = {stored.version for stored in live.values() if stored.memory}
        kv = {stored.version for stored in live.values() if stored.kv}
        # Versions whose content, context memory or kv memory the store holds.
        self.content, self.memory, self.kv = content, memory, kv
        self.held = {"exact": content, "context": memory, "kv": kv, "both": content & memory}[kind]
        self.baseline = Baseline(0, 0, False)

    @property
    def unchanged(self) -> int:
        """How many of the read documents the store holds already, with the wanted content and memory."""
        return len(self.seen.items() & self.held)

    def measure(self) -> None:
        """Measure the baseline. A pack of more than `SAMPLE_OVER` bytes is estimated from a sample."""
        if self.documents.bytes > SAMPLE_OVER:
            pieces = list(sample(self.documents.entries))
            ratio = raw.stream_size(pieces) / max(1, sum(map(len, pieces)))
            self.baseline = Baseline(self.documents.bytes, round(ratio * self.documents.bytes), sampled=True)
            return
        total = 0

        def pieces_of() -> Iterator[bytes]:
            nonlocal total
            named = {name for name, _ in self.held}
            for source in self.documents:
                # Only a document whose name the store knows has to be hashed here.
                if source.name in named and (source.name, source.sha256) in self.held:
                    self.seen[source.name] = source.sha256
                else:
                    total += source.size
                    with contextlib.suppress(UnfitError, OSError):  # `lacking` reads it again and reports the error
                        yield from source.frames(raw.MAX_RAW_BYTES)

        size = raw.stream_size(pieces_of())
        self.baseline = Baseline(total, size, sampled=False)

    def lacking(self, held: Collection[Version]) -> Iterator[Unpacked]:
        """Read the documents that are not among the versions in `held`.

        A document that changes between two passes is skipped: its content and its memory would not belong together.
        """
        end = 0
        for source in self.documents.read(
            without={name for name, digest in self.seen.items() if (name, digest) in held}
        ):
            if self.seen.setdefault(source.name, source.sha256) != source.sha256:
                self.documents.skip(source.name, CHANGED)
            elif (source.name, source.sha256) not in held:
                begin, end = end, end + source.size
                share = self.baseline.until(end) - self.baseline.until(begin)
                yield Unpacked(source, Document(source.name, source.size, source.sha256, share, tokens=0))


def factor_to_all(documents: Gathered) -> float:
    """Return the bytes of all documents as a multiple of the bytes that were reached. Progress is extrapolated by it."""
    every = documents.reached == len(documents.entries)
    return 1.0 if every else documents.bytes / max(1, documents.reached_bytes)


def sample(entries: Sequence[Entry]) -> Iterator[bytes]:
    """Yield pieces of the documents, evenly spaced over their bytes. Documents that cannot be read give none."""
    ends = list(accumulate(entry.size for entry in entries))
    total, number = ends[-1] if ends else 0, 0
    for piece in range(PIECES):
        begin, missing = total * piece // PIECES, PIECE_BYTES
        while number < len(entries) and ends[number] <= begin:
            number += 1
        at = number
        while at < len(entries) and missing > 0:
            offset = max(0, begin - (ends[at] - entries[at].size))
            try:
                data = entries[at].part(offset, missing)
            except (OSError, UnfitError):
                data = b""
            missing -= len(data)
            if data:
                yield data
            at += 1


def described(sources: Sequence[Source]) -> list[Document]:
    """A `Document` for each source. Its zstd bytes are its share, by length, of one stream over all sources."""
    pack = Outstanding(Gathered(Entry(source.name, source.size, source) for source in sources), None, "exact")
    pack.measure()
    return [document for _, document in pack.lacking(())]
