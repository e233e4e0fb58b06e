"""Find the documents of a pack that the store lacks, and their size under zstd. Reads one document at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Literal, NamedTuple

from memvec.corpora.documents import Documents
from memvec.filesystem.names import NameSet
from memvec.filesystem.sources import CHANGED, Entry, LargeBinary, Source, UnfitError
from memvec.formats import raw
from memvec.store.documents import Known, Version, VersionSet
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

    `seen` has the version of every document that was read. `baseline` is known after `measure`.
    """

    def __init__(self, documents: Documents, known: Known, kind: PackKind) -> None:
        """`known` is what the store holds."""
        self.documents = documents
        self.seen = VersionSet()
        self.unchanged = 0  # read documents that the store holds already, with the wanted content and memory
        self.meta: dict[str, Mapping[str, str]] = {}  # of read documents that bring their own, by name
        self.content, self.memory, self.kv, self.names = known.content, known.memory, known.kv, known.names
        both = self.content & self.memory if kind == "both" else VersionSet()
        self.held = {"exact": self.content, "context": self.memory, "kv": self.kv, "both": both}[kind]
        self.baseline = Baseline(0, 0, False)
        self._read = NameSet()  # names of the documents that were read
        self._idle = NameSet()  # of those that the store holds as wanted

    def measure(self) -> None:
        """Measure the baseline. A pack of more than `SAMPLE_OVER` bytes is estimated from a sample."""
        if self.documents.bytes > SAMPLE_OVER:
            size = round(sum(self._estimated()))
            self.baseline = Baseline(self.documents.bytes, size, sampled=True)
            return
        total = 0

        def pieces_of() -> Iterator[bytes]:
            nonlocal total
            for source in self.documents:
                # Only a document whose name the store knows has to be hashed here.
                if source.name in self.names and (source.name, source.sha256) in self.held:
                    self._see(source)
                    self._idle.add(source.name)
                else:
                    total += source.size
                    with contextlib.suppress(UnfitError, OSError):  # `lacking` reads it again and reports the error
                        yield from source.frames(raw.MAX_RAW_BYTES)

        size = raw.stream_size(pieces_of())
        self.baseline = Baseline(total, size, sampled=False)

    def _estimated(self) -> Iterator[float]:
        """The size of the files, and of what the corpora hold, as zstd streams [bytes]."""
        documents = self.documents
        files = documents.bytes - documents.corpus_bytes
        for size, pieces in (
            (files, list(sample(documents.entries))),
            (documents.corpus_bytes, documents.sample.parts),
        ):
            yield size * raw.stream_size(pieces) / max(1, sum(map(len, pieces))) if pieces else size

    def lacking(self, held: Container[Version]) -> Iterator[Unpacked]:
        """Read the documents that are not among the versions in `held`.

        A document that changes between two passes is skipped: its content and its memory would not belong together.
        """
        end = 0
        for source in self.documents.read(without=self._idle):
            version = source.name, source.sha256
            if source.name in self._read and version not in self.seen:
                self.documents.skip(source.name, CHANGED)
                continue
            self._see(source)
            if version not in held:
                begin, end = end, end + source.size
                share = self.baseline.until(end) - self.baseline.until(begin)
                yield Unpacked(source, Document(source.name, source.size, source.sha256, share, tokens=0))

    def _see(self, source: Source | LargeBinary) -> None:
        version = source.name, source.sha256
        if version in self.seen:
            return
        self.seen.add(version)
        self._read.add(source.name)
        self.unchanged += version in self.held
        if isinstance(source, Source) and source.meta is not None:
            self.meta[source.name] = source.meta


def factor_to_all(documents: Documents) -> float:
    """Return the bytes of all documents as a multiple of the bytes that were reached. Progress is extrapolated by it."""
    every = documents.reached == documents.count
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
    documents = Documents(Entry(source.name, source.size, source) for source in sources)
    pack = Outstanding(documents, Known(), "exact")
    pack.measure()
    return [document for _, document in pack.lacking(())]
