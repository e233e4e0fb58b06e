"""The file of a catalogue: its columns, read in blocks that are compared with their digests. Knows no store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from memvec.chunks import chunked
from memvec.formats import container, files
from memvec.formats.container import Array
from memvec.formats.partial import TensorFile
from memvec.store.catalogue_build import COLUMNS

FORMAT_NAME = "memvec-catalogue"
BLOCK = 1 << 16  # bytes under one digest
CACHED_BLOCKS = 256  # 16 MiB


class UnreliableError(ValueError):
    """A catalogue is damaged or does not belong to the state of its store."""


class Columns(Protocol):
    """The columns of a catalogue, in memory or in a file."""

    def length(self, name: str) -> int:
        """Rows of a column."""

    def read(self, name: str, begin: int, end: int) -> Array:
        """Rows `begin` to `end`. UnreliableError if they do not exist or are damaged."""


class InMemory:
    """Columns in memory."""

    def __init__(self, columns: Mapping[str, Array]) -> None:
        self._columns = columns

    def length(self, name: str) -> int:
        """Rows of a column."""
        return len(self._columns[name])

    def read(self, name: str, begin: int, end: int) -> Array:
        """Rows `begin` to `end`."""
        return self._columns[name][begin:end]


class InFile:
    """Columns in a file, read in blocks."""

    def __init__(self, path: Path, state: str | None) -> None:
        """UnreliableError unless the file is a catalogue of the store's `state`. None: of any state."""
        try:
            files.size_of(path.parents[1], f"{path.parent.name}/{path.name}")  # no link on the way
            self._file = TensorFile(path, FORMAT_NAME, {**COLUMNS, "blocks": "u1"})
            if state is not None and self._file.metadata.get("state") != state:
                raise ValueError("it is of another state of the store")
            digests = self._file.tensor("blocks")
            container.compare_shapes({"blocks": digests.shape}, {"blocks": (sum(map(self._blocks, COLUMNS)), 32)})
        except (ValueError, RecursionError, OverflowError, OSError) as error:
            raise UnreliableError(str(error)) from error
        self._digests = digests
        counts = [0, *(self._blocks(name) for name in COLUMNS)]
        self._first = dict(zip(COLUMNS, np.cumsum(counts).tolist(), strict=False))
        self._block = lru_cache(maxsize=CACHED_BLOCKS)(self._read_block)

    def length(self, name: str) -> int:
        """Rows of a column."""
        return int(self._file.shape(name)[0])

    def read(self, name: str, begin: int, end: int) -> Array:
        """Rows `begin` to `end`. Each of their blocks is compared with its digest."""
        shape = self._file.shape(name)
        if not 0 <= begin <= end <= shape[0]:
            raise UnreliableError(f"{name} has no rows {begin} to {end}")
        each = self._file.size(name) // max(1, shape[0])
        low, high = begin * each, end * each
        first = low // BLOCK
        data = b"".join(self._block(name, number) for number in range(first, -(-high // BLOCK)))
        data = data[low - first * BLOCK : high - first * BLOCK]
        return np.frombuffer(data, f"<{COLUMNS[name]}").reshape(end - begin, *shape[1:])

    def whole(self, name: str) -> Array:
        """A whole column. UnreliableError if it is damaged."""
        try:
            return self._file.tensor(name)
        except (ValueError, OSError) as error:
            raise UnreliableError(str(error)) from error

    def check(self) -> None:
        """Read the whole file. UnreliableError if it is damaged."""
        for name in COLUMNS:
            self.whole(name)

    def _blocks(self, name: str) -> int:
        return -(-self._file.size(name) // BLOCK)

    def _read_block(self, name: str, number: int) -> bytes:
        begin = number * BLOCK
        try:
            data = self._file.bytes(name, begin, min(begin + BLOCK, self._file.size(name)))
        except (ValueError, OSError) as error:
            raise UnreliableError(str(error)) from error
        if hashlib.sha256(data).digest() != self._digests[self._first[name] + number].tobytes():
            raise UnreliableError(f"block {number} of {name} does not match its digest")
        return data


def encode(columns: Mapping[str, Array], state: str) -> Iterator[bytes | memoryview]:
    """Encode a catalogue of the store's `state`, in pieces."""
    tensors = {name: np.ascontiguousarray(columns[name], f"<{code}") for name, code in COLUMNS.items()}
    digests = []
    for name in COLUMNS:
        data = tensors[name].reshape(-1).view(np.uint8)
        digests += [hashlib.sha256(block.tobytes()).digest() for block in chunked(data, BLOCK)]
    tensors["blocks"] = container.digest_rows(digests)
    return container.pieces(tensors, {"format": FORMAT_NAME, "state": state})
