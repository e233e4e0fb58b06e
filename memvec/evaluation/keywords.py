"""Questions made from a text by rule: a question word, some words around a fact, and the fact as the answer. Knows no model.

In languages whose question words are not known, a blank stands in place of the fact.

The questions have no grammar. Their words vary, so that memories also answer the questions of people. Some words are left
out, moved, mixed with words from elsewhere in the text, or replaced by words of similar meaning.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from memvec.evaluation.questions import blank_end, blanked
from memvec.languages.detect import language_of
from memvec.languages.language import Language
from memvec.languages.sentences import run_starts, sentences, telling_places

Near = Callable[[str], Sequence[str]]  # other words of similar meaning, perhaps none

MOST_ANSWER_WORDS = 6
MOST_SENTENCE_WORDS = 40  # in a sentence that is an answer
RUN_STARTS = 0.6  # share of the blanks at the start of a run of telling words
REWORDED = 0.4  # share of the telling words that are replaced, if they have near ones


def keyword_questions(
    text: str, count: int, seed: int = 0, near: Near = lambda word: (), sentences_share: float = 0.0
) -> list[tuple[str, str]]:
    """Make up to `count` different (question, answer) pairs in the language of a text.

    The answer is the fact, or in `sentences_share` of the pairs [0..1] the sentence that states it.
    """
    chance = random.Random(f"{seed} {text}")
    language = language_of(text)
    told = [words for words in sentences(text, language) if telling_places(words, language)]
    if not told:
        return []
    weights = [len(words) for words in told]
    drawn = []
    for _ in range(count):
        number = chance.choices(range(len(told)), weights)[0]
        elsewhere = told[0] if chance.random() < 0.5 else told[max(0, number - 1)]
        if language.leads:
            question, answer = _question(told[number], elsewhere, chance, near, language)
        else:
            question, answer = _with_blank(told[number], chance, language)
        whole = chance.random() < sentences_share and len(told[number]) <= MOST_SENTENCE_WORDS
        drawn.append((question, language.glue.join(told[number]) if whole else answer))
    return list(dict.fromkeys(drawn))


def _with_blank(words: Sequence[str], chance: random.Random, language: Language) -> tuple[str, str]:
    """Some words of a sentence, with a blank in place of the answer."""
    places = telling_places(words, language)
    # People's answers begin where such words begin.
    begin = chance.choice(run_starts(words, places, language) if chance.random() < RUN_STARTS else places)
    end = blank_end(words, begin, chance, language)
    first, last = max(0, begin - chance.choice((3, 5, 8))), end + chance.choice((2, 4, 6))
    question, answer = blanked(words[first:last], begin - first, end - first, language)
    return question.strip(), answer


def _question(
    words: list[str], elsewhere: list[str], chance: random.Random, near: Near, language: Language
) -> tuple[str, str]:
    begin, end = _phrase(words, chance, language)
    answer = language.bare(" ".join(words[begin:end]))
    lead = chance.choice(_leads(answer, " ".join(words[:begin]).lower(), language))
    article = words[begin - 1] if begin else ""
    if article.lower() in language.articles and not language.apart(article, words[begin]) and chance.random() < 0.3:
        answer = f"{article} {answer}"
    asked = _stretch(words, begin, end, chance) if chance.random() < 0.3 else []
    if not asked:  # the stretch may hold the answer only
        asked = _some(words[:begin] + words[end:], chance, chance.randint(2, 6), language)
        if chance.random() < 0.4:
            asked = [*_some(elsewhere, chance, chance.randint(1, 2), language), *asked]
    asked = [_reworded(word.strip(language.marks), chance, near, language) for word in asked]
    return language.question.format(f"{lead} {' '.join(asked)}".strip()), answer or words[begin]


def _phrase(words: Sequence[str], chance: random.Random, language: Language) -> tuple[int, int]:
    """(begin, end) of some words to ask for. No mark stands between them, and the last is not a common word."""
    places = [p for p in range(len(words)) if not language.is_common(words[p])]
    named = telling_places(words, language)
    place = chance.choice(named if chance.random() < 0.6 or not places else places)
    begin, end = place, place + 1
    while end < len(words) and end - begin < MOST_ANSWER_WORDS and not language.apart(*words[end - 1 : end + 1]) and (
        chance.random() < (0.85 if language.telling(words[end]) else 0.6)
    ):  # fmt: skip
        end += 1
    while end - begin > 1 and language.is_common(words[end - 1]):
        end -= 1
    while begin and end - begin < MOST_ANSWER_WORDS and not language.apart(*words[begin - 1 : begin + 1]) and (
        words[begin - 1].lower() not in language.common and chance.random() < 0.5
    ):  # fmt: skip
        begin -= 1
    return begin, end


def _leads(answer: str, before: str, language: Language) -> Sequence[str]:
    """Question words that suit an answer, by the words before it in lower case."""

    def behind(phrases: Sequence[str]) -> bool:
        return f" {before}".endswith(tuple(f" {phrase}" for phrase in phrases))

    leads = language.leads
    if language.dated and language.dated.match(answer):
        return leads["dates"]
    if answer[:1].isdigit():
        return leads["numbers"]
    if behind(language.because):
        return leads["reasons"]
    if answer[:1].isupper():
        return leads["agents" if behind(language.by) else "places" if behind(language.places) else "names"]
    return leads["ordinary"]


def _stretch(words: Sequence[str], begin: int, end: int, chance: random.Random) -> list[str]:
    """Some words before and behind the answer, in their order."""
    before = words[max(0, begin - chance.choice((3, 5, 8))) : begin]
    return [*before, *words[end : end + chance.choice((0, 2, 4, 6))]]


def _some(words: Sequence[str], chance: random.Random, count: int, language: Language) -> list[str]:
    """Telling words and a few others, mostly in their order."""
    told = [i for i, word in enumerate(words) if not language.is_common(word) or chance.random() < 0.3]
    chosen = chance.sample(told, min(len(told), count))
    return [words[i] for i in (sorted(chosen) if chance.random() < 0.6 else chosen)]


def _reworded(word: str, chance: random.Random, near: Near, language: Language) -> str:
    others = near(word) if chance.random() < REWORDED and word.lower() not in language.common else ()
    return chance.choice(others) if others else word
