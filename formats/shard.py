"""Shards: many records in one immutable safetensors file, as a struct of arrays. SPEC §5."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from memvec.formats import canonical, conditioning, corrections, raw
from memvec.formats.documents import decode_documents, encode_documents
from memvec.types import Conditioning, Document, FitReport, Kind, RawReason, Record

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
NOT_DIGESTED = ("seconds",)  # so that the same fit has the same digest on a busier machine
# Pieces of varying length, laid end to end, each with an offsets column of n + 1 values [rows or bytes].
PIECES = ("vectors", "corrections", "payload")
_CODES = {"u1": "U8", "u4": "U32", "u8": "U64", "f2": "F16", "f4": "F32"}
# Every tensor of a shard: (safetensors' dtype, numpy's).
TENSORS = {
    name: (_CODES[code], code)
    for name, code in {
        **COLUMNS,
        **{f"{name}_offsets": "u8" for name in PIECES},
        "document": "u4",
        "text_sha256": "u1",
        "record_sha256": "u1",
        "documents": "u1",
        "vectors": "f2",
        "corrections": "u1",
        "payload": "u1",
    }.items()
}
MAX_TOKENS = 1 << 16  # of one record; bounds how long a damaged one could keep a decoder busy


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


def record_digest(record: Record) -> bytes:
    """sha256 that ties a record's values, vectors, corrections and payload to its document. SPEC §5.3."""
    digested = {name: code for name, code in COLUMNS.items() if name not in NOT_DIGESTED}
    row = b"".join(np.array(_column(record, name), dtype=f"<{code}").tobytes() for name, code in digested.items())
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
    if any(type(n) is not int or n < 0 for n in counts) or {
        name: type(metadata.get(name)) for name in ("digests", "fingerprint")
    } != {"digests": dict, "fingerprint": str}:
        raise ValueError("metadata lacks its counts, digests or fingerprint")
    return entries, metadata


class Shard:
    """One shard in memory, its structure checked once; records are checked when they are read."""

    def __init__(self, data: bytes) -> None:
        """Parse `data`; ValueError names the tensor when a shape or an offset is off."""
        _, self.metadata = read_header(data)
        found = {name: entry for name, entry in _tensors(data) if name in TENSORS}
        missing = sorted(set(TENSORS) - set(found))
        if missing:
            raise ValueError(f"tensor {missing[0]!r} is missing")
        self.tensors: dict[str, Array] = {name: _array(name, found[name]) for name in TENSORS}
        self._check_shapes()
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
        kind, payload = Kind(value["kind"]), self._piece("payload", row).tobytes()
        record = Record(
            document=document,
            kind=kind,
            start=value["start"],
            length=value["length"],
            tokens=value["tokens"],
            vectors=self._piece("vectors", row),
            corrections=corrections.decode(
                self._piece("corrections", row).tobytes(), value["tokens"], int(self.metadata["vocabulary"])
            ),
            payload=payload,
            text_sha256=t["text_sha256"][row].tobytes(),
            reason=RawReason(value["reason"]),
            report=FitReport(**{name: value[name] for name in REPORT_FIELDS}),
            conditioning=_conditioning(payload, row) if kind == Kind.CONTEXT else None,
        )
        _check_record(record, row)
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
        expected: dict[str, tuple[int, ...]] = dict.fromkeys((*COLUMNS, "document"), (n,))
        expected |= {"text_sha256": (n, 32), "record_sha256": (n, 32)}
        expected |= {f"{name}_offsets": (n + 1,) for name in PIECES}
        expected |= {name: (len(self.tensors[name]),) for name in ("corrections", "payload", "documents")}
        expected["vectors"] = len(self.tensors["vectors"]), width
        for name, shape in expected.items():
            if self.tensors[name].shape != shape:
                raise ValueError(f"tensor {name!r}: expected shape {shape}, found {self.tensors[name].shape}")
        for name in PIECES:
            offsets = self.tensors[f"{name}_offsets"]
            if offsets[0] != 0 or offsets[-1] != len(self.tensors[name]) or (offsets[1:] < offsets[:-1]).any():
                raise ValueError(f"tensor '{name}_offsets': offsets do not ascend from 0 to {len(self.tensors[name])}")

    def _read_documents(self) -> list[Document]:
        documents = decode_documents(raw.decompress(self.tensors["documents"].tobytes()))
        rows = self.tensors["document"]
        if len(documents) != self.metadata["documents"] or (len(rows) and int(rows.max()) >= len(documents)):
            raise ValueError("tensor 'documents': a record names a document that is not listed")
        return documents


def damaged_place(data: bytes) -> str:
    """Where a shard whose digest is wrong was changed: a tensor by name, else its header."""
    try:
        _, metadata = read_header(data)
        for name, entry in sorted(_tensors(data)):
            if hashlib.sha256(entry["data"]).hexdigest() != metadata["digests"].get(name):
                return f"tensor {name!r}"
    except (ValueError, SafetensorError):
        pass
    return "header"


def _check_record(record: Record, row: int) -> None:
    """ValueError when the parts of a record contradict each other. SPEC §5.1."""
    if record.start + record.length > record.document.bytes:
        raise ValueError(f"record {row} reaches past its document's {record.document.bytes} bytes")
    if record.tokens > MAX_TOKENS:
        raise ValueError(f"record {row} claims {record.tokens} tokens, at most {MAX_TOKENS} are allowed")
    if record.kind == Kind.RAW:
        whole = not len(record.vectors) and not record.corrections and record.reason != RawReason.NONE
    else:
        # A context record's payload was read before; it never decodes, so there is nothing to correct.
        foreign = record.corrections if record.kind == Kind.CONTEXT else record.payload
        whole = len(record.vectors) > 0 < record.tokens and not foreign and record.reason == RawReason.NONE
    if not whole:
        raise ValueError(f"record {row} is {record.kind.name.lower()} but mixes in parts of another kind")


def _conditioning(payload: bytes, row: int) -> Conditioning:
    try:
        return conditioning.decode(payload)
    except ValueError as error:
        raise ValueError(f"record {row}: {error}") from None


def _tensors(data: bytes) -> list[tuple[str, dict[str, Any]]]:
    """(name, {dtype, shape, data}) of every tensor, as safetensors found them to lie."""
    parsed: list[tuple[str, dict[str, Any]]] = deserialize(data)  # type: ignore[no-untyped-call]
    return parsed


def _array(name: str, entry: dict[str, Any]) -> Array:
    dtype, code = TENSORS[name]
    if entry["dtype"] != dtype:
        raise ValueError(f"tensor {name!r}: expected dtype {dtype}, found {entry['dtype']}")
    array: Array = np.frombuffer(entry["data"], dtype=f"<{code}").reshape(entry["shape"])
    return array


def _column(record: Record, name: str) -> Any:
    return getattr(record.report, name) if name in REPORT_FIELDS else getattr(record, name)


def _offsets(lengths: Sequence[int]) -> Array:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.uint64)]).astype("<u8")


def _bytes_array(data: bytes) -> Array:
    return np.frombuffer(data, dtype=np.uint8)


def _digest_rows(digests: Sequence[bytes]) -> Array:
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 32)
