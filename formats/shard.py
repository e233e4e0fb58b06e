"""Shards: many records in one immutable safetensors file, as a struct of arrays. SPEC §5."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

import numpy as np

from memvec.formats import conditioning, container, corrections, fields, kv_tensors, limits, manifest, raw
from memvec.formats.container import Array
from memvec.formats.documents import decode_documents, encode_documents
from memvec.formats.refusal import Refusal
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
# Without `seconds`, so that the same fit has the same digest on any machine.
DIGESTED = {name: code for name, code in COLUMNS.items() if name != "seconds"}
# Pieces of varying length, laid end to end, each with an offsets column of n + 1 values [rows or bytes].
PIECES = ("vectors", "corrections", "payload")
TENSORS = {  # every tensor of a shard without kv records, with numpy's code
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
BOUNDS = {
    "records": limits.RECORDS,
    "documents": limits.DOCUMENTS,
    "width": limits.WIDTH,
    "vocabulary": limits.VOCABULARY,
}


def encode(
    records: Sequence[Record],
    fingerprint: str,
    width: int,
    vocabulary: int,
    origin: Fingerprint | None = None,
    generation: int = 0,
) -> bytes:
    """Encode `records` as a shard. Its documents table lists each document once, in order of appearance.

    A lost manifest can be made again from `origin`, the complete fingerprint, and `generation`, of the first manifest
    that names the shard. Refusal if something is over a limit, or if kv records differ in layers, heads or width.
    """
    fields.within(len(records), "records of a shard", limits.RECORDS)
    kv, kv_metadata = kv_tensors.tensors(records)
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
        **kv_metadata,
    }
    if origin is not None:
        metadata["origin"] = asdict(origin)
    return container.encode(tensors | kv, metadata)


def record_digest(record: Record) -> bytes:
    """Return the sha256 over a record's values, its arrays, corrections, payload and document. SPEC §5.3."""
    row = b"".join(np.array(_column(record, name), dtype=f"<{code}").tobytes() for name, code in DIGESTED.items())
    pieces = record.vectors.astype("<f2").tobytes(), corrections.encode(record.corrections), record.payload
    more = kv_tensors.digested(record.kv) if record.kv is not None else ()
    return _digest(record.document, row, record.text_sha256, chain(pieces, more))


def _digest(document: Document, row: bytes, text_sha256: bytes, pieces: Iterable[bytes]) -> bytes:
    digest = hashlib.sha256(b"memvec record 1\0" + bytes.fromhex(document.sha256) + row + text_sha256)
    for piece in pieces:
        digest.update(struct.pack("<Q", len(piece)))
        digest.update(piece)
    return digest.digest()


def read_metadata(data: bytes) -> dict[str, Any]:
    """Return the memvec metadata of a shard's header. Refusal if bad."""
    return _read_header(data)[1]


def _read_header(data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    entries, metadata = container.read_header(data, FORMAT_NAME)
    return entries, checked_metadata(metadata)


def checked_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of a shard after checking it. Refusal if bad."""
    fields.counts(metadata, BOUNDS)
    identity = fields.one(metadata, "fingerprint", str)
    if "generation" in metadata:
        fields.counts(metadata, {"generation": limits.MOST_COUNT})
    if "origin" in metadata:
        origin = fields.fingerprint(metadata["origin"])
        if (origin.id, origin.width) != (identity, metadata["width"]):
            raise Refusal("origin-mismatch", f"origin is fingerprint {origin.id}, the shard's is {identity}")
    kv_tensors.check_metadata(metadata)
    return metadata


def expected_tensors(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return {tensor: numpy code} of every tensor that a shard with this metadata has."""
    return {**TENSORS, **kv_tensors.expected_tensors(metadata)}


class Shard:
    """One shard in memory. Its structure is checked once, each record when it is read."""

    def __init__(self, data: bytes, strict: bool = True) -> None:
        """Parse `data`. Refusal names the tensor if a shape, a digest or an offset is wrong.

        Without `strict`, digests and offsets of tensors are not checked. The records' own digests show which are sound.
        """
        entries, self.metadata = _read_header(data)
        self.tensors = container.read_tensors(data, entries, expected_tensors(self.metadata))
        self._check_shapes(strict)
        self.documents: Sequence[Document] = decode_documents(raw.decompress(self.tensors["documents"].tobytes()))
        self._check_documents()

    def __len__(self) -> int:
        return int(self.metadata["records"])

    def __iter__(self) -> Iterator[Record]:
        return (self.record(i) for i in range(len(self)))

    def record(self, row: int) -> Record:
        """Read record number `row`. Refusal if its parts contradict each other or its digest."""
        try:
            return self._record(row)
        except Refusal as refusal:
            raise Refusal(refusal.code, f"record {row}: {refusal}") from refusal

    def _record(self, row: int) -> Record:
        t = self.tensors
        value = {name: t[name][row].item() for name in COLUMNS}
        document, text_sha256 = self.documents[int(t["document"][row])], t["text_sha256"][row].tobytes()
        kind, reason = _known(value)
        vectors, pairs, payload = (self._piece(name, row) for name in PIECES)
        # In a shard without kv tensors a kv record is of an unknown kind, as it is for older readers.
        declared = kv_tensors.METADATA in self.metadata
        if kind == Kind.KV and not declared:
            raise _unknown(kind)
        kv = kv_tensors.Parts(self.metadata, t, self._piece, row) if declared else None
        _check_bounds(value, kind, document, len(vectors))
        _check_parts(kind, reason, value["tokens"], (len(vectors), len(pairs), len(payload)))
        if kv and not (kv.complete() if kind == Kind.KV else kv.empty()):
            raise _mixed(kind)
        # Before the pieces are parsed: damaged bytes are not worth a parser.
        digested = b"".join(t[name][row].tobytes() for name in DIGESTED)
        pieces = vectors.tobytes(), pairs.tobytes(), payload.tobytes()
        more = kv.digested() if kv and kind == Kind.KV else ()
        if _digest(document, digested, text_sha256, chain(pieces, more)) != self.digest(row):
            raise Refusal("digest-mismatch", "it does not match its digest")
        return Record(
            document=document,
            kind=kind,
            start=value["start"],
            length=value["length"],
            tokens=value["tokens"],
            vectors=vectors.copy(),  # a view would hold the complete file in memory
            corrections=corrections.decode(pieces[1], value["tokens"], int(self.metadata["vocabulary"])),
            payload=pieces[2],
            text_sha256=text_sha256,
            reason=reason,
            report=FitReport(**{name: value[name] for name in REPORT_FIELDS}),
            conditioning=conditioning.decode(pieces[2]) if kind in (Kind.CONTEXT, Kind.KV) else None,
            kv=kv.record() if kv and kind == Kind.KV else None,
        )

    @property
    def required(self) -> frozenset[str]:
        """The features that a manifest must name if it names this shard. SPEC §4.2."""
        context = {manifest.CONTEXT} if (self.tensors["kind"] == Kind.CONTEXT).any() else set()
        return frozenset(context | ({manifest.KV} if kv_tensors.METADATA in self.metadata else set()))

    def kv_sizes(self) -> tuple[Array, Array]:
        """Return the positions (n,) and the bytes (n,) of each record's keys and values. 0 for records of other kinds."""
        return kv_tensors.sizes(self.metadata, self.tensors)

    def conditioning(self, row: int) -> Conditioning:
        """Read the report of record number `row`, of a memory, and nothing else of it. Its frame has a checksum. Refusal."""
        return conditioning.decode(self._piece("payload", row).tobytes())

    def digest(self, row: int) -> bytes:
        """Return the id of record number `row`, 32 bytes."""
        return bytes(self.tensors["record_sha256"][row])

    def _piece(self, name: str, row: int) -> Array:
        offsets = self.tensors[f"{name}_offsets"]
        return self.tensors[name][int(offsets[row]) : int(offsets[row + 1])]

    def _check_shapes(self, strict: bool) -> None:
        shapes = {name: tensor.shape for name, tensor in self.tensors.items()}
        container.compare_shapes(shapes, expected_shapes(self.metadata, shapes))
        if not strict:
            return
        container.check_digests(self.tensors, self.metadata["digests"])
        for name in (*PIECES, *(kv_tensors.PIECES if kv_tensors.METADATA in self.metadata else ())):
            container.check_offsets(f"{name}_offsets", self.tensors[f"{name}_offsets"], len(self.tensors[name]))

    def _check_documents(self) -> None:
        rows = self.tensors["document"]
        documents = self.documents
        if len(documents) != self.metadata["documents"]:
            raise Refusal(
                "wrong-count",
                f"tensor 'documents' lists {len(documents)} documents, the metadata says {self.metadata['documents']}",
            )
        if len(rows) and int(rows.max()) >= len(documents):
            raise Refusal("bad-document", "tensor 'document': a record belongs to a document that is not listed")


def expected_shapes(metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the expected shape of every tensor. The lengths of those that vary are taken from `shapes`."""
    n, width = int(metadata["records"]), int(metadata["width"])
    expected: dict[str, tuple[int, ...]] = dict.fromkeys((*COLUMNS, "document"), (n,))
    expected |= {"text_sha256": (n, 32), "record_sha256": (n, 32)}
    expected |= {f"{name}_offsets": (n + 1,) for name in PIECES}
    expected |= {name: (*shapes[name][:1],) or (0,) for name in ("corrections", "payload", "documents")}
    expected["vectors"] = *shapes["vectors"][:1], width
    return expected | kv_tensors.expected_shapes(metadata, shapes)


def _known(value: dict[str, Any]) -> tuple[Kind, RawReason]:
    try:
        kind = Kind(value["kind"])
    except ValueError as error:
        raise _unknown(value["kind"]) from error
    try:
        return kind, RawReason(value["reason"])
    except ValueError as error:
        raise Refusal("unknown-reason", f"it has the reason {value['reason']}, which is not known") from error


def _unknown(kind: int) -> Refusal:
    return Refusal("unknown-kind", f"it is of kind {int(kind)}, which is not known")


def _check_bounds(value: dict[str, Any], kind: Kind, document: Document, vectors: int) -> None:
    """Refuse a record that reaches past its document, or has too many tokens or vectors. SPEC §5.1."""
    if value["start"] + value["length"] > document.bytes:
        raise Refusal("past-document", f"it reaches past its document's {document.bytes} bytes")
    most = limits.KV_POSITIONS if kind == Kind.KV else limits.TOKENS
    fields.within(value["tokens"], "its number of tokens", most)
    fields.within(vectors, "its number of vectors", limits.VECTORS)


def _check_parts(kind: Kind, reason: RawReason, tokens: int, sizes: tuple[int, int, int]) -> None:
    """Refuse a record without exactly the parts of its kind. `sizes` are of vectors, corrections, payload. SPEC §5.1."""
    vectors, pairs, payload = sizes
    if kind == Kind.RAW:
        complete = not vectors and not pairs and payload > 0 and reason != RawReason.NONE
    elif kind == Kind.EXACT:
        complete = vectors > 0 < tokens and not payload and reason == RawReason.NONE
    else:
        # A memory does not decode, so it has no corrections. Its payload is its report. One of keys has no vectors.
        own = (vectors > 0) == (kind == Kind.CONTEXT) and tokens > 0 and not pairs and payload > 0
        complete = own and reason == RawReason.NONE
    if not complete:
        raise _mixed(kind)


def _mixed(kind: Kind) -> Refusal:
    return Refusal("mixed-parts", f"it is {kind.name.lower()} but lacks a part or mixes in one of another kind")


def _column(record: Record, name: str) -> Any:
    return getattr(record.report, name) if name in REPORT_FIELDS else getattr(record, name)


def _bytes_array(data: bytes) -> Array:
    return np.frombuffer(data, dtype=np.uint8)
