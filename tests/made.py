"""Make stores by hand, quickly and without a model. Their vectors decode to nothing; all else is as in a packed store."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from made_kv import keys_values

from memvec.formats import keys as keys_format
from memvec.formats.keys import Embedder
from memvec.formats.manifest import Manifest
from memvec.maintenance.remove import rm
from memvec.packing.records import context_record, kv_record, raw_records
from memvec.retrieval.embedders import Words, keys_of
from memvec.store.lock import writing
from memvec.store.store import Store
from memvec.store.transaction import Transaction
from memvec.types import Conditioning, Document, Fingerprint, FitReport, Kind, RawReason, Record

WIDTH, VOCABULARY, PIECE = 8, 100, 10
MODEL = Fingerprint("a" * 64, "b" * 64, {"hidden_size": WIDTH}, "c" * 64, "d" * 64, WIDTH, "made up")
OTHER = Fingerprint("e" * 64, "b" * 64, {"hidden_size": WIDTH}, "c" * 64, "d" * 64, WIDTH, "made up too")
REPORT = Conditioning(0.5, 0.1, 0.25, 0.01, 3.0, 2.0, 2.5, 8, "made up", 0)

TEXT = b"a text of some length, cut into pieces of ten bytes each"
NEWER = b"another text of some length that takes the place of the first"


class Vectors:
    """An embedder whose vectors are noise that depends on the text."""

    embedder = Embedder("noise", "0123456789abcdef", WIDTH)

    def keys(self, texts: dict[bytes, str]) -> Any:
        """A key for each text."""
        values = [np.random.default_rng(digest[0]).standard_normal(WIDTH) for digest in texts]
        return keys_format.dense(self.embedder, list(texts), np.reshape(values, (len(texts), WIDTH)))


def document(name: str, data: bytes) -> Document:
    """The document of that name."""
    return Document(name, len(data), hashlib.sha256(data).hexdigest(), len(data) // 2, max(1, len(data) // 4))


def exact(name: str, data: bytes, piece: int = PIECE) -> list[Record]:
    """Exact records of `piece` bytes each."""
    made = []
    for start in range(0, len(data), piece):
        part = data[start : start + piece]
        noise = np.random.default_rng([len(data), start, piece]).standard_normal((2, WIDTH)).astype(np.float16)
        digest = hashlib.sha256(part).digest()
        report = FitReport(steps=start + 1, seconds=0.5)
        made.append(Record(document(name, data), Kind.EXACT, start, len(part), len(part), noise, ((0, 7),), b"", digest,
                           RawReason.NONE, report))  # fmt: skip
    return made


def raw(name: str, data: bytes) -> list[Record]:
    """Raw records, which give their bytes back without a model."""
    return raw_records(document(name, data), 0, data, 0, RawReason.NOT_TEXT, WIDTH)


def memory(name: str, data: bytes) -> list[Record]:
    """One context record."""
    noise = np.random.default_rng(len(data)).standard_normal((3, WIDTH)).astype(np.float16)
    return [context_record(document(name, data), 0, data, 9, noise, REPORT)]


def kv(name: str, data: bytes, begin: int = 0, end: int | None = None, bits: int = 8) -> list[Record]:
    """One kv record of a part of a document, all of it by default."""
    kept = keys_values(len(data) + begin, bits)
    return [kv_record(document(name, data), begin, data[begin:end], 12, kept, REPORT, width=WIDTH)]


def make(path: Path, model: Fingerprint = MODEL) -> Transaction:
    """A transaction of a new, empty store."""
    return Transaction.create(path, Manifest(model, VOCABULARY, tool="made"))


def put(store: Path, *groups: list[Record], meta: dict[str, dict[str, str]] | None = None) -> Store:
    """Commit each group of records as a shard with its keys."""
    with writing(store):
        transaction = Transaction.open(store) if Store.exists(store) else make(store)
        for records in groups:
            texts = {
                r.text_sha256: f"text of {r.document.name} from {r.start} on" for r in records if r.kind != Kind.RAW
            }
            transaction.commit(records, "made", keys_of(records, texts, [Words(), Vectors()]), meta)
    return transaction.store


def filled(store: Path) -> Path:
    """A store on which every verb has work."""
    put(store, exact("a", TEXT), raw("b", bytes(range(100))), exact("a", NEWER), memory("c", TEXT), kv("c", TEXT))
    rm(store, ["b"])
    return store


def content(store: Path) -> dict[str, Any]:
    """The live and unfinished documents of a store by their records, the removed ones, and the metadata."""
    opened = Store.open(store)
    live = opened.documents()

    def ids(refs: Any) -> list[str]:
        return sorted(opened.record_id(ref) for ref in refs)

    unfinished = [v for v in opened.versions() if v.unfinished and not v.usable]
    return {
        "live": {
            n: (v.document, v.complete, *map(ids, (v.records, v.memory, v.kv, v.unjoined))) for n, v in live.items()
        },
        "unfinished": sorted((v.document.name, v.document.sha256, ids(v.records)) for v in unfinished),
        "meta": {name: said for name, said in opened.manifest.meta.items() if name in live},
        "keys": {
            identity: {
                t.tobytes() for e in opened.manifest.keys if e.embedder_id == identity for t in opened.keys(e).texts
            }
            & {opened.record(r).text_sha256 for v in live.values() for r in (*v.records, *v.memory, *v.kv)}
            for identity in {e.embedder_id for e in opened.manifest.keys}
        },
    }


def files(store: Path) -> set[str]:
    """Every file of a store's folder except the lock."""
    return {f.relative_to(store).as_posix() for f in store.rglob("*") if f.is_file()} - {"LOCK"}
