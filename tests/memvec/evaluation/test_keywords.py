"""Keyword questions: about one place of the text, with a question word that suits, put in other words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memvec.evaluation.keywords import keyword_questions
from memvec.evaluation.questions import BLANK
from memvec.filesystem.sources import Source
from memvec.languages.language import by_code
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


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        (
            "en",
            TEXT + " They left because tides turned early there.",
            {"1742": "dates", "17 crowns": "numbers", "Candle Steps": "places", "tides turned": "reasons"},
        ),
        (
            "es",
            (
                "La catedral fue construida en Toledo por el arquitecto Martín y cuesta 9 euros. El puerto cerró porque "
                "llovía intensamente ese día. La obra terminó el 7 de febrero de 1493. El cuadro fue pintado por Velázquez en la corte. "
                "El barco llegó a la Habana con 30 marineros."
            ),
            {
                "7 de febrero de 1493": "dates",
                "1493": "dates",
                "9 euros": "numbers",
                "30 marineros": "numbers",
                "Toledo": "places",
                "Habana": "places",
                "llovía intensamente": "reasons",
                "Velázquez": "agents",
                "arquitecto": "ordinary",
            },
        ),
        (
            "de",
            (
                "Das Schiff lag am 7. Februar 1848 im Hafen von Bremen und hatte 40 Matrosen. Die Brücke wurde von Anna Lind "
                "in Hamburg gebaut. Die Schule blieb zu, weil Schnee gefallen war."
            ),
            {
                "Februar 1848": "dates",
                "1848": "dates",
                "40 Matrosen": "numbers",
                "Hafen": "places",
                "Hamburg": "places",
                "Anna Lind": "agents",
                "Schnee gefallen": "reasons",
            },
        ),
        (
            "fr",
            (
                "Le pont fut construit à Avignon par Saint Bénézet et il compte 22 arches. Elle a quitté la ville parce que "
                "tout brûlait. Le traité fut signé le 3 mars 1918. Les étudiants de l'Université viennent de Lyon."
            ),
            {
                "3 mars 1918": "dates",
                "22 arches": "numbers",
                "Avignon": "places",
                "Saint Bénézet": "agents",
                "Université": "names",
            },
        ),
    ],
    ids=["English", "Spanish", "German", "French"],
)
def test_the_question_word_suits_the_answer(code: str, text: str, expected: dict[str, str]) -> None:
    before, _, after = by_code(code).question.partition("{}")
    found = keyword_questions(text, 900)
    for answer, kind in expected.items():
        asked = [question for question, given in found if given == answer]
        leads = tuple(f"{before}{lead} " for lead in by_code(code).leads[kind])
        assert asked and all(q.startswith(leads) and q.endswith(after) for q in asked), (answer, asked)


BLANKS = {
    "Chinese": (
        "东京塔高333米，建于1958年。塔的设计者是内藤多仲。每天有很多游客来这里看夜景。",
        {"333", "1958", "内藤多仲", "设计者"},
    ),
    "Japanese": (
        "東京は日本の首都であり、人口は約1400万人である。江戸時代には徳川家康がここに幕府を開いた。",
        {"東京", "1400", "徳川家康", "幕府"},
    ),
    "Italian": (
        "Roma è la capitale d'Italia e il comune più popoloso del paese. La città si trova sulle rive del Tevere.",
        {"Tevere", "popoloso", "capitale d'Italia"},
    ),
    "Russian": ("Москва стоит на одноимённой реке. Город впервые упоминается в летописи в 1147 году.", {"1147"}),
    "Arabic": (
        "تقع المدينة على جوانب نهر النيل في شمال مصر. يبلغ عدد سكانها عشرة ملايين نسمة في 2020.",
        {"المدينة", "ملايين"},
    ),
}


@pytest.mark.parametrize("name", BLANKS)
def test_a_blank_stands_for_the_answer_in_other_languages(name: str) -> None:
    """The question is a part of a sentence, and the answer fills its blank. Question words are left to the model."""
    text, wanted = BLANKS[name]
    found = keyword_questions(text, 300)
    assert wanted <= {answer for _, answer in found}
    for question, answer in found:
        assert question.count(BLANK) == 1 and question.replace(BLANK, answer) in text
        assert not set(answer) & set(",.，。、")
    assert keyword_questions(text, 300) == found != keyword_questions(text, 300, seed=1)


@given(st.text(max_size=200) | st.text("かカ的人山。，（）a1 \n«le l'que", max_size=80), st.sampled_from([0.0, 1.0]))
@settings(max_examples=200, deadline=None)
def test_answers_of_any_text_are_in_it(text: str, share: float) -> None:
    found = keyword_questions(text, 8, sentences_share=share)
    assert found == keyword_questions(text, 8, sentences_share=share)
    for question, answer in found:
        assert question.strip() and answer.strip()
        assert " ".join(answer.split()) in " ".join(text.split())


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


def test_texts_without_spaces_give_questions_to_learn_from(tiny_lm: Any) -> None:
    source = Source("tower.txt", BLANKS["Chinese"][0].encode())
    (window,), _ = windows([Reading(source, *described([source]))], {}, tiny_lm, 512, Kind.CONTEXT)
    task = Distilling(tiny_lm, ContextSettings())._task(0, window)
    assert task.questions and all(len(rows) > 8 for rows in task.questions)
