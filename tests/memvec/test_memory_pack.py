"""Packing memories with the tiny LM: what is stored, what is measured, what goes on where it was, what is refused."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import memvec
from memvec.errors import (
    ConditioningError,
    InterruptedPackError,
    NoContentError,
    NotFoundError,
    PartialError,
    UsageError,
)
from memvec.evaluation import evaluate
from memvec.forms import question_row
from memvec.memory import load
from memvec.progress import Progress
from memvec.questions import Question
from memvec.rows import score
from memvec.settings import ContextSettings, PackSettings
from memvec.sources import Source

WORDS = (Path(__file__).parents[1] / "tiny" / "corpus.txt").read_text().split()
CORPUS = " ".join(
    random.Random(0).sample(WORDS, len(WORDS))
)  # the tiny LM knows the book, but not its words in any order
TEXTS = {"a.txt": CORPUS[30_000:30_330], "b.txt": CORPUS[60_000:60_300], "c/d.txt": CORPUS[90_000:90_350]}
BYTES = {name: text.encode() for name, text in TEXTS.items()}
# The tiny LM never saw a question, but goes on with a text it has before it.
QUICK = ContextSettings(
    steps=30, aside_rows=1, question_rows=2, span=16, span_share=1.0, span_weight=1.0, learning_rate=0.1
)


@pytest.fixture(scope="module")
def sources() -> list[Source]:
    return [Source(name, text.encode()) for name, text in TEXTS.items()]


@pytest.fixture(scope="module")
def memories(sources: list[Source], tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of memories alone. Not to be changed."""
    store = tmp_path_factory.mktemp("memories") / "m.memvec"
    memvec.pack(sources, store, model=tiny, kind="context", context=QUICK, dtype="float32")
    return store


def test_a_memory_is_stored_with_what_was_measured_of_it(memories: Path) -> None:
    rows = {row.name: row for row in memvec.list(memories)}
    assert set(rows) == set(TEXTS)
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
    with pytest.raises(NoContentError, match="context vectors"):
        memvec.cat(memories, "a.txt")
    with pytest.raises(NoContentError):
        memvec.unpack(memories, tmp_path / "out")


def test_exact_vectors_are_refused_for_conditioning_with_the_ways_out(store: Path) -> None:
    with pytest.raises(ConditioningError, match=r"--kind context.*memvec cat"):
        load(store, "prose.txt")
    with pytest.raises(UsageError, match="expected context or exact"):
        load(store, "prose.txt", "exakt")
    assert len(load(store, "prose.txt", "exact")) == {row.name: row for row in memvec.list(store)}["prose.txt"].vectors
    with pytest.raises(NotFoundError):
        load(store, "nobody")


def test_both_kinds_stand_side_by_side_and_each_is_made_once(sources: list[Source], tiny: str, tmp_path: Path) -> None:
    store, settings = (
        tmp_path / "s.memvec",
        PackSettings(nats_per_vector=9.0, segment_tokens=32, max_steps=150, learning_rate=1.0),
    )
    short = replace(QUICK, steps=2)
    options: dict[str, Any] = {"model": tiny, "settings": settings, "context": short, "dtype": "float32"}
    memvec.pack(sources[:1], store, kind="exact", **options)
    report = memvec.pack(sources[:1], store, kind="both", **options)
    assert (report.unchanged, report.context_records, report.exact) == (0, 1, True)
    shards = len(memvec.Store.open(store).manifest.shards)
    assert memvec.pack(sources[:1], store, kind="both", **options).unchanged == 1
    assert len(memvec.Store.open(store).manifest.shards) == shards == 2
    assert memvec.cat(store, "a.txt") == sources[0].data
    assert load(store, "a.txt").vectors.shape[1] == 128


def test_documents_without_text_are_skipped_and_named(tiny: str, sources: list[Source], tmp_path: Path) -> None:
    store = tmp_path / "s.memvec"
    picture = Source("image.png", b"\x89PNG\xff\xfe")
    with pytest.raises(PartialError, match=r"image\.png: not valid UTF-8") as caught:
        memvec.pack([*sources[:1], picture], store, model=tiny, kind="context", context=replace(QUICK, steps=2))
    assert caught.value.report is not None and caught.value.report.context_records == 1


def test_long_documents_share_out_over_windows(tiny: str, tmp_path: Path) -> None:
    store, text = tmp_path / "s.memvec", CORPUS[10_000:11_500]
    memvec.pack(
        [Source("long.txt", text.encode())], store, model=tiny, kind="context",
        context=replace(QUICK, steps=2, window_tokens=128),
    )  # fmt: skip
    opened = memvec.Store.open(store)
    records = [opened.record(ref) for ref in opened.documents()["long.txt"].memory]
    assert len(records) > 2
    assert [r.start for r in records] == [0, *(r.start + r.length for r in records[:-1])]
    assert max(r.tokens for r in records) <= 1.25 * 128
    assert all(r.conditioning and r.conditioning.shuffled is None for r in records)  # no other document to take


def test_an_interrupted_pack_keeps_finished_windows(tiny: str, sources: list[Source], tmp_path: Path) -> None:
    store, settings = tmp_path / "s.memvec", replace(QUICK, steps=3, memory=1)  # one slot at a time

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


def test_a_window_is_asked_by_rule_and_only_what_it_holds(tiny_lm: Any) -> None:
    from memvec.distilling import Distilling
    from memvec.segment import Segment
    from memvec.types import Document
    from memvec.windows import Window

    text, document = TEXTS["a.txt"], Document("a.txt", 330, "0" * 64, 0, 90)
    window = Window(document, Segment(0, 330, tuple(tiny_lm.encode(text))), text)
    given = [
        Question("a.txt", "here?", text[5:25]),
        Question("a.txt", "elsewhere?", "zzz"),
        Question("b.txt", "b?", text[:9]),
    ]
    plain = Distilling(tiny_lm, QUICK)._task(0, window)
    asked = Distilling(tiny_lm, QUICK, given)._task(0, window)
    (rows,), (more,) = plain.questions, asked.questions  # no chat template: one beginning
    assert len(rows) > 32 and len(more) == len(rows) + 1 and plain.document == "a.txt"
    for row in rows:
        assert tiny_lm.decode(row.ids[row.start :]).strip() in text
    aside = Distilling(tiny_lm, QUICK)._aside("text")
    assert len(aside) == 96 and all(tiny_lm.decode(row.ids[: row.start]).endswith("\nAnswer:") for row in aside)
    assert all(0 not in row.ids[row.start : -1] for row in aside)  # 0 ends an answer


def test_questions_and_a_generator_are_learnt_from(tiny: str, sources: list[Source], tmp_path: Path) -> None:
    asked: list[tuple[str, int]] = []

    def generate(text: str, count: int) -> list[tuple[str, str]]:
        asked.append((text, count))
        return [("Who came?", "the carriage")]

    made = []
    for number, options in enumerate(
        ({}, {"generate": generate}, {"questions": [Question("a.txt", "Who?", TEXTS["a.txt"][:20])]})
    ):
        store = tmp_path / f"{number}.memvec"
        context = replace(QUICK, steps=3, question_rows=200)  # all of them, every step
        memvec.pack(sources[:1], store, model=tiny, kind="context", context=context, dtype="float32", **options)
        made.append(load(store, "a.txt").vectors)
    assert asked == [(TEXTS["a.txt"], 64)]
    assert (made[0] != made[1]).any() and (made[0] != made[2]).any()


@pytest.mark.parametrize(
    ("changes", "fragment"), [({"ratio": 17}, "--gist"), ({"ratio": 0.5}, "ratio"), ({"steps": 0}, "steps")]
)
def test_settings_that_cannot_be_meant_are_refused(changes: dict[str, Any], fragment: str) -> None:
    with pytest.raises(UsageError, match=fragment):
        ContextSettings(**changes)
    assert ContextSettings(ratio=32, gist=True).vectors_for(64) == 2


@pytest.mark.parametrize("kind", ["exact", "context"])
def test_a_document_put_back_as_it_was_is_live_again(kind: Any, tiny: str, tmp_path: Path) -> None:
    store, settings = tmp_path / "s.memvec", PackSettings(nats_per_vector=9.0, segment_tokens=32, learning_rate=1.0)
    options: dict[str, Any] = {"model": tiny, "kind": kind, "settings": settings, "context": replace(QUICK, steps=2)}
    for text in (TEXTS["a.txt"], TEXTS["b.txt"], TEXTS["a.txt"]):
        memvec.pack([Source("same.txt", text.encode())], store, dtype="float32", **options)
    (row,) = memvec.list(store)
    assert row.sha256 == Source("", TEXTS["a.txt"].encode()).sha256
    if kind == "exact":
        assert memvec.cat(store, "same.txt") == TEXTS["a.txt"].encode()


def test_questions_about_nobody_are_refused(sources: list[Source], tiny: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'nobody'"):
        memvec.pack(sources, tmp_path / "s", model=tiny, kind="context", questions=[Question("nobody", "q", "a")])


def test_an_unknown_kind_is_refused(sources: list[Source], tiny: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exact, context, both"):
        memvec.pack(sources, tmp_path / "s", model=tiny, kind="all")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def asked() -> list[Question]:
    """Questions that the tiny LM can answer from the text: how a passage goes on."""
    return [
        Question(name, text[at : at + 5], text[at + 5 : at + 45])
        for name, text in TEXTS.items()
        for at in range(20, 240, 40)
    ]


def test_an_evaluation_shows_the_gain_beside_every_control(memories: Path, asked: list[Question], tiny_lm: Any) -> None:
    found = evaluate(memories, asked, texts=BYTES, template="plain")
    assert found.documents + found.skipped == 3
    assert found.gain is not None and found.shuffled is not None and found.random is not None
    # On the tiny LM no control may be compared with the gain: any words of the book help it with any others.
    tokens = nats = 0.0
    for question in (q for q in asked if q.document in found.by_document):
        row = question_row(tiny_lm.tokenizer, question.question, question.answer, "plain")
        front = torch.from_numpy(load(memories, question.document).vectors).float()
        nats, tokens = nats + score(tiny_lm, front, [row])[0], tokens + row.scored
    assert found.nll["memory"] == pytest.approx(nats / tokens, abs=1e-4)
    assert (
        len({found.nll[name] for name in ("none", "text", "memory", "shuffled", "random", "first", "last", "2")}) == 8
    )
    assert set(found.text_at_equal_positions) == {"first", "last", "sentences"}
    assert found.company["2"] is not None and found.company["4"] is None  # only three documents are there
    assert found.exact is None
    assert set(found.off_topic.accuracy) == {"none", "text", "memory"}
    assert found.harm == pytest.approx(found.off_topic.nll["memory"] - found.off_topic.nll["text"])
    assert found.costs.cache_memory / found.costs.cache_text == pytest.approx(
        found.costs.positions_memory / found.costs.positions_text
    )
    whole = {name: found.nll[name] for name in ("none", "text", "memory")}
    assert found.gain == pytest.approx((whole["none"] - whole["memory"]) / (whole["none"] - whole["text"]))  # type: ignore[operator]


def test_an_evaluation_reads_texts_and_exact_vectors_from_the_store(
    tiny: str, sources: list[Source], asked: list[Question], tmp_path: Path
) -> None:
    store = tmp_path / "s.memvec"
    settings = PackSettings(nats_per_vector=9.0, segment_tokens=32, max_steps=150, learning_rate=1.0)
    memvec.pack(
        sources[:2], store, model=tiny, kind="both", settings=settings, context=replace(QUICK, steps=3), dtype="float32"
    )
    found = evaluate(store, [q for q in asked if q.document != "c/d.txt"], template="plain")
    given = evaluate(store, [q for q in asked if q.document != "c/d.txt"], texts=BYTES, template="plain")
    assert found.exact is not None and (found.gain, found.nll) == (given.gain, given.nll)


def test_evaluations_that_cannot_be_are_refused(memories: Path, store: Path) -> None:
    with pytest.raises(NotFoundError, match="no question is about"):
        evaluate(memories, [Question("nobody", "q", "a")])
    with pytest.raises(UsageError, match=r"text of 'a\.txt'"):
        evaluate(memories, [Question("a.txt", "q", "a")], texts={"b.txt": b""})
    with pytest.raises(UsageError, match="--texts FOLDER"):
        evaluate(memories, [Question("a.txt", "q", "a")])
    with pytest.raises(UsageError, match="not the one that was packed"):
        evaluate(memories, [Question("a.txt", "q", "a")], texts={"a.txt": b"something else"})
    with pytest.raises(ConditioningError):
        evaluate(store, [Question("prose.txt", "q", "a")])


def test_documents_whose_text_is_of_no_use_are_left_out_and_counted(memories: Path, asked: list[Question]) -> None:
    nonsense = [Question("a.txt", "zq", "xx yy zz"), *(q for q in asked if q.document == "b.txt")]
    found = evaluate(memories, nonsense, texts=BYTES, template="plain")
    assert (found.documents, found.skipped) == (1, 1) and list(found.by_document) == ["b.txt"]


def test_the_vectors_put_in_front_are_those_of_the_store(memories: Path, tiny_lm: Any) -> None:
    memory = load(memories, "a.txt")
    (record,) = [
        memvec.Store.open(memories).record(ref) for ref in memvec.Store.open(memories).documents()["a.txt"].memory
    ]
    assert (memory.vectors == record.vectors).all()
    kwargs = memory.generate_kwargs(tiny_lm.model, tiny_lm.tokenizer, "The ladies")
    assert torch.equal(kwargs["inputs_embeds"][0, : len(memory)], torch.from_numpy(memory.vectors).float())


def test_json_of_a_questions_file_goes_through_the_program(
    memories: Path, asked: list[Question], tmp_path: Path
) -> None:
    from click.testing import CliRunner

    from memvec.cli.main import program

    folder, file = tmp_path / "texts", tmp_path / "q.jsonl"
    for name, text in TEXTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    file.write_text(
        "".join(json.dumps({"document": q.document, "question": q.question, "answer": q.answer}) + "\n" for q in asked)
    )
    arguments = ["evaluate", str(memories), "--template", "plain", "--questions", str(file), "--texts", str(folder)]
    result = CliRunner().invoke(program, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    wanted = {
        "gain",
        "gain_low",
        "gain_high",
        "shuffled",
        "random",
        "exact",
        "text_at_equal_positions",
        "harm",
        "documents",
        "questions",
        "skipped",
    }
    assert wanted <= set(value)
    shown = CliRunner().invoke(program, arguments)
    for words in ("another's memory", "noise of its norms", "text, sentences", "harm:", "prefill", "choices right"):
        assert words in shown.stdout
