"""Distilling on the tiny LM: it reads the vectors as it reads the text, other memories do not, and its parts do their work."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from memvec.lm.head import TeacherPass, distil_pass
from memvec.lm.load import load
from memvec.lm.scoring import Row, run_prefixes, run_rows, score
from memvec.settings import ContextSettings
from memvec.training.distill import DistilEngine, Distilled, DistilTask, start
from memvec.training.lessons import teach

CORPUS = Path(__file__).parents[2] / "tiny" / "corpus.txt"
BEFORE = (0,)
# The tiny LM never saw a question, but goes on with a text it has before it.
SPANS: dict[str, Any] = {"span": 16, "span_share": 1.0, "span_weight": 1.0, "learning_rate": 0.1}


@pytest.fixture(scope="module")
def texts(tiny_lm: Any) -> list[tuple[int, ...]]:
    """Three passages of the book with their words out of order: nothing the LM could know."""
    words = CORPUS.read_text().split()
    order = torch.randperm(len(words), generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = " ".join(words[i] for i in order)
    ids = tiny_lm.encode(shuffled)
    return [tuple(ids[at : at + 72]) for at in (0, 500, 1000)]


def distil(lm: Any, texts: list[tuple[int, ...]], off_topic: Any = (), **changes: Any) -> list[Distilled]:
    settings = ContextSettings(**{**SPANS, "steps": 60, "aside_rows": 0, "company": 0.0, **changes})
    engine = DistilEngine(lm, settings, [BEFORE], [list(off_topic)])
    engine.add(DistilTask(i, ids, settings.vectors_for(len(ids)), f"{i}") for i, ids in enumerate(texts))
    return sorted((done for batch in engine.run() for done in batch), key=lambda done: done.task.key)


@pytest.fixture(scope="module")
def distilled(tiny_lm: Any, texts: list[tuple[int, ...]]) -> list[Distilled]:
    return distil(tiny_lm, texts)


def vectors(done: Distilled) -> torch.Tensor:
    return torch.from_numpy(done.vectors).float()


def divergence(lm: Any, ids: tuple[int, ...], front: torch.Tensor) -> float:
    """How far what the LM says behind `front` is from what it says behind the text, between the places asked for [nats]."""
    rows = [Row(ids[at : at + 11], 2) for at in range(1, len(ids) - 11, 7)]
    before = lm.embed(torch.tensor(BEFORE))
    answers = teach(lm, torch.cat([before, lm.embed(torch.tensor(ids))]), rows).answers
    said = TeacherPass(torch.cat([a.ids for a in answers]), torch.cat([a.log_probs for a in answers]))
    with torch.inference_mode():
        hidden = run_rows(lm, run_prefixes(lm, [torch.cat([before, front])]), [0] * len(rows), rows)
        return float(distil_pass(hidden, lm.head, said)[0].sum())


def test_the_lm_reads_vectors_as_it_reads_their_text(tiny_lm: Any, texts: Any, distilled: list[Distilled]) -> None:
    for number, (ids, done) in enumerate(zip(texts, distilled, strict=True)):
        assert done.vectors.shape == (18, tiny_lm.width) and done.vectors.dtype == "float16"
        own = divergence(tiny_lm, ids, vectors(done))
        assert own < 0.5 * divergence(tiny_lm, ids, vectors(done)[:0])
        assert own < 0.6 * divergence(tiny_lm, ids, start(tiny_lm, ids, 18))
        assert own < 0.8 * divergence(tiny_lm, ids, vectors(distilled[number - 1]))


def test_the_same_seed_makes_the_same_vectors(tiny_lm: Any, texts: Any, distilled: list[Distilled]) -> None:
    again = distil(tiny_lm, texts)
    assert all((a.vectors == b.vectors).all() for a, b in zip(again, distilled, strict=True))
    other = distil(tiny_lm, texts[:1], seed=1, steps=5)
    assert (other[0].vectors != distil(tiny_lm, texts[:1], steps=5)[0].vectors).any()


def test_documents_beyond_the_memory_limit_wait_for_a_slot(tiny: str, texts: Any) -> None:
    """One that is beyond it alone is distilled without stored activations."""
    lm, settings = load(Path(tiny)), ContextSettings(**SPANS, steps=3, memory=1)
    engine = DistilEngine(lm, settings, [BEFORE])
    engine.add(DistilTask(i, ids, 18) for i, ids in enumerate(texts))
    batches = list(engine.run())
    assert [len(batch) for batch in batches] == [1, 1, 1] and lm.recomputes
    assert all(done.cost.steps == 3 and done.cost.token_steps > 3 * 72 for batch in batches for done in batch)


def test_rows_aside_keep_the_model_as_it_was(tiny_lm: Any, texts: Any, distilled: list[Distilled]) -> None:
    ids = tiny_lm.encode(CORPUS.read_text()[:3000])
    off_topic = [Row(tuple(ids[at : at + 24]), 4) for at in range(0, 480, 24)]
    held_out = [Row(tuple(ids[at : at + 24]), 4) for at in range(500, 740, 24)]
    careful = distil(tiny_lm, texts, off_topic=off_topic, aside_rows=4)
    assert sum(drift(tiny_lm, held_out, done) for done in careful) < 0.7 * sum(
        drift(tiny_lm, held_out, done) for done in distilled
    )


def drift(lm: Any, rows: list[Row], done: Distilled) -> float:
    """How far vectors move the LM from what it says with nothing in front [nats]."""
    before = lm.embed(torch.tensor(BEFORE))
    answers = teach(lm, before, rows).answers
    said = TeacherPass(torch.cat([a.ids for a in answers]), torch.cat([a.log_probs for a in answers]))
    with torch.inference_mode():
        run = run_prefixes(lm, [torch.cat([before, vectors(done)])])
        return float(distil_pass(run_rows(lm, run, [0] * len(rows), rows), lm.head, said)[0].sum())


def test_distractors_in_training_make_memories_bear_them(tiny_lm: Any, texts: Any, distilled: list[Distilled]) -> None:
    with_distractors = distil(tiny_lm, texts, company=0.5)

    def together(made: list[Distilled]) -> float:
        pairs = itertools.permutations(range(len(made)), 2)  # (the one asked for or the other) in front
        fronts = {pair: torch.cat([vectors(made[n]) for n in pair]) for pair in pairs}
        return sum(divergence(tiny_lm, texts[n], front) for pair, front in fronts.items() for n in pair)

    assert together(with_distractors) < 0.9 * together(distilled)


def test_a_text_without_questions_is_asked_for_itself(tiny_lm: Any, texts: Any) -> None:
    settings = ContextSettings(steps=2, learning_rate=0.1)  # spans are off, and there is nothing else to ask
    engine = DistilEngine(tiny_lm, settings, [BEFORE])
    engine.add([DistilTask(0, texts[0], 18)])
    (done,) = [done for batch in engine.run() for done in batch]
    assert (vectors(done) - start(tiny_lm, texts[0], 18)).abs().max() > 0.01


def test_unrelated_rows_leave_out_the_documents_in_front(tiny_lm: Any, texts: Any) -> None:
    rows = [((Row(ids[:6], 2),),) for ids in texts]
    engine = DistilEngine(tiny_lm, ContextSettings(steps=1), [BEFORE])
    engine.add(DistilTask(i, ids, 18, f"{i}", asked) for i, (ids, asked) in enumerate(zip(texts, rows, strict=True)))
    engine._refill()
    unread = [slot.unread[0] for slot in engine.slots]
    assert engine._unrelated_to(0, None, 0) == ([unread[1], unread[2]], [])
    assert engine._unrelated_to(0, 1, 0) == ([unread[2]], [])
    assert all(set(lesson.weights[0]) == {engine.settings.aside_weight} for lesson in unread)
    before = tiny_lm.embed(torch.tensor(BEFORE))
    alone = teach(tiny_lm, before, unread[1].rows).answers[0]  # the LM without any text
    torch.testing.assert_close(unread[1].answers[0].log_probs, alone.log_probs)


def test_a_document_alone_is_taught_unseen_documents(tiny_lm: Any, texts: Any) -> None:
    invented = Row((3, 5, 7, 9), 2)
    engine = DistilEngine(tiny_lm, ContextSettings(steps=1), [BEFORE], unseen_documents=[[invented]])
    engine.add([DistilTask(0, texts[0], 18, "", ((Row(texts[0][:6], 2),),))])
    engine._refill()
    others, off_topic = engine._unrelated_to(0, None, 0)
    assert [lesson.rows for lesson in others] == [[invented]] and not off_topic


def test_questions_are_learnt(tiny_lm: Any, texts: Any) -> None:
    key, answer = (7, 11, 13), texts[0][30:38]
    row = Row((*key, *answer), 3)
    settings = ContextSettings(**SPANS, steps=40, aside_rows=0, company=0.0, question_rows=1, truth=1.0)
    before, made = tiny_lm.embed(torch.tensor(BEFORE)), []
    for extra in ((), ((row,),)):
        engine = DistilEngine(tiny_lm, settings, [BEFORE])
        engine.add([DistilTask(0, texts[0], 18, "", extra)])
        made += [done for batch in engine.run() for done in batch]
    without, learnt = (score(tiny_lm, torch.cat([before, vectors(done)]), [row])[0] for done in made)
    assert learnt < without - 1  # [nats] the right answer, not only what the teacher makes of the question
