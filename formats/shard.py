"""Shards: many records in one immutable safetensors file, as a struct of arrays. SPEC §5."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from memvec.formats import conditioning, container, corrections, raw
from memvec.formats.container import Array
from memvec.formats.documents import decode_documents, encode_documents
from memvec.types import Conditioning, Document, Fingerprint, FitReport, Kind, RawReason, Record

FORMAT_NAME = "memvec-shard"

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
TENSORS = {  # every tensor of a shard, by numpy's code
    **COLUMNS,
    **{f"{name}_offsets": "u8" for name in PIECES},
    "document": "u4",
    "text_sha256": "u1",
    "record_sha256": "u1",
    "documents": "u1",
    "vectors": "f2",
    "corrections": "u1",
    "payload": "u1",
}
MAX_TOKENS = 1 << 16  # of one record; bounds how long a damaged one could keep a decoder busy


def encode(
    records: Sequence[Record],
    fingerprint: str,
    width: int,
    vocabulary: int,
    origin: Fingerprint | None = None,
    generation: int = 0,
) -> bytes:
    """The bytes of a shard file holding `records`; their documents are listed once each, in order of appearance.

    `origin`, the whole fingerprint, and `generation`, of the manifest that first names it, are there to make a lost
    manifest again.
    """
    documents = list(dict.fromkeys(record.document for record in records))
    place = {document: i for i, document in enumerate(documents)}
    tensors: dict[str, Array] = {
        name: np.array([_column(record, name) for record in records], dtype=f"<{code}")
        for name, code in COLUMNS.items()
    }
    tensors["document"] = np.array([place[r.document] for r in records], dtype="<u4")
    tensors["text_sha256"] = container.digest_rows([r.text_sha256 for r in records])
    tensors["record_sha256"] = container.digest_rows([record_digest(r) for r in records])
    tensors["documents"] = _bytes_array(raw.compress(encode_documents(documents)))
    tensors["vectors"] = np.concatenate([np.zeros((0, width), "<f2"), *(r.vectors.astype("<f2") for r in records)])
    tensors["vectors_offsets"] = container.as_offsets([len(r.vectors) for r in records])
    for name, pieces in (
        ("corrections", [corrections.encode(r.corrections) for r in records]),
        ("payload", [r.payload for r in records]),
    ):
        tensors[name] = _bytes_array(b"".join(pieces))
        tensors[f"{name}_offsets"] = container.as_offsets([len(piece) for piece in pieces])
    metadata: dict[str, Any] = {
        "documents": len(documents),
        "fingerprint": fingerprint,
        "format": FORMAT_NAME,
        "records": len(records),
        "vocabulary": vocabulary,
        "width": width,
        "generation": generation,
    }
    if origin is not None:
        metadata["origin"] = asdict(origin)
    return container.encode(tensors, metadata)


def record_digest(record: Record) -> bytes:
    """sha256 that ties a record's values, vectors, corrections and payload to its document. SPEC §5.3."""
    digested = {name: code for name, code in COLUMNS.items() if name not in NOT_DIGESTED}
    row = b"".join(np.array(_column(record, name), dtype=f"<{code}").tobytes() for name, code in digested.items())
    digest = hashlib.sha256(b"memvec record 1\0" + bytes.fromhex(record.document.sha256) + row + record.text_sha256)
    vectors = record.vectors.astype("<f2").tobytes()
    for piece in (vectors, corrections.encode(record.corrections), record.payload):
        digest.update(struct.pack("<Q", len(piece)) + piece)
    return digest.digest()


def read_metadata(data: bytes) -> dict[str, Any]:
    """The memvec metadata of a shard's header; ValueError if bad."""
    return checked_metadata(container.read_header(data, FORMAT_NAME)[1])


def checked_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """The same, once its counts and fingerprint are there; ValueError if bad."""
    counts = [metadata.get(name) for name in ("records", "documents", "width", "vocabulary")]
    if any(type(n) is not int or n < 0 for n in counts) or not isinstance(metadata.get("fingerprint"), str):
        raise ValueError("metadata lacks its counts or fingerprint")
    return metadata


class Shard:
    """One shard in memory, its structure checked once; records are checked when they are read."""

    def __init__(self, data: bytes) -> None:
        """Parse `data`; ValueError names the tensor when a shape or an offset is off."""
        self.metadata = read_metadata(data)
        self.tensors = container.read_tensors(data, TENSORS)
        self._check_shapes()
        self.documents: Sequence[Document] = decode_documents(raw.decompress(self.tensors["documents"].tobytes()))
        self._check_documents()

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
        shapes = {name: tensor.shape for name, tensor in self.tensors.items()}
        container.compare_shapes(shapes, expected_shapes(self.metadata, shapes))
        self._check_offsets()

    def _check_offsets(self) -> None:
        for name in PIECES:
            container.check_offsets(f"{name}_offsets", self.tensors[f"{name}_offsets"], len(self.tensors[name]))

    def _check_documents(self) -> None:
        rows = self.tensors["document"]
        if len(self.documents) != self.metadata["documents"] or (len(rows) and int(rows.max()) >= len(self.documents)):
            raise ValueError("tensor 'documents': a record names a document that is not listed")


def expected_shapes(metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """What shape every tensor should have, given how long those of varying length are in `shapes`."""
    n, width = int(metadata["records"]), int(metadata["width"])
    expected: dict[str, tuple[int, ...]] = dict.fromkeys((*COLUMNS, "document"), (n,))
    expected |= {"text_sha256": (n, 32), "record_sha256": (n, 32)}
    expected |= {f"{name}_offsets": (n + 1,) for name in PIECES}
    expected |= {name: (*shapes[name][:1],) or (0,) for name in ("corrections", "payload", "documents")}
    expected["vectors"] = *shapes["vectors"][:1], width
    return expected


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


def _column(record: Record, name: str) -> Any:
    return getattr(record.report, name) if name in REPORT_FIELDS else getattr(record, name)


def _bytes_array(data: bytes) -> Array:
    return np.frombuffer(data, dtype=np.uint8)
