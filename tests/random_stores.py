"""Stores of random commits: documents with gaps and newer versions, memories, and versions that were removed."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from pathlib import Path

import numpy as np
from made_kv import keys_values

from memvec.formats.manifest import Manifest
from memvec.packing.records import context_record, kv_record, raw_records
from memvec.store.store import Store
from memvec.store.transaction import Transaction
from memvec.types import Conditioning, Document, Fingerprint, FitReport, Kind, RawReason, Record

WIDTH = 4
NAMES = ["a.txt", "b/c.txt", "b/d", "é.txt", "zz", "日本.txt"]
TEXTS = [b"", b"x", bytes(range(60)), b"some text of a few words " * 3, b"another version, somewhat longer " * 3]


def document(name: str, data: bytes, share: int = 20) -> Document:
    return Document(name, len(data), hashlib.sha256(data).hexdigest(), share, len(data) // 3)


def exact(of: Document, start: int, piece: bytes, chance: random.Random) -> Record:
    count = chance.randint(1, 3)
    report = FitReport(chance.randint(1, 9), chance.randint(1, 99), 3.0, 1.0, 0, 0, 0.5, chance.random())
    return Record(
        document=of,
        kind=Kind.EXACT,
        start=start,
        length=len(piece),
        tokens=chance.randint(1, 20),
        vectors=np.full((count, WIDTH), chance.random(), np.float16),
        corrections=(),
        payload=b"",
        text_sha256=hashlib.sha256(piece).digest(),
        reason=RawReason.NONE,
        report=dataclasses.replace(report, corrected_wrong=chance.randint(0, 2)),
    )


def some_records(chance: random.Random) -> list[Record]:
    """Records of some documents, mostly whole, with cuts and gaps of their own, in any order."""
    found: list[Record] = []
    for _ in range(chance.randint(1, 4)):
        data = chance.choice(TEXTS)
        of = document(chance.choice(NAMES), data, chance.randint(1, 50))
        cuts = sorted({0, len(data), *(chance.randint(0, len(data)) for _ in range(chance.randint(0, 3)))})
        kind = chance.choice(list(Kind))
        made = []
        for begin, end in zip(cuts, cuts[1:] or [len(data)], strict=False):
            piece = data[begin:end]
            if kind == Kind.RAW:
                reason = chance.choice([RawReason.NOT_TEXT, RawReason.NO_FIT])
                made += raw_records(of, begin, piece, 2, reason, WIDTH)
            elif kind == Kind.EXACT:
                made.append(exact(of, begin, piece, chance))
            else:
                gain, harm = (chance.choice([None, chance.random()]) for _ in range(2))
                told = Conditioning(gain, 0.1, None, harm, 3.0, 2.0, 2.5, 8, "made up", 0)
                if kind == Kind.KV:
                    kept = keys_values(chance.randint(0, 9), chance.choice([4, 8, 16]), chance.randint(4, 9))
                    made.append(kv_record(of, begin, piece, 1 + len(piece), kept, told, width=WIDTH))
                    continue
                vectors = np.full((chance.randint(1, 3), WIDTH), 0.5, np.float16)
                made.append(context_record(of, begin, piece, 1 + len(piece), vectors, told))
        if chance.random() < 0.3:
            made.pop(chance.randrange(len(made)))
        found += made
    chance.shuffle(found)
    return found


def random_store(path: Path, seed: int) -> Store:
    """A store of random commits, in some of which documents are removed or brought back."""
    chance = random.Random(seed)
    fingerprint = Fingerprint("w", "e", {"hidden_size": WIDTH}, "v", "p", WIDTH, "somewhere")
    transaction = Transaction.create(path, Manifest(fingerprint, 500))
    for _ in range(chance.randint(0, 9)):
        records, removed = some_records(chance), None
        versions = sorted({(v.document.name, v.document.sha256) for v in transaction.store.versions()})
        if versions and chance.random() < 0.3:
            removed = chance.sample(versions, chance.randint(0, len(versions)))
        transaction.commit(records, removed=removed, meta={"zz": {"k": "v"}} if chance.random() < 0.2 else None)
    return Store.open(path)
