"""Memories of keys and values, made of texts without packing."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conftest import DOCUMENTS

from memvec.kv.choose import Budget
from memvec.kv.compact import compact
from memvec.lm.frozen import FrozenLM
from memvec.memory.memory import KVPart, Memory
from memvec.packing.records import kv_record
from memvec.store.lock import writing
from memvec.store.store import Store
from memvec.store.transaction import Transaction
from memvec.types import Conditioning

UNMEASURED = Conditioning(None, None, None, None, None, None, None, 0, "kv", 0)


def kv_memory(
    model: Any, tokenizer: Any, owner: Any, text: str, ratio: float = 1.0, budget: Budget = "head", bits: int = 16
) -> Memory:
    """A memory of one text."""
    lm = FrozenLM(model, tokenizer)
    (kept,) = compact(lm, [lm.encode(text)], ratio, budget)
    return Memory((text[:8],), (), owner, {}, ((KVPart(kept.tokens, kept.stored(bits)),),))


def with_kv(
    store: Path, copy: Path, lm: FrozenLM, names: Sequence[str], budget: Budget = "head", windows: int = 1
) -> Path:
    """Copy a store, and add kv memories of some of the documents of `conftest`, each in so many windows."""
    shutil.copytree(store, copy)
    opened, records = Store.open(copy), []
    for name in names:
        ids, start = lm.encode(DOCUMENTS[name].decode()), 0
        for number in range(windows):
            part = ids[len(ids) * number // windows : len(ids) * (number + 1) // windows]
            text = lm.decode(part).encode()
            (kept,) = compact(lm, [part], 2.0, budget)
            made = kept.stored(8)
            document = opened.documents()[name].document
            records.append(kv_record(document, start, text, len(part), made, UNMEASURED, width=lm.width))
            start += len(text)
    with writing(copy):
        Transaction(opened).commit(records)
    return copy
