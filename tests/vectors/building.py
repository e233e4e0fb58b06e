"""Stores byte by byte from SPEC.md, right ones and ones with one thing wrong. Knows nothing of memvec.

Frames hold their bytes as they are, so that what is made depends on no version of a compressor.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zstandard
from vectors import building_kv

Files = dict[str, bytes]
Tensors = dict[str, tuple[str, list[int], bytes]]  # (dtype, shape, bytes) by name
Change = Callable[[Any], Any]

WIDTH, VOCABULARY = 4, 300
FINGERPRINT = {
    "architecture": {"hidden_size": WIDTH, "model_type": "example", "norm": 1e-05},
    "embedding": "e" * 8,
    "probe": "0" * 8,
    "source": "an example",
    "vocabulary": "f" * 8,
    "weights": "a" * 8,
    "width": WIDTH,
}
COLUMNS = {
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
NAMES = {"u1": "U8", "u2": "U16", "u4": "U32", "u8": "U64", "f2": "F16", "f4": "F32"}
REPORT = {
    "gain": 0.625,
    "harm": None,
    "held_out": 12,
    "nll_memory": 2.5,
    "nll_none": 3.5,
    "nll_text": 2.0,
    "recipe": "questions",
    "seed": 7,
    "shuffled": 0.0,
    "text": 0.25,
}


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def frame(content: bytes, declared: int | None = -1, checksum: bool = True, more: int = 0, tail: bytes = b"") -> bytes:
    """A zstd frame that holds `content`, then `more` times 128 KiB of one byte, then `tail`; `declared` None: no size."""
    size = len(content) + 131072 * more + len(tail) if declared == -1 else declared
    kind = (0 if size is None else 0xC0) | (4 if checksum else 0)
    head = b"\x28\xb5\x2f\xfd" + bytes([kind, 0x70]) + (b"" if size is None else struct.pack("<Q", size))
    blocks = [(len(content) << 3, content), *[(131072 << 3 | 2, b"x")] * more, *[(len(tail) << 3, tail)] * bool(tail)]
    blocks[-1] = (blocks[-1][0] | 1, blocks[-1][1])  # the last one
    body = b"".join(struct.pack("<I", mark)[:3] + data for mark, data in blocks)
    # The checksum is the same whatever compressor made the frame.
    whole = zstandard.ZstdCompressor(write_checksum=True).compress(content + b"x" * 131072 * more + tail)
    return head + body + (whole[-4:] if checksum else b"")


def identity(fingerprint: Mapping[str, Any]) -> str:
    return sha(canonical({k: v for k, v in fingerprint.items() if k != "source"}))[:16]


def document(name: str, data: bytes, **changes: Any) -> dict[str, Any]:
    return {"bytes": len(data), "name": name, "sha256": sha(data), "tokens": 3, "zstd_bytes": len(data)} | changes


def record(number: int, kind: int, data: bytes, start: int = 0, **changes: Any) -> dict[str, Any]:
    """A record of kind 0, 1, 2 or 3 of document number `number`."""
    value: dict[str, Any] = dict.fromkeys(COLUMNS, 0)
    value |= {"document": number, "kind": kind, "start": start, "length": len(data), "corrections": b""}
    value |= {"text_sha256": hashlib.sha256(data).digest(), "vectors": 0, "payload": b"", "digest": None, "kv": None}
    if kind == 0:
        value |= {"reason": 1, "payload": frame(data)}
    else:
        value |= {"tokens": max(1, len(data) // 4), "vectors": 2, "steps": 9, "token_steps": 900, "nats_before": 40.0}
    if kind in (2, 3):
        value["payload"] = frame(canonical(REPORT))
    if kind == 3:
        value |= {"vectors": 0, "kv": building_kv.keys_values()}
    return value | changes


def vectors(value: Mapping[str, Any]) -> bytes:
    """M rows that differ from record to record."""
    rows = np.arange(value["vectors"] * WIDTH, dtype="<f4") % 13 / 8 + value["start"] % 5 - 1
    return rows.astype("<f2").tobytes()


def digest(value: Mapping[str, Any], owner: Mapping[str, Any]) -> bytes:
    row = b"".join(np.array(value[n], f"<{code}").tobytes() for n, code in COLUMNS.items() if n != "seconds")
    made = hashlib.sha256(b"memvec record 1\0" + bytes.fromhex(owner["sha256"]) + row + value["text_sha256"])
    more = building_kv.pieces(value["kv"]) if value["kv"] else []
    for piece in (vectors(value), value["corrections"], value["payload"], *more):
        made.update(struct.pack("<Q", len(piece)) + piece)
    return made.digest()


def columns(documents: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]]) -> Tensors:
    """The tensors of a shard."""
    n = len(records)
    out: Tensors = {
        name: (NAMES[code], [n], np.array([r[name] for r in records], f"<{code}").tobytes())
        for name, code in {**COLUMNS, "document": "u4"}.items()
    }
    for name, pieces, shape in (
        ("vectors", [vectors(r) for r in records], [sum(r["vectors"] for r in records), WIDTH]),
        ("corrections", [r["corrections"] for r in records], None),
        ("payload", [r["payload"] for r in records], None),
    ):
        data = b"".join(pieces)
        step = 2 * WIDTH if name == "vectors" else 1
        ends = np.cumsum([0, *(len(p) // step for p in pieces)]).astype("<u8")
        out[name] = "F16" if name == "vectors" else "U8", shape or [len(data)], data
        out[f"{name}_offsets"] = "U64", [n + 1], ends.tobytes()
    out["text_sha256"] = "U8", [n, 32], b"".join(r["text_sha256"] for r in records)
    digests = [r["digest"] or digest(r, documents[min(r["document"], len(documents) - 1)]) for r in records]
    out["record_sha256"] = "U8", [n, 32], b"".join(digests)
    table = frame(b"".join(canonical(d) + b"\n" for d in documents))
    out["documents"] = "U8", [len(table)], table
    return out | building_kv.columns([r["kv"] for r in records])


def container(tensors: Tensors, metadata: Mapping[str, Any] | bytes, header: Change = lambda entries: entries) -> bytes:
    """A safetensors file; `header` may change its entries, or give bytes in their place."""
    entries: dict[str, Any] = {}
    at = 0
    text = metadata if isinstance(metadata, bytes) else canonical(metadata)
    entries["__metadata__"] = {"memvec": text.decode("utf-8", "surrogatepass")}
    for name, (dtype, shape, data) in sorted(tensors.items(), key=lambda t: (-int(t[1][0][1:]), t[0])):
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    data = b"".join(tensors[name][2] for name in entries if name in tensors)
    changed = header(entries)
    head = changed if isinstance(changed, bytes) else json.dumps(changed, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + data


@dataclass(frozen=True)
class Part:
    """A shard or a file of keys, and what the manifest says of it."""

    data: bytes
    entry: dict[str, Any] = field(default_factory=dict)


def same(value: Any) -> Any:
    return value


def shard(
    documents: Sequence[Mapping[str, Any]],
    records: Sequence[Mapping[str, Any]],
    *,
    whole: bool = False,
    metadata: Change = same,
    tensors: Change = same,
    header: Change = same,
    file: Change = same,
) -> Part:
    """A shard, each part of it changed by a function; `whole`: with all that a writer of today says."""
    made = tensors(columns(documents, records))
    said: dict[str, Any] = {
        "digests": {name: sha(data) for name, (_, _, data) in made.items()} if whole else {},
        "documents": len(documents),
        "fingerprint": identity(FINGERPRINT),
        "format": "memvec-shard",
        "records": len(records),
        "version": [1, 0],
        "vocabulary": VOCABULARY,
        "width": WIDTH,
    }
    for value in records:
        if value["kv"]:
            said["kv"] = value["kv"]["shape"]
    if whole:
        said |= {"generation": 1, "origin": FINGERPRINT}
    data = file(container(made, metadata(said), header))
    return Part(data, {"documents": len(documents), "records": len(records)})


def keys(tensors: Tensors, texts: int, width: int, metadata: Change = same, header: Change = same) -> Part:
    """A file of keys."""
    name = "lm" if width else "bm25"
    made = {"embedder": name, "embedder_id": sha(name.encode())[:16], "texts": texts}
    said = {**made, "digests": {}, "format": "memvec-keys", "version": [1, 0], "width": width}
    return Part(container(tensors, metadata(said), header), made)


def store(
    *parts: Part,
    found: Sequence[Part] = (),
    body: Change = same,
    text: Change = same,
    envelope: Change = same,
    required: Sequence[str] = (),
) -> Files:
    """The files of a store of shards and keys; the manifest is changed as an object, as text and in its envelope."""
    out = {f"shards/{sha(part.data)}.safetensors": part.data for part in parts}
    out |= {f"keys/{sha(part.data)}.safetensors": part.data for part in found}
    said: dict[str, Any] = {
        "features": {"optional": ["keys"] if found else [], "required": list(required)},
        "fingerprint": FINGERPRINT,
        "format": "memvec",
        "generation": len(parts),
        "numerics": {"attention": "sdpa", "dtype": "float32"},
        "shards": [{"sha256": sha(p.data), "bytes": len(p.data), **p.entry} for p in parts],
        "tool": "example",
        "version": [1, 0],
        "vocabulary": VOCABULARY,
    }
    if found:
        said["keys"] = [{"sha256": sha(p.data), "bytes": len(p.data), **p.entry} for p in found]
    changed = text(canonical(body(said)))
    out["manifest.json"] = envelope(b'{"manifest":' + changed + b',"sha256":"' + sha(changed).encode() + b'"}\n')
    return out
