"""Keyword questions: about one place of the text, with a question word that suits, put in other words."""

from __future__ import annotations

from typing import Any

from memvec.evaluation.keywords import DATES, NUMBERS, PLACES, REASONS, keyword_questions
from memvec.filesystem.sources import Source
from memvec.packing.context import Distilling
from memvec.packing.outstanding import described
from memvec.packing.plan import Reading, windows
from memvec.settings import ContextSettings
from memvec.types import Kind

TEXT = (
    "The north basin at Brelland is closed from Tuesday. Visiting yachts tie up at Candle Steps, where the fee is 17 crowns. "
    "It is so. Questions go to the harbour master, Osric Venn, who listens on channel 31. The mill was built in 1742."
)
WORDS = {word.strip(".,") for word in TEXT.split()}


def test_it_asks_with_words_of_the_text_for_others_of_it() -> None:
    found = keyword_questions(TEXT, 64)
    assert 32 < len(found) <= 64
    for question, answer in found:
        assert question.endswith("?") and answer in TEXT
        assert set(question.rstrip("?").split()) & WORDS
        assert "It is so" not in answer  # too short to ask about
    assert keyword_questions(TEXT, 64) == found != keyword_questions(TEXT, 64, seed=1)
    assert keyword_questions("no more", 8) == keyword_questions("", 8) == []


def test_the_question_word_suits_the_answer() -> None:
    found = keyword_questions(TEXT + " They left because tides turned early there.", 600)
    leads = {answer: [q for q, a in found if a == answer] for _, answer in found}
    expected = {"1742": DATES, "17 crowns": NUMBERS, "Candle Steps": PLACES, "tides turned": REASONS}
    for answer, fitting in expected.items():
        assert leads[answer] and all(question.startswith(fitting) for question in leads[answer]), answer


def test_no_answer_runs_over_a_mark_or_begins_or_ends_in_a_common_word() -> None:
    for _, answer in keyword_questions(TEXT, 300):
        assert "," not in answer
        assert answer.split()[-1].lower() not in {"the", "at", "is", "to", "from", "in", "on"}


def test_near_words_stand_in_for_some_and_never_in_answers() -> None:
    found = keyword_questions(TEXT, 200, near=lambda word: ("price",) if word == "fee" else ())
    asked = [question.rstrip("?").split() for question, _ in found]
    told = sum("fee" in words for words in asked)
    reworded = sum("price" in words for words in asked)
    assert told > 10 and reworded > 10
    assert not any("price" in answer for _, answer in found)


def test_a_share_of_answers_are_the_sentences_that_say_them() -> None:
    whole = {answer for _, answer in keyword_questions(TEXT, 100, sentences_share=1.0)}
    assert len(whole) == 4 and all(answer in TEXT and answer.endswith(".") for answer in whole)
    half = [answer in whole for _, answer in keyword_questions(TEXT, 200, sentences_share=0.5)]
    assert 0.35 < sum(half) / len(half) < 0.65
    endless = "Osric Venn listens " * 20
    assert all(len(answer.split()) < 10 for _, answer in keyword_questions(endless, 50, sentences_share=1.0))


def test_distilling_asks_for_as_many_sentences_as_the_settings_say(tiny_lm: Any) -> None:
    source = Source("basin.txt", TEXT.encode())
    (window,), _ = windows([Reading(source, *described([source]))], {}, tiny_lm, 512, Kind.CONTEXT)
    answers = []
    for share in (0.0, 1.0):
        task = Distilling(tiny_lm, ContextSettings(sentence_answers=share))._task(0, window)
        answers.append([row.scored for rows in task.questions for row in rows])
    bare, whole = (sum(scored) / len(scored) for scored in answers)
    assert whole > 2 * bare
