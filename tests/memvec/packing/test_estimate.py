"""Estimates: of exact records as a GPU makes them, and of memories, whose bytes and positions are those that a pack gives."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from families import make
from torch import nn

import memvec
from memvec.errors import UnsupportedModelError, UsageError
from memvec.filesystem.sources import Source
from memvec.lm.fused import COMPILING, GAIN, PAYS_AFTER, Fused
from memvec.packing import context as context_records
from memvec.packing import estimate as estimating
from memvec.packing import kv as kv_records
from memvec.packing import memories
from memvec.packing.estimate import _of_whole_rows, estimate
from memvec.packing.kv import Compacting
from memvec.packing.memories import Planned
from memvec.settings import ContextSettings, KVSettings, PackSettings
from memvec.training.fit import FitEngine, Task
from memvec.training.static_batch import StaticBatch


@pytest.mark.parametrize("growth", [0, 12])
def test_token_steps_of_whole_rows_are_what_they_come_to(
    growth: int, tiny_lm: Any, tiny_settings: Callable[..., PackSettings]
) -> None:
    settings = tiny_settings(max_steps=90, growth=growth, max_corrections=0.0)
    ragged, static = FitEngine(tiny_lm, settings), FitEngine(tiny_lm, settings, StaticBatch(tiny_lm, settings))
    ragged.most = 1  # so that nothing is padded
    came_to: list[int] = []
    planned = [Task(k, tuple(range(10 + k, 42 + 3 * k - k % 2)), 4) for k in range(5)]
    for engine in (ragged, static):
        counted: list[int] = []
        engine.add(Task(task.key, task.ids, task.vectors) for task in planned)
        assert len([one for done in engine.run(counted.append) for one in done]) == 5
        came_to.append(sum(counted))
    assert came_to[1] > 1.1 * came_to[0]
    sizes = [(len(task.ids), task.vectors) for task in planned]
    assert _of_whole_rows(came_to[0], sizes, growth) == pytest.approx(came_to[1], rel=0.05)


def test_steps_that_will_be_compiled_are_reckoned_as_faster_and_compiling_as_well() -> None:
    model = nn.ModuleList([nn.Linear(2, 2)])
    for on in (True, False):
        assert Fused(model, on).seconds(PAYS_AFTER, 1e5) == pytest.approx(PAYS_AFTER / 1e5)
    more = PAYS_AFTER + 1e6
    assert Fused(model, True).seconds(more, 1e5) == pytest.approx(PAYS_AFTER / 1e5 + COMPILING + 1e6 / 1e5 / GAIN)
    assert Fused(model, False).seconds(more, 1e5) == pytest.approx(more / 1e5)


def test_a_dry_run_reckons_so_where_batches_are_a_gpus(
    tiny: str, tmp_path: Path, tiny_settings: Callable[..., PackSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.txt").write_text("It is a truth universally acknowledged, that a single man must want a wife. " * 3)
    settings = tiny_settings(max_steps=40, growth=12)

    def said() -> estimating.Estimate:
        return estimate([tmp_path / "t.txt"], tmp_path / "s", model=tiny, settings=settings)

    ragged = said()
    monkeypatch.setattr(estimating, "FitEngine", lambda lm, chosen: FitEngine(lm, chosen, StaticBatch(lm, chosen)))
    monkeypatch.setattr(Fused, "seconds", lambda self, positions, speed: 1e6)
    whole = said()
    assert whole.tokens == ragged.tokens and whole.token_steps > 1.1 * ragged.token_steps
    assert ragged.seconds < 1e6 <= whole.seconds


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask little, which takes less time."""
    for module, name, value in (
        (memories, "OFF_TOPIC", 2),
        (memories, "OFF_TOPIC_TOKENS", 4),
        (kv_records, "KEYWORD_QUESTIONS", 16),
        (context_records, "KEYWORD_QUESTIONS", 16),
        (context_records, "HELD_OUT", 2),
        (context_records, "PASSAGES", 1),
    ):
        monkeypatch.setattr(module, name, value)


@pytest.fixture
def texts(disorder: str) -> list[Source]:
    """Texts of several lengths, one of them twice, and bytes that are no text."""
    cuts = {"a": (0, 300), "b": (2000, 2900), "c": (4000, 4420), "again": (0, 300)}
    found = [Source(name, disorder[begin:end].encode()) for name, (begin, end) in cuts.items()]
    return [*found, Source("bytes", bytes(range(256)))]


@pytest.mark.parametrize(
    "kv",
    [
        KVSettings(measure="none"),
        KVSettings(ratio=3, budget="even", bits=16, window_tokens=64, measure="none"),
        KVSettings(ratio=30, bits=4, score="norm", measure="none"),
    ],
)
def test_kv_memories_take_the_bytes_of_the_estimate(
    kv: KVSettings, tiny: str, texts: list[Source], tmp_path: Path
) -> None:
    """Also in a store that is there, where a text under another name is a copy."""
    store = tmp_path / "s"
    found = estimate(texts, store, model=tiny, kind="kv", kv=kv)
    assert not store.exists()
    report = memvec.pack(texts, store, model=tiny, kind="kv", kv=kv)
    assert (found.memory_bytes, found.positions) == (report.kv_bytes, report.kv_positions)
    assert (found.records, found.text_bytes, found.reused) == (report.kv_records, report.kv_text_bytes, report.reused)
    assert (found.documents, found.skipped) == (report.documents, len(report.skipped)) == (4, 1)
    layers, heads, width = 4, 2, 32
    assert found.cache_bytes == report.kv_tokens * layers * heads * width * 2 * 2
    assert found.store_bytes == pytest.approx(report.store_bytes, rel=0.2)
    assert found.seconds > 0 and found.token_steps == 0
    more = [*texts, Source("c too", texts[2].data)]
    again = estimate(more, store, model=tiny, kind="kv", kv=kv)
    assert (again.unchanged, again.tokens, again.seconds) == (4, 0, 0)
    assert again.records == again.reused > 0
    assert again.memory_bytes == memvec.pack(more, store, model=tiny, kind="kv", kv=kv).kv_bytes - report.kv_bytes


def test_keys_that_stay_where_they_are_take_all_positions(tmp_path: Path, disorder: str) -> None:
    folder, source = str(make("gpt2", tmp_path / "gpt2")), Source("a", disorder[:200].encode())
    kv = KVSettings(measure="none", budget="even")
    found = estimate([source], tmp_path / "s", model=folder, kind="kv", kv=kv)
    report = memvec.pack([source], tmp_path / "s", model=folder, kind="kv", kv=kv)
    assert found.positions == report.kv_positions == report.kv_tokens
    assert found.memory_bytes == report.kv_bytes


def test_training_is_reckoned_by_a_few_steps(
    tiny: str, texts: list[Source], tmp_path: Path, few_rows: None, records_of: Any
) -> None:
    """With their positions. Time and positions grow with the steps."""
    kv = KVSettings(refine=10, question_rows=3, measure="none")
    found = estimate(texts[:1], tmp_path / "s", model=tiny, kind="kv", kv=kv)
    memvec.pack(texts[:1], tmp_path / "s", model=tiny, kind="kv", kv=kv)
    opened = memvec.Store.open(tmp_path / "s")
    (record,) = [opened.record(ref) for ref in opened.documents()["a"].kv]
    assert found.token_steps == pytest.approx(record.report.token_steps, rel=0.25)
    assert found.token_steps_per_second > 0
    assert found.seconds > found.token_steps / found.token_steps_per_second


def test_measuring_counts_as_often_as_the_settings_say(
    tiny: str, texts: list[Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Compacting, "measured", lambda *given: time.sleep(0.5))

    def seconds(measure: Any) -> float:
        kv = KVSettings(measure=measure, window_tokens=64)
        found = estimate(texts, tmp_path / "s", model=tiny, kind="kv", kv=kv)
        assert found.records - found.reused > 8
        return found.seconds

    none, sample, every = map(seconds, ("none", "sample", "all"))
    assert every > 4 and none < 2.5 and sample < 2.5


def test_a_batch_that_is_not_full_takes_as_long(tiny_lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, where its shape stays the same."""
    made = Compacting(tiny_lm, KVSettings(ratio=8), "", None)  # type: ignore[arg-type]
    made.batching = True
    monkeypatch.setattr(Compacting, "_documents_in", lambda self, size: 4)
    monkeypatch.setattr(Compacting, "_read", lambda self, windows: time.sleep(0.1) or [])
    planned = Planned({64: [50] * 9}, {64: [None] * 6})  # type: ignore[list-item]
    assert made._seconds_to_read(64, planned) == pytest.approx(3 * 0.1, rel=0.2)


def test_context_memories_take_the_bytes_of_the_estimate(
    tiny: str, texts: list[Source], tmp_path: Path, few_rows: None
) -> None:
    context = ContextSettings(steps=3, ratio=8, question_rows=2)
    found = estimate(texts, tmp_path / "s", model=tiny, kind="context", context=context)
    report = memvec.pack(texts, tmp_path / "s", model=tiny, kind="context", context=context)
    assert found.vectors == found.positions == report.context_vectors
    assert (found.memory_bytes, found.records) == (report.vector_bytes, report.context_records)
    assert found.token_steps == pytest.approx(report.context_token_steps, rel=0.3)
    assert found.seconds > 0 and found.store_bytes == pytest.approx(report.store_bytes, rel=0.2)
    longer = estimate(texts, tmp_path / "t", model=tiny, kind="context", context=replace(context, steps=300))
    assert longer.token_steps == pytest.approx(100 * found.token_steps, rel=0.3)


def test_what_cannot_be_packed_is_not_estimated(tiny: str, texts: list[Source], tmp_path: Path) -> None:
    mamba = str(make("mamba", tmp_path / "mamba"))
    with pytest.raises(UnsupportedModelError, match="state of fixed size"):
        estimate(texts, tmp_path / "s", model=mamba, kind="kv")
    with pytest.raises(UsageError, match="kind is 'both', expected exact, context or kv"):
        estimate(texts, tmp_path / "s", model=tiny, kind="both")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="window_tokens is 4000"):
        estimate(texts, tmp_path / "s", model=tiny, kind="kv", kv=KVSettings(window_tokens=4000))


MEASURED = """
import sys, threading, time
import memvec
from memvec.lm.device import resident_bytes

model, store, text, estimating = sys.argv[1:]
source, settings = memvec.Source("a", text.encode() * 40), memvec.PackSettings(max_steps=4, refits=0, growth=0)
if estimating == "yes":
    print(memvec.estimate([source], store, model=model, dtype="float32", settings=settings).peak_bytes)
    raise SystemExit
most = [0]

def watch():
    while True:
        most[0] = max(most[0], resident_bytes())
        time.sleep(0.002)

threading.Thread(target=watch, daemon=True).start()
memvec.pack([source], store, model=model, dtype="float32", settings=settings, reuse=False)
print(most[0])
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory of a process is read from /proc")
def test_the_memory_that_a_pack_takes(tmp_path: Path) -> None:
    """A model whose weights and activations are most of it: a dry run says what a pack then takes."""
    folder = make("llama", tmp_path / "model", hidden_size=512, intermediate_size=2048, num_hidden_layers=4)
    text = "The ferry leaves from the north pier at seven, and comes back at nine. "
    said, took = (
        int(subprocess.run(
            [sys.executable, "-c", MEASURED, str(folder), str(tmp_path / "s"), text, estimating],
            check=True, capture_output=True, text=True,
        ).stdout)
        for estimating in ("yes", "no")
    )  # fmt: skip
    assert said == pytest.approx(took, rel=0.15)
