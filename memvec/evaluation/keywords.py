"""Questions made from a text by rule: a question word, some words around a fact, and the fact as the answer. Knows no model.

The questions have no grammar. Their words vary, so that memories also answer the questions of people. Some words are left
out, moved, mixed with words from elsewhere in the text, or replaced by words of similar meaning.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from memvec.evaluation.questions import COMMON, MARKS, sentences, telling, telling_places

Near = Callable[[str], Sequence[str]]  # other words of similar meaning, perhaps none

MOST_ANSWER_WORDS = 6
MOST_SENTENCE_WORDS = 40  # in a sentence that is an answer
REWORDED = 0.4  # share of the telling words that are replaced, if they have near ones
ORDINARY = ("What", "Which", "What is", "What was", "What kind of", "How", "What did", "What does")
NAMES = ("Who", "What", "Which", "What is the name of", "Who is", "Who was", "Which", "Whose")
PLACES = ("Where", "Where", "In which place", "Where does", "Where is", "At what place")
NUMBERS = ("How many", "How much", "What", "How", "What number of", "How long")
DATES = ("When", "In which year", "On what date", "When did", "When was")
REASONS = ("Why", "Why is", "Why was", "For what reason", "What made")
AGENTS = ("Who", "By whom", "Who did", "Whose")
WHERE = frozenset(["at", "in", "on", "near", "from", "to", "into", "under", "behind", "beneath", "beside", "off"])
DATED = re.compile(
    r"(1[0-9]{3}|20[0-9]{2}|.*\b(January|February|March|April|May|June|July|August|September|October|November|December))\b"
)


def keyword_questions(
    text: str, count: int, seed: int = 0, near: Near = lambda word: (), sentences_share: float = 0.0
) -> list[tuple[str, str]]:
    """Make up to `count` different (question, answer) pairs, with English question words.

    The answer is the fact, or in `sentences_share` of the pairs [0..1] the sentence that states it.
    """
    chance = random.Random(f"{seed} {text}")
    told = [words for words in sentences(text) if telling_places(words)]
    if not told:
        return []
    weights = [len(words) for words in told]
    drawn = []
    for _ in range(count):
        number = chance.choices(range(len(told)), weights)[0]
        elsewhere = told[0] if chance.random() < 0.5 else told[max(0, number - 1)]
        question, answer = _question(told[number], elsewhere, chance, near)
        whole = chance.random() < sentences_share and len(told[number]) <= MOST_SENTENCE_WORDS
        drawn.append((question, " ".join(told[number]) if whole else answer))
    return list(dict.fromkeys(drawn))


def _question(words: list[str], elsewhere: list[str], chance: random.Random, near: Near) -> tuple[str, str]:
    begin, end = _phrase(words, chance)
    answer = " ".join(words[begin:end]).strip(MARKS)
    lead = chance.choice(_leads(answer, words[begin - 1].lower() if begin else ""))
    if begin and words[begin - 1].lower() in ("a", "an", "the") and chance.random() < 0.3:
        answer = f"{words[begin - 1]} {answer}"
    asked = _stretch(words, begin, end, chance) if chance.random() < 0.3 else []
    if not asked:  # the stretch may hold the answer only
        asked = _some(words[:begin] + words[end:], chance, chance.randint(2, 6))
        if chance.random() < 0.4:
            asked = [*_some(elsewhere, chance, chance.randint(1, 2)), *asked]
    asked = [_reworded(word.strip(MARKS), chance, near) for word in asked]
    return f"{lead} {' '.join(asked)}".strip() + "?", answer or words[begin]


def _phrase(words: Sequence[str], chance: random.Random) -> tuple[int, int]:
    """(begin, end) of some words to ask for. No mark stands between them, and the last is not a common word."""
    places = [p for p in range(len(words)) if words[p].strip(MARKS).lower() not in COMMON]
    named = telling_places(words)
    place = chance.choice(named if chance.random() < 0.6 or not places else places)
    begin, end = place, place + 1
    while end < len(words) and end - begin < MOST_ANSWER_WORDS and words[end - 1][-1] not in MARKS and (
        chance.random() < (0.85 if telling(words[end]) else 0.6)
    ):  # fmt: skip
        end += 1
    while end - begin > 1 and words[end - 1].strip(MARKS).lower() in COMMON:
        end -= 1
    while begin and end - begin < MOST_ANSWER_WORDS and words[begin - 1][-1] not in MARKS and (
        words[begin - 1].lower() not in COMMON and chance.random() < 0.5
    ):  # fmt: skip
        begin -= 1
    return begin, end


def _leads(answer: str, previous: str) -> Sequence[str]:
    if DATED.match(answer):
        return DATES
    if answer[:1].isdigit():
        return NUMBERS
    if previous == "because":
        return REASONS
    if answer[:1].isupper():
        return AGENTS if previous == "by" else PLACES if previous in WHERE else NAMES
    return ORDINARY


def _stretch(words: Sequence[str], begin: int, end: int, chance: random.Random) -> list[str]:
    """Some words before and behind the answer, in their order."""
    before = words[max(0, begin - chance.choice((3, 5, 8))) : begin]
    return [*before, *words[end : end + chance.choice((0, 2, 4, 6))]]


def _some(words: Sequence[str], chance: random.Random, count: int) -> list[str]:
    """Telling words and a few others, mostly in their order."""
    told = [i for i, word in enumerate(words) if word.strip(MARKS).lower() not in COMMON or chance.random() < 0.3]
    chosen = chance.sample(told, min(len(told), count))
    return [words[i] for i in (sorted(chosen) if chance.random() < 0.6 else chosen)]


def _reworded(word: str, chance: random.Random, near: Near) -> str:
    others = near(word) if chance.random() < REWORDED and word.lower() not in COMMON else ()
    return chance.choice(others) if others else word
