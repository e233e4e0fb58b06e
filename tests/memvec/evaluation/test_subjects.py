"""Memories of keys and values are read from a store and judged like any others."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from made import put

from memvec.cli.render_evaluation import evaluation as table
from memvec.errors import ConditioningError
from memvec.evaluation.controls import noise, size
from memvec.evaluation.evaluate import evaluate
from memvec.evaluation.questions import Question
from memvec.evaluation.subjects import subjects
from memvec.identity.runtime import runtime_of
from memvec.kv.compact import compact
from memvec.kv.selection import Selection
from memvec.packing.records import kv_record
from memvec.store.store import Store
from memvec.types import Conditioning

UNMEASURED = Conditioning(None, None, None, None, None, None, None, 0, "", 0)
Maker = Callable[..., Path]


@pytest.fixture
def kv_store(memories: Path, tiny_lm: Any, packed_bytes: dict[str, bytes], tmp_path: Path) -> Maker:
    """Add kv memories to a copy of `memories`, each of windows of so many bytes."""

    def make(ratio: float = 4, budget: Any = "head", bits: int = 16, window: int = 1000, count: int = 3) -> Path:
        store = tmp_path / "kv.memvec"
        shutil.copytree(memories, store)
        live = Store.open(store).documents()
        for name in list(packed_bytes)[:count]:
            whole, records = packed_bytes[name], []
            for begin in range(0, len(whole), window):
                data = whole[begin : begin + window]
                ids = tiny_lm.encode(data.decode())
                kept = compact(tiny_lm, [ids], ratio, budget)[0].stored(bits)
                records.append(
                    kv_record(live[name].document, begin, data, len(ids), kept, UNMEASURED, width=tiny_lm.width)
                )
            put(store, records)
        return store

    return make


@pytest.fixture
def asked(passages: dict[str, str]) -> list[Question]:
    """Questions that the tiny LM can answer from the text."""
    return [
        Question(name, text[at : at + 5], text[at + 5 : at + 45]) for name, text in passages.items() for at in (20, 90)
    ]


def test_whole(kv_store: Maker, asked: list[Question], packed_bytes: dict[str, bytes]) -> None:
    """A memory of all keys and values is worth what the text is, in every figure."""
    store = kv_store(ratio=1, budget="even")
    found = evaluate(store, asked, texts=packed_bytes)
    assert found.kind == "kv" and found.documents > 0
    assert found.nll["memory"] == pytest.approx(found.nll["text"], abs=2e-3) == pytest.approx(found.nll["first"])
    assert found.gain == pytest.approx(1, abs=0.01) and abs(found.shuffled - 1) > 0.05  # type: ignore[operator]
    assert found.harm == pytest.approx(0, abs=2e-3)
    for scores in (found.answered, found.f1, found.contained):
        assert scores["memory"] == scores["text"]
    assert found.costs.positions_memory == found.costs.positions_text
    assert found.costs.cache_memory == found.costs.cache_text


@pytest.mark.parametrize("budget", ["head", "even"])
def test_figures(kv_store: Maker, asked: list[Question], packed_bytes: dict[str, bytes], budget: str) -> None:
    """All controls are there. A quarter of the rows takes a quarter of the cache, and half its bytes in the store."""
    found = evaluate(kv_store(budget=budget, bits=8), asked, texts=packed_bytes, off_topic=False)
    named = ("none", "text", "memory", "shuffled", "random", "first", "last", "shuffled_text")
    assert len({found.nll[name] for name in (*named, "2")}) == len(named) + 1 and found.company["4"] is None
    assert found.costs.positions_memory == pytest.approx(found.costs.positions_text / 4, abs=0.5)
    assert found.costs.cache_memory == pytest.approx(found.costs.cache_text / 4, rel=0.02)
    assert (
        0.25 < found.costs.stored_memory / found.costs.cache_memory < 0.6
    )  # 8 bits in place of 32, with places and scales
    assert found.costs.stored_text == pytest.approx(sum(map(len, packed_bytes.values())) / 3)
    assert found.costs.place_memory is not None and found.costs.place_memory > 0
    shown = table(found)
    for words in (
        "kv memories",
        "noise of its size",
        "times faster, as it reads the question only",
        "in its place",
        "stored bytes",
    ):
        assert words in shown


def test_kinds(kv_store: Maker, asked: list[Question], packed_bytes: dict[str, bytes], memories: Path) -> None:
    """Without a choice, kv memories are judged if every document has one."""
    some = kv_store(count=2)

    def judged(store: Path, questions: list[Question], kind: str = "auto") -> str:
        return evaluate(store, questions, texts=packed_bytes, off_topic=False, template="plain", kind=kind).kind

    assert judged(some, asked[:4]) == "kv" and judged(some, asked) == "context"
    assert judged(some, asked[:4], "context") == "context"
    with pytest.raises(ConditioningError, match=r"'c/d\.txt' has no keys and values"):
        judged(some, asked, "kv")


@pytest.mark.parametrize("kind", ["kv", "context"])
def test_records_are_read_once(
    kind: str, kv_store: Maker, asked: list[Question], packed_bytes: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory, its size and its seconds come from one reading of each record."""
    runtime, read, seen = runtime_of(kv_store(window=300)), Store.record, []
    live = runtime.store.documents()
    wanted = [ref for name in packed_bytes for ref in (live[name].kv if kind == "kv" else live[name].memory)]
    monkeypatch.setattr(Store, "record", lambda store, ref: seen.append(ref) or read(store, ref))
    found = subjects(runtime, list(packed_bytes), asked, kind, packed_bytes, runtime.store, "text")
    assert [ref for ref in seen if ref in wanted] == wanted
    records = [runtime.store.record(ref) for ref in wanted]
    assert sum(one.seconds for one in found) == pytest.approx(sum(record.report.seconds for record in records))
    assert sum(one.stored for one in found) == sum(
        record.vectors.nbytes if record.kv is None else record.kv.nbytes for record in records
    )


def test_windows(kv_store: Maker, asked: list[Question], packed_bytes: dict[str, bytes]) -> None:
    """The memories of windows stand one behind another: all are seen, and the last one as if it were alone behind them."""
    opened = runtime_of(kv_store(window=150))
    (found,) = subjects(opened, ["a.txt"], asked, "kv", packed_bytes, opened.store, "text")
    refs = opened.store.documents()["a.txt"].kv
    parts = [Selection.of(r.kv, r.tokens) for r in map(opened.store.record, refs) if r.kv is not None]
    assert len(parts) == 3 and isinstance(found.memory, Selection)
    assert found.memory.positions == sum(part.positions for part in parts)
    assert found.memory.tokens == sum(part.tokens for part in parts)
    assert found.memory.counts.equal(sum(part.counts for part in parts))  # type: ignore[arg-type]
    assert size(found.memory) == sum(map(size, parts))
    following = [parts[1].tokens + parts[2].tokens, parts[2].tokens, 0]
    for head, rows in enumerate(torch.split(found.memory.distances, found.memory.counts.flatten().tolist())):
        own = [torch.split(part.distances, part.counts.flatten().tolist())[head] for part in parts]
        assert rows.tolist() == [d for one, more in zip(own, following, strict=True) for d in (one + more).tolist()]
    keys = torch.split(found.memory.keys, found.memory.counts.flatten().tolist())
    last = torch.split(parts[2].keys, parts[2].counts.flatten().tolist())
    for all_keys, own_keys in zip(keys, last, strict=True):
        assert all_keys[len(all_keys) - len(own_keys) :].equal(own_keys)


def test_noise(tiny_lm: Any, passages: dict[str, str]) -> None:
    """Noise has the size of the keys and values of each head, and the places of the memory."""
    (kept,) = compact(tiny_lm, [tiny_lm.encode(passages["a.txt"])], 2)
    made, again, other = noise(kept, 1), noise(kept, 1), noise(kept, 2)
    assert isinstance(made, Selection) and isinstance(again, Selection) and isinstance(other, Selection)
    assert made.keys.equal(again.keys) and not made.keys.equal(other.keys)
    assert made.distances is kept.distances and made.counts is kept.counts
    counts = kept.counts.flatten().tolist()
    for name in ("keys", "values"):
        pairs = zip(*(torch.split(getattr(one, name), counts) for one in (made, kept)), strict=True)
        for drawn, real in pairs:
            if len(real) > 20:
                assert float(drawn.square().mean() / real.square().mean()) == pytest.approx(1, abs=0.3)
