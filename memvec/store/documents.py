"""Document versions: the records that form each, and many of them as columns. Knows no file. SPEC §5.2.

A store may have millions of versions, and an object for each would not fit in memory. Letters: V document versions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np

from memvec.errors import NotFoundError
from memvec.filesystem.names import NameSet, no_document
from memvec.formats.container import Array
from memvec.types import Document, Kind

Version = tuple[str, str]  # a document's name and the sha256 of its bytes
KEY_BYTES = 16  # so many that two versions never share a key
SIZES = ("bytes", "tokens", "zstd_bytes")
INCOMPLETE = "incomplete: its pack was interrupted. Run the same pack again to finish it"


@dataclass(frozen=True, slots=True)
class RecordRef:
    """Where a record is: shard number and row, and its byte range in the document."""

    shard: int
    row: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document version, the records of its content and those of its memories, each in order of bytes.

    It may have content, a context memory and a kv memory, each independently of the others.
    """

    document: Document
    records: tuple[RecordRef, ...]  # exact and raw records; with a gap, all of them
    complete: bool  # `records` cover the document without a gap
    memory: tuple[RecordRef, ...] = ()  # context records that cover the document without a gap, else none
    unjoined: tuple[RecordRef, ...] = ()  # context records that leave a gap, then kv records that leave one
    kv: tuple[RecordRef, ...] = ()  # kv records that cover the document without a gap, else none
    unjoined_kv: int = 0  # how many of `unjoined`, the last ones, are kv records

    @property
    def version(self) -> Version:
        """The name and the sha256 of the document."""
        return self.document.name, self.document.sha256

    @property
    def usable(self) -> bool:
        """Is its content or a memory complete?"""
        return self.complete or bool(self.memory) or bool(self.kv)

    @property
    def unfinished(self) -> bool:
        """Was content or a memory begun and not finished?"""
        return bool(self.unjoined) or (bool(self.records) and not self.complete)

    def memory_of(self, kind: Kind) -> tuple[RecordRef, ...]:
        """Its records of the kind `Kind.CONTEXT` or `Kind.KV`, also those that leave a gap."""
        cut = len(self.unjoined) - self.unjoined_kv
        if kind == Kind.CONTEXT:
            return self.memory or self.unjoined[:cut]
        return self.kv or self.unjoined[cut:]


def joined(size: int, starts: Sequence[int], lengths: Sequence[int]) -> tuple[list[int], bool]:
    """Choose from records, given in the order of their commits, those that cover bytes 0 to `size` without a gap.

    Of several records with one start only the newest is used. The walk begins at byte 0. It takes the record that starts
    where the last one ended: records of an interrupted pack with other settings may overlap.

    Returns:
        (places of the chosen records in order of bytes, True). When there is a gap, (places of the newest record of each
        start, False).
    """
    newest = {start: place for place, start in enumerate(starts)}
    chosen: list[int] = []
    reached = 0
    while (place := newest.get(reached)) is not None and place not in chosen[
        -1:
    ]:  # a record without bytes ends the walk
        chosen.append(place)
        reached += lengths[place]
    return (chosen, True) if chosen and reached == size else (list(newest.values()), False)


def missing(name: str, unfinished: Collection[str], live: Iterable[str] = (), store: object = "") -> NotFoundError:
    """Return the error for a document that is unfinished, or unknown in the store at the path `store`."""
    if name in unfinished:
        return NotFoundError(f"{name!r} is {INCOMPLETE}.")
    return no_document(name, live, store)


def key_of(version: Version) -> bytes:
    """The key of a version: a digest of its name and sha256."""
    name, digest = version
    return hashlib.blake2b(f"{name}\0{digest}".encode(), digest_size=KEY_BYTES).digest()


class VersionSet(Collection[Version]):
    """A set of document versions that takes little memory. Versions are added and looked up, but cannot be listed."""

    def __init__(self, versions: Iterable[Version] = ()) -> None:
        self._keys = {key_of(version) for version in versions}

    def add(self, version: Version) -> None:
        """Add a version."""
        self._keys.add(key_of(version))

    def __contains__(self, version: object) -> bool:
        return isinstance(version, tuple) and key_of(version) in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Version]:
        raise TypeError("a VersionSet keeps digests of versions, so it cannot list them")

    def __and__(self, other: VersionSet) -> VersionSet:
        both = VersionSet()
        both._keys = self._keys & other._keys
        return both


@dataclass(frozen=True, slots=True)
class VersionTable(Sequence[Document]):
    """Documents, one for each version, as columns."""

    names: Array = field(default_factory=lambda: np.zeros(0, np.uint8))  # UTF-8, laid end to end
    ends: Array = field(default_factory=lambda: np.zeros(0, np.int64))  # of each name (V,)
    sha256: Array = field(default_factory=lambda: np.zeros((0, 32), np.uint8))  # (V, 32)
    sizes: Array = field(default_factory=lambda: np.zeros((0, len(SIZES)), np.uint64))  # (V, 3), in order of SIZES

    @classmethod
    def of(cls, documents: Sequence[Document]) -> VersionTable:
        """The table of documents."""
        names = [document.name.encode() for document in documents]
        return cls(
            np.frombuffer(b"".join(names), np.uint8),
            np.cumsum([len(name) for name in names], dtype=np.int64),
            np.frombuffer(b"".join(bytes.fromhex(d.sha256) for d in documents), np.uint8).reshape(-1, 32),
            np.array([[getattr(d, size) for size in SIZES] for d in documents], np.uint64).reshape(-1, len(SIZES)),
        )

    @classmethod
    def joined(cls, tables: Sequence[VersionTable]) -> VersionTable:
        """One table of several."""
        if not tables:
            return cls()
        lengths = np.concatenate([table.lengths for table in tables])
        return cls(
            np.concatenate([table.names for table in tables]),
            np.cumsum(lengths),
            np.concatenate([table.sha256 for table in tables]),
            np.concatenate([table.sizes for table in tables]),
        )

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, place: int) -> Document: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Document]: ...
    def __getitem__(self, place: int | slice) -> Document | Sequence[Document]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        size, tokens, share = self.sizes[place].tolist()
        return Document(self.name(place), size, self.sha256[place].tobytes().hex(), zstd_bytes=share, tokens=tokens)

    @property
    def lengths(self) -> Array:
        """The bytes of each name (V,)."""
        return np.diff(self.ends, prepend=0)

    def size(self, name: str) -> Array:
        """A column of SIZES (V,) uint64."""
        return self.sizes[:, SIZES.index(name)]

    def name(self, place: int) -> str:
        """The name of a version."""
        return self.encoded_name(place).decode()

    def encoded_name(self, place: int) -> bytes:
        """The name of a version as UTF-8. Names sort alike as text and as UTF-8."""
        return self.names[self.ends[place - 1] if place else 0 : self.ends[place]].tobytes()

    def version(self, place: int) -> Version:
        """Name and sha256 of a version."""
        return self.name(place), self.sha256[place].tobytes().hex()

    def where(self, chosen: Array) -> VersionTable:
        """The rows `chosen` of it (k,), in their order."""
        lengths = self.lengths[chosen]
        ends = np.cumsum(lengths)
        # Each byte of the result, as a place in `names`.
        shift = np.repeat((self.ends - self.lengths)[chosen] - (ends - lengths), lengths)
        return VersionTable(self.names[np.arange(len(shift)) + shift], ends, self.sha256[chosen], self.sizes[chosen])

    def among(self, chosen: Collection[Version]) -> Array:
        """Is each version among the `chosen` ones (V,)?"""
        return np.fromiter((self.version(place) in chosen for place in range(len(self))), bool, len(self))


@dataclass(frozen=True, slots=True)
class Known:
    """What a pack asks of the live documents of a store: their names, and which versions have content or a memory."""

    names: NameSet = field(default_factory=NameSet)
    content: VersionSet = field(default_factory=VersionSet)
    memory: VersionSet = field(default_factory=VersionSet)
    kv: VersionSet = field(default_factory=VersionSet)
