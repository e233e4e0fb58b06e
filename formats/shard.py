"""Shards: many records in one immutable safetensors file, as a struct of arrays. SPEC §5."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

from memvec.formats import canonical, corrections, raw
from memvec.types import Document, FitReport, Kind, RawReason, Record

Array = npt.NDArray[Any]

METADATA_KEY = "memvec"
FORMAT_NAME = "memvec-shard"
MAX_HEADER_BYTES = 1 << 20

# Columns with one value per record; the order is that of the record digest (SPEC §5.3).
COLUMNS: dict[str, str] = {
    "kind": "u1",
    "reason": "u1",
    "start": "u8",
    "length": "u8",
    "tokens": "u4",
    "steps": "u4",
    "token_steps": "u8",
    "nats_before": "f4",
    "nats_after": "f4",
    "corrected_wrong": "u4",
    "corrected_margin": "u4",
    "least_margin": "f4",
    "seconds": "f4",
}
REPORT_FIELDS = tuple(COLUMNS)[5:]
# Pieces of varying length, laid end to end, each with an offsets column of n + 1 values [rows or bytes].
PIECES = ("vectors", "corrections", "payload")
DOCUMENT_FIELDS = {"bytes": int, "name": str, "sha256": str, "tokens": int, "zstd_bytes": int}
MAX_NAME_BYTES = 4096


def encode(records: Sequence[Record], fingerprint: str, width: int, vocabulary: int) -> bytes:
    """The bytes of a shard file holding `records`; their documents are listed once each, in order of appearance."""
    documents = list(dict.fromkeys(record.document for record in records))
    place = {document: i for i, document in enumerate(documents)}
    tensors: dict[str, Array] = {
        name: np.array([_column(record, name) for record in records], dtype=f"<{code}")
        for name, code in COLUMNS.items()
    }
    tensors["document"] = np.array([place[r.document] for r in records], dtype="<u4")
    tensors["text_sha256"] = _digest_rows([r.text_sha256 for r in records])
    tensors["record_sha256"] = _digest_rows([record_digest(r) for r in records])
    tensors["documents"] = _bytes_array(raw.compress(encode_documents(documents)))
    tensors["vectors"] = np.concatenate([np.zeros((0, width), "<f2"), *(r.vectors.astype("<f2") for r in records)])
    tensors["vectors_offsets"] = _offsets([len(r.vectors) for r in records])
    for name, pieces in (
        ("corrections", [corrections.encode(r.corrections) for r in records]),
        ("payload", [r.payload for r in records]),
    ):
        tensors[name] = _bytes_array(b"".join(pieces))
        tensors[f"{name}_offsets"] = _offsets([len(piece) for piece in pieces])
    metadata = {
        "digests": {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in tensors.items()},
        "documents": len(documents),
        "fingerprint": fingerprint,
        "format": FORMAT_NAME,
        "records": len(records),
        "version": [1, 0],
        "vocabulary": vocabulary,
        "width": width,
    }
    return save(tensors, {METADATA_KEY: canonical.dumps(metadata).decode()})


def encode_documents(documents: Sequence[Document]) -> bytes:
    """The documents table: one line of canonical JSON each."""
    return b"".join(canonical.dumps({name: getattr(d, name) for name in DOCUMENT_FIELDS}) + b"\n" for d in documents)


def decode_documents(table: bytes) -> list[Document]:
    """Documents from their table; ValueError when a line is malformed or a name could leave the output folder."""
    documents = []
    for line in table.split(b"\n")[:-1]:
        value = canonical.loads(line)
        if not isinstance(value, dict) or {k: type(v) for k, v in value.items()} != DOCUMENT_FIELDS:
            raise ValueError(f"tensor 'documents': a line does not have the fields {', '.join(DOCUMENT_FIELDS)}")
        check_name(value["name"])
        documents.append(Document(**value))
    return documents


def check_name(name: str) -> None:
    """ValueError unless `name` is a relative path with '/' that stays below any folder it is joined to. SPEC §5.4."""
    parts = name.split("/")
    if not name or len(name.encode()) > MAX_NAME_BYTES or "\0" in name or "\\" in name or ":" in parts[0]:
        raise ValueError(f"{name!r} is no portable document name")
    if any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"document name {name!r} must be relative, without empty, '.' or '..' parts")


def record_digest(record: Record) -> bytes:
    """sha256 that ties a record's values, vectors, corrections and payload to its document. SPEC §5.3."""
    row = b"".join(np.array(_column(record, name), dtype=f"<{code}").tobytes() for name, code in COLUMNS.items())
    digest = hashlib.sha256(b"memvec record 1\0" + bytes.fromhex(record.document.sha256) + row + record.text_sha256)
    vectors = record.vectors.astype("<f2").tobytes()
    for piece in (vectors, corrections.encode(record.corrections), record.payload):
        digest.update(struct.pack("<Q", len(piece)) + piece)
    return digest.digest()


def read_header(data: bytes | memoryview) -> tuple[dict[str, Any], dict[str, Any]]:
    """(tensor entries, memvec metadata) of a shard's first bytes, before anything is allocated; ValueError if bad."""
    if len(data) < 8:
        raise ValueError("shorter than a safetensors header")
    (size,) = struct.unpack("<Q", bytes(data[:8]))
    if size > MAX_HEADER_BYTES or size > len(data) - 8:
        raise ValueError(f"header declares {size} bytes, at most {min(MAX_HEADER_BYTES, len(data) - 8)} can be meant")
    entries = json.loads(bytes(data[8 : 8 + size]).decode("utf-8"))
    wrapped = entries.pop("__metadata__", None) if isinstance(entries, dict) else None
    if not isinstance(wrapped, dict) or list(wrapped) != [METADATA_KEY] or not isinstance(wrapped[METADATA_KEY], str):
        raise ValueError(f"metadata must hold exactly the key {METADATA_KEY!r}")
    metadata = canonical.loads(wrapped[METADATA_KEY].encode())
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT_NAME:
        raise ValueError(f"metadata does not say {FORMAT_NAME}")
    version = metadata.get("version")
    if not isinstance(version, list) or version[:1] != [1]:
        raise ValueError(f"shard version {version} is not 1.x")
    counts = [metadata.get(name) for name in ("records", "documents", "width", "vocabulary")]
    if any(type(n) is not int or n < 0 for n in counts) or not isinstance(metadata.get("digests"), dict):
        raise ValueError("metadata lacks its counts or digests")
    return entries, metadata


class Shard:
    """One shard in memory, its structure and tensor digests checked once; records are checked when they are read."""

    def __init__(self, data: bytes) -> None:
        """Parse `data`; ValueError names the tensor when a shape, an offset or a digest is off."""
        _, self.metadata = read_header(data)
        self.tensors: Mapping[str, Array] = load(data)
        self._check_shapes()
        self._check_digests()
        self.documents = self._read_documents()

    def __len__(self) -> int:
        return int(self.metadata["records"])

    def __iter__(self) -> Iterator[Record]:
        return (self.record(i) for i in range(len(self)))

    def record(self, row: int) -> Record:
        """Record number `row`; ValueError when its parts contradict each other or its digest."""
        t = self.tensors
        value = {name: t[name][row].item() for name in COLUMNS}
        document = self.documents[int(t["document"][row])]
        record = Record(
            document=document,
            kind=Kind(value["kind"]),
            start=value["start"],
            length=value["length"],
            tokens=value["tokens"],
            vectors=self._piece("vectors", row),
            corrections=corrections.decode(
                self._piece("corrections", row).tobytes(), value["tokens"], int(self.metadata["vocabulary"])
            ),
            payload=self._piece("payload", row).tobytes(),
            text_sha256=t["text_sha256"][row].tobytes(),
            reason=RawReason(value["reason"]),
            report=FitReport(**{name: value[name] for name in REPORT_FIELDS}),
        )
        if record.start + record.length > document.bytes:
            raise ValueError(f"record {row} reaches past its document's {document.bytes} bytes")
        if record_digest(record) != self.digest(row):
            raise ValueError(f"record {row} does not match its digest")
        return record

    def digest(self, row: int) -> bytes:
        """The 32 bytes that name record number `row`."""
        return bytes(self.tensors["record_sha256"][row])

    def _piece(self, name: str, row: int) -> Array:
        offsets = self.tensors[f"{name}_offsets"]
        return self.tensors[name][int(offsets[row]) : int(offsets[row + 1])]

    def _check_shapes(self) -> None:
        n, width = len(self), int(self.metadata["width"])
        expected: dict[str, tuple[str, tuple[int, ...]]] = {name: (code, (n,)) for name, code in COLUMNS.items()}
        expected |= {"document": ("u4", (n,)), "text_sha256": ("u1", (n, 32)), "record_sha256": ("u1", (n, 32))}
        expected |= {f"{name}_offsets": ("u8", (n + 1,)) for name in PIECES}
        for name in ("corrections", "payload", "documents"):
            expected[name] = "u1", (len(self.tensors.get(name, ())),)
        expected["vectors"] = "f2", (len(self.tensors.get("vectors", ())), width)
        for name, (code, shape) in expected.items():
            array = self.tensors.get(name)
            if array is None or array.dtype != np.dtype(f"<{code}") or array.shape != shape:
                found = "nothing" if array is None else f"{array.dtype} {array.shape}"
                raise ValueError(f"tensor {name!r}: expected {code} {shape}, found {found}")
        for name in PIECES:
            offsets = self.tensors[f"{name}_offsets"]
            if offsets[0] != 0 or offsets[-1] != len(self.tensors[name]) or (offsets[1:] < offsets[:-1]).any():
                raise ValueError(f"tensor '{name}_offsets': offsets do not ascend from 0 to {len(self.tensors[name])}")

    def _check_digests(self) -> None:
        digests = self.metadata["digests"]
        for name in sorted(self.tensors):
            if hashlib.sha256(self.tensors[name].tobytes()).hexdigest() != digests.get(name):
                raise ValueError(f"tensor {name!r} does not match its digest")

    def _read_documents(self) -> list[Document]:
        documents = decode_documents(raw.decompress(self.tensors["documents"].tobytes()))
        rows = self.tensors["document"]
        if len(documents) != self.metadata["documents"] or (len(rows) and int(rows.max()) >= len(documents)):
            raise ValueError("tensor 'documents': a record names a document that is not listed")
        return documents


def _column(record: Record, name: str) -> Any:
    return getattr(record.report, name) if name in REPORT_FIELDS else getattr(record, name)


def _offsets(lengths: Sequence[int]) -> Array:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.uint64)]).astype("<u8")


def _bytes_array(data: bytes) -> Array:
    return np.frombuffer(data, dtype=np.uint8)


def _digest_rows(digests: Sequence[bytes]) -> Array:
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 32)
