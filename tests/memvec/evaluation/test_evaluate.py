"""Evaluations on the tiny LM: every figure is computed as documented, and invalid arguments are refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import memvec
from memvec.cli.render_evaluation import evaluation as table
from memvec.errors import (
    ConditioningError,
    NotFoundError,
    UsageError,
)
from memvec.evaluation.answers import NEW_TOKENS, SHORT_TOKENS, f1
from memvec.evaluation.evaluate import Known, evaluate, evaluated
from memvec.evaluation.forms import question_row
from memvec.evaluation.questions import Question
from memvec.filesystem.sources import Source
from memvec.identity.runtime import runtime_of
from memvec.lm.scoring import score
from memvec.memory.memory import load
from memvec.settings import ContextSettings, PackSettings


@pytest.fixture(scope="module")
def asked(passages: dict[str, str]) -> list[Question]:
    """Questions that the tiny LM can answer from the text: the continuations of passages."""
    return [
        Question(name, text[at : at + 5], text[at + 5 : at + 45])
        for name, text in passages.items()
        for at in range(20, 240, 40)
    ]


def test_figures(memories: Path, asked: list[Question], tiny_lm: Any, packed_bytes: dict[str, bytes]) -> None:
    """The gain and every control are those of the surprisal."""
    found = evaluate(memories, asked, texts=packed_bytes, template="plain")
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


def test_store_with_both(
    tiny: str,
    sources: list[Source],
    asked: list[Question],
    tmp_path: Path,
    packed_bytes: dict[str, bytes],
    quick: ContextSettings,
) -> None:
    """Texts and exact vectors are read from the store."""
    store = tmp_path / "s.memvec"
    settings = PackSettings(nats_per_vector=9.0, segment_tokens=32, max_steps=150, learning_rate=1.0)
    memvec.pack(
        sources[:2], store, model=tiny, kind="both", settings=settings, context=replace(quick, steps=3), dtype="float32"
    )
    found = evaluate(store, [q for q in asked if q.document != "c/d.txt"], template="plain")
    given = evaluate(store, [q for q in asked if q.document != "c/d.txt"], texts=packed_bytes, template="plain")
    assert found.exact is not None and (found.gain, found.nll) == (given.gain, given.nll)


def test_answered(memories: Path, tiny_lm: Any, passages: dict[str, str], packed_bytes: dict[str, bytes]) -> None:
    """Right answers are counted, and the best of the accepted ones."""
    asked, starts = [], []
    for name in passages:  # answered through the hook and plain `generate`
        prompt = f"Question: What does {name} say?\nAnswer:"
        kwargs = load(memories, name).generate_kwargs(tiny_lm.model, tiny_lm.tokenizer, [prompt])
        out = tiny_lm.model.generate(**kwargs, max_new_tokens=NEW_TOKENS, do_sample=False)
        new = out[0, kwargs["input_ids"].shape[1] :]
        said, start = (tiny_lm.tokenizer.decode(ids).strip().split("\n")[0] for ids in (new, new[:SHORT_TOKENS]))
        asked.append(Question(name, f"What does {name} say?", said))
        starts.append(start)
    found = evaluate(memories, asked, texts=packed_bytes, off_topic=False)
    assert found.documents == 3 and found.answered["memory"] == 1.0 > max(
        found.answered["none"], found.answered["text"]
    )
    expected = sum(f1(start, one.answer) for start, one in zip(starts, asked, strict=True)) / 3
    assert found.f1["memory"] == pytest.approx(expected) and expected < 1.0
    accepting = [replace(one, answers=[start]) for one, start in zip(asked, starts, strict=True)]
    found = evaluate(memories, accepting, texts=packed_bytes, off_topic=False)
    assert (
        set(found.answered)
        == set(found.f1)
        == set(found.contained)
        == {"none", "text", "memory", "shuffled", "last", "2"}
    )
    assert found.f1["memory"] == found.contained["memory"] == 1.0 > max(found.f1["none"], found.f1["shuffled"])
    low, high = found.f1_bounds or (0, 0)
    assert 0 < low <= 1 / found.f1["text"] <= high
    shown = rf"the memory +100% +100% .* 100% +{1 / found.f1['text']:.2f} +{low:.2f} to {high:.2f}\n"
    assert re.search(shown, table(found))
    assert evaluate(memories, asked, texts=packed_bytes, off_topic=False, template="plain").answered == {}


def test_known(
    memories: Path, asked: list[Question], packed_bytes: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second evaluation measures nothing again, and one with other questions only what is new."""
    known = Known()

    def again(questions: list[Question], lean: bool = False) -> Any:
        found = evaluated(runtime_of(memories), questions, "context", packed_bytes, None, "text", True, 0, known, lean)
        return replace(found, costs=None, by_document={}), len(known.nats), len(known.marks)

    first = again(asked)
    with monkeypatch.context() as changed:
        changed.setattr("memvec.evaluation.evaluate.score", None)
        assert again(asked) == first
        lean = again(asked, lean=True)[0]
    assert (lean.gain, lean.shuffled, lean.harm, lean.exact) == (first[0].gain, first[0].shuffled, first[0].harm, None)
    assert set(lean.nll) == {"none", "text", "memory", "shuffled"} and set(lean.f1) == {"none", "text", "memory"}
    assert again([replace(asked[0], question="Other?"), *asked[1:]])[1:] > first[1:]


def test_refused(memories: Path, store: Path) -> None:
    """Missing or wrong texts, documents and memories are refused."""
    with pytest.raises(NotFoundError, match="no question is about"):
        evaluate(memories, [Question("nobody", "q", "a")])
    with pytest.raises(UsageError, match=r"texts has no 'a\.txt'"):
        evaluate(memories, [Question("a.txt", "q", "a")], texts={"b.txt": b""})
    with pytest.raises(UsageError, match="texts=…"):
        evaluate(memories, [Question("a.txt", "q", "a")])
    with pytest.raises(UsageError, match="not the one that was packed"):
        evaluate(memories, [Question("a.txt", "q", "a")], texts={"a.txt": b"something else"})
    with pytest.raises(ConditioningError):
        evaluate(store, [Question("prose.txt", "q", "a")])


def test_useless_text(memories: Path, asked: list[Question], packed_bytes: dict[str, bytes]) -> None:
    """Documents whose text does not help the model are left out and counted."""
    nonsense = [Question("a.txt", "zq", "xx yy zz"), *(q for q in asked if q.document == "b.txt")]
    found = evaluate(memories, nonsense, texts=packed_bytes, template="plain")
    assert (found.documents, found.skipped) == (1, 1) and list(found.by_document) == ["b.txt"]


def test_cli(memories: Path, asked: list[Question], tmp_path: Path, passages: dict[str, str]) -> None:
    """The command reads a file of questions and prints JSON."""
    from click.testing import CliRunner

    from memvec.cli.main import program

    folder, file = tmp_path / "texts", tmp_path / "q.jsonl"
    for name, text in passages.items():
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
