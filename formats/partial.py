"""Read parts of a file: single tensors, rows of tensors, single records. SPEC §8.

A complete tensor is compared with its digest in the header, a record with its own. The file's sha256 is not checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from memvec.formats import container, files, limits, raw, shard
from memvec.formats.container import Array
from memvec.formats.documents import decode_documents
from memvec.formats.refusal import Refusal
from memvec.types import Document

Expected = Mapping[str, str]  # {tensor: numpy code}


class TensorFile:
    """A safetensors file of memvec. The header is read and checked at once, tensors when they are needed."""

    def __init__(self, path: Path, format_name: str, expected: Expected | Callable[[dict[str, Any]], Expected]) -> None:
        """Tensors that are not `expected`, which may follow from the metadata, are ignored.

        Refusal if the header is bad; ReadError.
        """
        self.path = path
        with files.open_regular(path) as file:
            head = file.read(8)
            size = int.from_bytes(head, "little")
            head += file.read(min(size, limits.HEADER_BYTES))
            self._begin = len(head)
            entries, self.metadata = container.read_header(head, format_name)
            length = file.seek(0, 2) - self._begin
        self.codes = expected(self.metadata) if callable(expected) else expected
        container.check_entries(entries, length, self.codes)
        self._entries = entries

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, as the header says."""
        return tuple(self._entries[name]["shape"])

    def tensor(self, name: str) -> Array:
        """Read a complete tensor and compare it with its digest in the header, if there is one. Refusal if it differs."""
        shape = self.shape(name)
        data = self.bytes(name, 0, self.size(name))
        tensor = np.frombuffer(data, f"<{self.codes[name]}").reshape(shape)
        container.check_digests({name: tensor}, self.metadata["digests"])
        return tensor

    def rows(self, name: str, begin: int, end: int) -> Array:
        """Read rows of a tensor. The caller checks them."""
        shape = self.shape(name)
        if not 0 <= begin <= end <= shape[0]:
            raise Refusal("bad-offsets", f"tensor {name!r}: there are no rows {begin} to {end} of {shape[0]}")
        each = self.size(name) // shape[0] if shape[0] else 0
        data = self.bytes(name, begin * each, end * each)
        return np.frombuffer(data, f"<{self.codes[name]}").reshape(end - begin, *shape[1:])

    def size(self, name: str) -> int:
        """Bytes of a tensor."""
        begin, end = self._entries[name]["data_offsets"]
        return int(end - begin)

    def bytes(self, name: str, begin: int, end: int) -> bytes:
        """Read bytes of a tensor, unchecked. Refusal if the file is too short, ReadError."""
        # Opened each time: an open handle would have to be closed, and a store has no close.
        with files.open_regular(self.path) as file:
            file.seek(self._begin + self._entries[name]["data_offsets"][0] + begin)
            data = file.read(end - begin)
        if len(data) != end - begin:
            raise Refusal("cut-off", f"tensor {name!r}: the file ends inside it")
        return data


class ShardReader(shard.Shard):
    """A shard of which only the needed parts are read.

    Columns are read completely and compared with their digests; vectors and payloads by record, and compared with the
    record's digest.
    """

    documents: Sequence[Document]

    def __init__(self, path: Path) -> None:
        """Refusal names the tensor if a shape, an offset or a digest is wrong; ReadError."""
        self._file = TensorFile(path, shard.FORMAT_NAME, shard.expected_tensors)
        self.metadata = shard.checked_metadata(self._file.metadata)
        self.tensors = _Columns(self._file)
        shapes = {name: self._file.shape(name) for name in self._file.codes}
        container.compare_shapes(shapes, shard.expected_shapes(self.metadata, shapes))
        self.documents = _Lines(raw.decompress(self.tensors["documents"].tobytes()))
        self._check_documents()

    def _piece(self, name: str, row: int) -> Array:
        begin, end = self.tensors[f"{name}_offsets"][row : row + 2].tolist()
        return self._file.rows(name, begin, end)


class _Columns(dict[str, Array]):
    """Tensors by name, read at the first access."""

    def __init__(self, file: TensorFile) -> None:
        super().__init__()
        self._file = file

    def __missing__(self, name: str) -> Array:
        tensor = self._file.tensor(name)
        piece = name.removesuffix("_offsets")
        if piece != name:
            container.check_offsets(name, tensor, self._file.shape(piece)[0])
        self[name] = tensor
        return tensor


class _Lines(Sequence[Document]):
    """A documents table whose lines are parsed at access."""

    def __init__(self, table: bytes) -> None:
        self._lines = table.split(b"\n")[:-1]

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, place: int) -> Document: ...
    @overload
    def __getitem__(self, place: slice) -> list[Document]: ...
    def __getitem__(self, place: int | slice) -> Document | list[Document]:
        if isinstance(place, slice):
            return decode_documents(b"".join(line + b"\n" for line in self._lines[place]))
        return decode_documents(self._lines[place] + b"\n")[0]
