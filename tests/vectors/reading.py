"""What memvec finds in a store, as the corpus writes it down: documents, records, keys and manifest, or a code."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from memvec.decoding.verify import verify
from memvec.errors import FormatTooNewError
from memvec.formats.keys_values import dequantised
from memvec.formats.raw import raw_bytes
from memvec.store.store import RecordRef, Store, StoredDocument
from memvec.types import KeysValues, Kind


def refusals(path: Path) -> set[str]:
    """The codes of everything that `verify` finds wrong."""
    try:
        return {problem.code for problem in verify(path).problems}
    except FormatTooNewError as error:
        return {error.code}


def reading(path: Path) -> dict[str, Any]:
    """What is in a store."""
    store = Store.open(path)
    state = store.manifest
    return {
        "documents": {name: _live(store, stored) for name, stored in store.documents().items()},
        "versions": [[v.document.name, v.document.sha256] for v in store.versions()],
        "records": [
            _record(store, RecordRef(shard, row, 0, 0))
            for shard in range(len(state.shards))
            for row in range(len(store.shard(shard)))
        ],
        "keys": [
            {
                "embedder": keys.embedder.name,
                "texts": [text.tobytes().hex() for text in keys.texts],
                "values": keys.values.tobytes().hex(),
                "terms": [keys.terms.tolist(), keys.counts.tolist()],
            }
            for keys in map(store.keys, state.keys)
        ],
        "manifest": {
            "extensions": state.extensions,
            "fingerprint": state.fingerprint.id,
            "generation": state.generation,
            "meta": state.meta,
            "probe": state.probe,
            "removed": [list(version) for version in state.removed],
            "required": list(state.required),
            "shards": [entry.sha256 for entry in state.shards],
            "tensors": state.tensors,
            "unknown": bool(state.foreign),
            "vocabulary": state.vocabulary,
        },
    }


def _live(store: Store, stored: StoredDocument) -> dict[str, Any]:
    """A live document: where its records lie, and its bytes where no model is needed for them."""
    value: dict[str, Any] = {
        "sha256": stored.document.sha256,
        "bytes": stored.document.bytes,
        "content": [[ref.shard, ref.row] for ref in stored.records] if stored.complete else [],
        "memory": [[ref.shard, ref.row] for ref in stored.memory],
    }
    if stored.kv:
        value["kv"] = [[ref.shard, ref.row] for ref in stored.kv]
    records = [store.record(ref) for ref in stored.records]
    if stored.complete and all(record.kind == Kind.RAW for record in records):
        value["data"] = base64.b64encode(b"".join(map(raw_bytes, records))).decode()
    return value


def _record(store: Store, ref: RecordRef) -> dict[str, Any]:
    record = store.record(ref)
    value = {
        "id": store.record_id(ref),
        "document": record.document.name,
        "kind": record.kind.name.lower(),
        "reason": int(record.reason),
        "place": [record.start, record.length],
        "tokens": record.tokens,
        "vectors": [len(record.vectors), hashlib.sha256(record.vectors.tobytes()).hexdigest()],
        "corrections": [list(pair) for pair in record.corrections],
        "text_sha256": record.text_sha256.hex(),
        "gain": record.conditioning.gain if record.conditioning else None,
    }
    return value | ({"kv": _kv(record.kv)} if record.kv else {})


def _kv(kv: KeysValues) -> dict[str, Any]:
    """Keys and values: their numbers by digest."""
    keys, values = (hashlib.sha256(numbers.astype("<f4").tobytes()).hexdigest() for numbers in dequantised(kv))
    return {
        "positions": kv.positions,
        "bits": kv.bits,
        "counts": kv.counts.tolist(),
        "distances": kv.distances.tolist(),
        "keys": keys,
        "values": values,
    }
