"""Document versions as columns. A store may have millions of them, and an object for each would not fit in memory.

Letters: V document versions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np

from memvec.filesystem.names import NameSet
from memvec.formats.container import Array
from memvec.store.documents import Version
from memvec.types import Document

KEY_BYTES = 16  # so many that two versions never share a key
SIZES = ("bytes", "tokens", "zstd_bytes")


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
