"""Questions made by rule: about the text, answered by it, repeatable."""

from __future__ import annotations

from pathlib import Path

import pytest

from memvec.errors import NotFoundError, UsageError
from memvec.questions import BLANK, Question, cloze_questions, read_questions

TEXT = (
    "The north basin at Brelland is closed from Tuesday. Visiting yachts tie up at Candle Steps, where the fee is 17 crowns. "
    "It is so. Questions go to the harbour master, Osric Venn, who listens on channel 31."
)


def test_a_cloze_question_and_its_answer_make_the_sentence_again() -> None:
    found = cloze_questions("d", TEXT, 8)
    assert len(found) == 8 == len(set(found))
    for question in found:
        assert question.question.count(BLANK) == 1
        assert question.question.removeprefix("Fill in the blank: ").replace(BLANK, question.answer) in TEXT
    assert cloze_questions("d", TEXT, 8) == found != cloze_questions("d", TEXT, 8, seed=1)
    assert cloze_questions("d", "It is so.", 8) == []


def test_questions_are_read_and_bad_lines_named(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text('{"document": "a", "question": "q?", "answer": "x", "more": 1}\n\n')
    assert read_questions(file) == [Question("a", "q?", "x")]
    for bad in ("{", '{"document": "a"}', '{"document": "a", "question": 1, "answer": "x"}', "[]"):
        file.write_text('{"document": "a", "question": "q?", "answer": "x"}\n' + bad)
        with pytest.raises(UsageError, match="line 2"):
            read_questions(file)
    file.write_text("\n")
    with pytest.raises(UsageError, match="no question"):
        read_questions(file)
    with pytest.raises(NotFoundError):
        read_questions(tmp_path / "missing")
