"""Packing memories with the tiny LM: what is stored, what is measured, what goes on where it was, what is refused."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import memvec
from memvec import off_topic
from memvec.errors import (
    ConditioningError,
    InterruptedPackError,
    NoContentError,
    NotFoundError,
    PartialError,
    UsageError,
)
from memvec.evaluation.questions import Question
from memvec.filesystem.sources import Source
from memvec.memory.memory import load
from memvec.packing.context import Distilling
from memvec.packing.memories import Asking
from memvec.progress import Progress
from memvec.settings import ContextSettings, PackSettings


def test_a_memory_is_stored_with_what_was_measured_of_it(memories: Path, passages: dict[str, str]) -> None:
    rows = {row.name: row for row in memvec.list(memories)}
    assert set(rows) == set(passages)
    opened = memvec.Store.open(memories)
    for name, row in rows.items():
        (ref,) = opened.documents()[name].memory
        record = opened.record(ref)
        assert row.memory == len(record.vectors) == round(row.tokens / 4)
        found = record.conditioning
        assert found is not None and found.held_out >= 4 and found.harm is not None
        # The tiny LM never saw a question: its own gain from the text is nothing, and none of nothing is kept.
        assert (found.gain is None) == (found.nll_none - found.nll_text < 0.1)
        assert record.report.steps == 30 and record.report.token_steps > 30 * row.tokens
    assert len(load(memories, ["a.txt", "b.txt"])) == rows["a.txt"].memory + rows["b.txt"].memory
    report = memvec.info(memories)
    assert report.context_records == 3 and report.context_token_steps > 0 and not report.exact


def test_a_memory_gives_no_document_back(memories: Path, tmp_path: Path) -> None:
    with pytest.raises(NoContentError, match="only a memory"):
        memvec.cat(memories, "a.txt")
    with pytest.raises(NoContentError):
        memvec.unpack(memories, tmp_path / "out")


def test_exact_vectors_are_refused_for_conditioning_with_the_ways_out(store: Path) -> None:
    with pytest.raises(ConditioningError, match=r"kind='kv'.*memvec\.cat"):
        load(store, "prose.txt")
    with pytest.raises(UsageError, match="expected auto, context, kv or exact"):
        load(store, "prose.txt", "exakt")
    assert len(load(store, "prose.txt", "exact")) == {row.name: row for row in memvec.list(store)}["prose.txt"].vectors
    with pytest.raises(NotFoundError):
        load(store, "nobody")


def test_both_kinds_stand_side_by_side_and_each_is_made_once(
    sources: list[Source], tiny: str, tmp_path: Path, quick: ContextSettings
) -> None:
    store, settings = (
        tmp_path / "s.memvec",
        PackSettings(nats_per_vector=9.0, segment_tokens=32, max_steps=150, learning_rate=1.0),
    )
    short = replace(quick, steps=2)
    options: dict[str, Any] = {"model": tiny, "settings": settings, "context": short, "dtype": "float32"}
    memvec.pack(sources[:1], store, kind="exact", **options)
    report = memvec.pack(sources[:1], store, kind="both", **options)
    assert (report.unchanged, report.context_records, report.exact) == (0, 1, True)
    shards = len(memvec.Store.open(store).manifest.shards)
    assert memvec.pack(sources[:1], store, kind="both", **options).unchanged == 1
    assert len(memvec.Store.open(store).manifest.shards) == shards == 2
    assert memvec.cat(store, "a.txt") == sources[0].data
    assert load(store, "a.txt").vectors.shape[1] == 128


def test_documents_without_text_are_skipped_and_named(
    tiny: str, sources: list[Source], tmp_path: Path, quick: ContextSettings
) -> None:
    store = tmp_path / "s.memvec"
    picture = Source("image.png", b"\x89PNG\xff\xfe")
    options: dict[str, Any] = {"model": tiny, "kind": "context", "context": replace(quick, steps=2)}
    report = memvec.pack([*sources[:1], picture], store, **options)
    ((name, reason),) = report.skipped
    assert name == "image.png" and reason.startswith("not valid UTF-8") and report.context_records == 1
    with pytest.raises(PartialError, match=r"Nothing else was there to pack.\n  image\.png: not valid UTF-8"):
        memvec.pack([picture], tmp_path / "none.memvec", **options)
    assert not (tmp_path / "none.memvec").exists()


def test_long_documents_share_out_over_windows(
    tiny: str, tmp_path: Path, disorder: str, quick: ContextSettings
) -> None:
    store, text = tmp_path / "s.memvec", disorder[10_000:11_500]
    memvec.pack(
        [Source("long.txt", text.encode())], store, model=tiny, kind="context",
        context=replace(quick, steps=2, window_tokens=128),
    )  # fmt: skip
    opened = memvec.Store.open(store)
    records = [opened.record(ref) for ref in opened.documents()["long.txt"].memory]
    assert len(records) > 2
    assert [r.start for r in records] == [0, *(r.start + r.length for r in records[:-1])]
    assert max(r.tokens for r in records) <= 1.25 * 128
    assert all(r.conditioning and r.conditioning.shuffled is None for r in records)  # no other document to take


def test_an_interrupted_pack_keeps_finished_windows(
    tiny: str, sources: list[Source], tmp_path: Path, quick: ContextSettings
) -> None:
    store, settings = tmp_path / "s.memvec", replace(quick, steps=3, memory=1)  # one slot at a time

    def stop(progress: Progress) -> None:
        if progress.segments_done == 2 and progress.stage == "distilling":
            raise KeyboardInterrupt

    with pytest.raises(InterruptedPackError):
        memvec.pack(sources, store, model=tiny, kind="context", context=settings, watch=stop)
    assert len(memvec.list(store)) == 2
    before = memvec.Store.open(store).manifest.shards
    report = memvec.pack(sources, store, model=tiny, kind="context", context=settings)
    assert report.unchanged == 2 and memvec.Store.open(store).manifest.shards[: len(before)] == before
    assert len(memvec.list(store)) == 3


def test_a_window_is_asked_by_rule_and_only_what_it_holds(
    tiny_lm: Any, passages: dict[str, str], quick: ContextSettings
) -> None:
    from memvec.packing.plan import Window
    from memvec.training.segments import Segment
    from memvec.types import Document

    text, document = passages["a.txt"], Document("a.txt", 330, "0" * 64, 0, 90)
    window = Window(document, Segment(0, 330, tuple(tiny_lm.encode(text))), text)
    given = [
        Question("a.txt", "here?", text[5:25]),
        Question("a.txt", "elsewhere?", "zzz"),
        Question("b.txt", "b?", text[:9]),
    ]
    plain = Distilling(tiny_lm, quick)._task(0, window)
    asked = Distilling(tiny_lm, quick, given)._task(0, window)
    (rows,), (more,) = plain.questions, asked.questions  # no chat template: one prompt prefix
    assert len(rows) > 32 and len(more) == len(rows) + 1 and plain.document == "a.txt"
    for row in rows:
        assert tiny_lm.decode(row.ids[row.start :]).strip() in text
    prompts = Asking(tiny_lm, quick.seed).off_topic("text")
    assert len(prompts) == 96 and all(tiny_lm.decode(row.ids[: row.start]).endswith("\nAnswer:") for row in prompts)
    assert all(0 not in row.ids[row.start : -1] for row in prompts)  # 0 ends an answer


def test_beginnings_share_out_what_is_asked_aside(tiny_lm: Any, chat: Any, quick: ContextSettings) -> None:
    lm = copy.copy(tiny_lm)
    lm.tokenizer = chat
    asked = {form: Asking(lm, quick.seed).off_topic(form) for form in ("text", "chat")}
    heads = {form: [lm.decode(row.ids[: row.start]) for row in rows] for form, rows in asked.items()}
    assert {form: len(rows) for form, rows in asked.items()} == {"text": 48, "chat": 48}
    for number, prompt in enumerate(off_topic.prompts()[:96]):
        form, other = ("chat", "text") if number % 2 else ("text", "chat")
        assert prompt in heads[form][number // 2] and not any(prompt in head for head in heads[other])


def test_questions_and_a_generator_are_learnt_from(
    tiny: str, sources: list[Source], tmp_path: Path, passages: dict[str, str], quick: ContextSettings
) -> None:
    asked: list[tuple[str, int]] = []

    def generate(text: str, count: int) -> list[tuple[str, str]]:
        asked.append((text, count))
        return [("Who came?", "the carriage")]

    made = []
    for number, options in enumerate(
        ({}, {"generate": generate}, {"questions": [Question("a.txt", "Who?", passages["a.txt"][:20])]})
    ):
        store = tmp_path / f"{number}.memvec"
        context = replace(quick, steps=3, question_rows=200)  # all of them, every step
        memvec.pack(sources[:1], store, model=tiny, kind="context", context=context, dtype="float32", **options)
        made.append(load(store, "a.txt").vectors)
    assert asked == [(passages["a.txt"], 64)]
    assert (made[0] != made[1]).any() and (made[0] != made[2]).any()


@pytest.mark.parametrize(
    ("changes", "fragment"), [({"ratio": 17}, "gist=True"), ({"ratio": 0.5}, "ratio"), ({"steps": 0}, "steps")]
)
def test_invalid_settings(changes: dict[str, Any], fragment: str) -> None:
    with pytest.raises(UsageError, match=fragment):
        ContextSettings(**changes)
    assert ContextSettings(ratio=32, gist=True).vectors_for(64) == 2


@pytest.mark.parametrize("kind", ["exact", "context"])
def test_a_document_put_back_as_it_was_is_live_again(
    kind: Any, tiny: str, tmp_path: Path, passages: dict[str, str], quick: ContextSettings
) -> None:
    store, settings = tmp_path / "s.memvec", PackSettings(nats_per_vector=9.0, segment_tokens=32, learning_rate=1.0)
    options: dict[str, Any] = {"model": tiny, "kind": kind, "settings": settings, "context": replace(quick, steps=2)}
    for text in (passages["a.txt"], passages["b.txt"], passages["a.txt"]):
        memvec.pack([Source("same.txt", text.encode())], store, dtype="float32", **options)
    (row,) = memvec.list(store)
    assert row.sha256 == Source("", passages["a.txt"].encode()).sha256
    if kind == "exact":
        assert memvec.cat(store, "same.txt") == passages["a.txt"].encode()


def test_questions_about_nobody_are_refused(sources: list[Source], tiny: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'nobody'"):
        memvec.pack(sources, tmp_path / "s", model=tiny, kind="context", questions=[Question("nobody", "q", "a")])


def test_an_unknown_kind_is_refused(sources: list[Source], tiny: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exact, context, kv or both"):
        memvec.pack(sources, tmp_path / "s", model=tiny, kind="all")  # type: ignore[arg-type]


def test_the_vectors_put_in_front_are_those_of_the_store(memories: Path, tiny_lm: Any) -> None:
    memory = load(memories, "a.txt")
    (record,) = [
        memvec.Store.open(memories).record(ref) for ref in memvec.Store.open(memories).documents()["a.txt"].memory
    ]
    assert (memory.vectors == record.vectors).all()
    kwargs = memory.generate_kwargs(tiny_lm.model, tiny_lm.tokenizer, "The ladies")
    assert torch.equal(kwargs["inputs_embeds"][0, : len(memory)], torch.from_numpy(memory.vectors).float())
