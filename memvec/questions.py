"""Questions about documents: a user's file, and cloze questions made from the text by rule. Knows no model."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from memvec.errors import NotFoundError, UsageError

FIELDS = ("document", "question", "answer")
BLANK = "____"
MOST_BLANK_WORDS = 4
LEAST_WORDS = 5  # of a sentence worth asking about
MARKS = ".,;:!?\"'()"
QUESTION_WORDS = ("What", "Who", "Where", "When", "How many", "How much", "Which", "Why", "What", "Who")
VERBS = ("is", "was", "did", "does", "has", "", "")
COMMON = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "been",
        "but",
        "by",
        "for",
        "from",
        "had",
        "has",
        "have",
        "he",
        "her",
        "his",
        "if",
        "in",
        "into",
        "is",
        "it",
        "its",
        "not",
        "of",
        "on",
        "or",
        "over",
        "she",
        "so",
        "than",
        "that",
        "the",
        "their",
        "then",
        "they",
        "this",
        "to",
        "under",
        "was",
        "were",
        "which",
        "who",
        "will",
        "with",
        "would",
        "after",
        "before",
    ]
)


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a document, and its right answer."""

    document: str
    question: str
    answer: str


def read_questions(file: str | Path) -> list[Question]:
    """The questions in a JSON-lines file of `{"document", "question", "answer"}`. NotFoundError, UsageError."""
    path = Path(file)
    if not path.is_file():
        raise NotFoundError(f"no file {str(path)!r}: expected JSON lines with {', '.join(FIELDS)}.")
    found = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            values = [value[name] for name in FIELDS]
        except (ValueError, KeyError, TypeError):
            values = []
        if len(values) != len(FIELDS) or not all(isinstance(v, str) and v.strip() for v in values):
            raise UsageError(
                f'{str(path)!r} line {number}: expected {{"document": …, "question": …, "answer": …}} in text.'
            )
        found.append(Question(*values))
    if not found:
        raise UsageError(f"{str(path)!r} holds no question. Expected JSON lines with {', '.join(FIELDS)}.")
    return found


def cloze_questions(document: str, text: str, count: int, seed: int = 0) -> list[Question]:
    """Up to `count` sentences of the text with a name, a number or a long word blanked out, none twice, in order."""
    chance = random.Random(f"{seed} {document} {text}")
    sentences = _sentences(text)
    places = [(number, place) for number, words in enumerate(sentences) for place in _telling_places(words)]
    chosen = sorted(chance.sample(places, min(count, len(places))))
    return [_blanked(document, sentences[number], place, chance) for number, place in chosen]


def keyword_questions(text: str, count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Up to `count` (question, answer) pairs: words of a sentence behind a question word, and words it leaves out.

    No grammar, but what a question is for: some of the words around a fact, and the fact. English question words.
    """
    chance = random.Random(f"{seed} {text}")
    sentences = [words for words in _sentences(text) if _telling_places(words)]
    weights = [len(words) for words in sentences]
    drawn = (_keyword_question(chance.choices(sentences, weights)[0], chance) for _ in range(count if sentences else 0))
    return list(dict.fromkeys(drawn))


def telling(word: str) -> bool:
    """Is a word worth asking for: a name, a number or a long word?"""
    return word[0].isupper() or word[0].isdigit() or len(word) > 6


def _sentences(text: str) -> list[list[str]]:
    found = [sentence.split() for sentence in re.split(r"(?<=[.!?;])\s+", text)]
    return [words for words in found if len(words) >= LEAST_WORDS]


def _telling_places(words: Sequence[str]) -> list[int]:
    return [place for place in range(1, len(words)) if telling(words[place])]


def _keyword_question(words: list[str], chance: random.Random) -> tuple[str, str]:
    """Half of these ask with a stretch of the sentence as it is, half with some of its words in any order."""
    place = chance.choice(_telling_places(words)) if chance.random() < 0.5 else chance.randrange(len(words))
    end = min(len(words), place + chance.randint(1, MOST_BLANK_WORDS))
    answer = " ".join(words[place:end]).strip(MARKS)
    rest = [word.strip(MARKS) for word in (*words[:place], *words[end:])]
    if chance.random() < 0.5:
        rest = rest[max(0, place - chance.choice((3, 5, 8))) : place + chance.choice((0, 2, 4, 6))]
    else:
        told = [i for i, word in enumerate(rest) if word.lower() not in COMMON or chance.random() < 0.3]
        chosen = chance.sample(told, min(len(told), chance.randint(2, 6)))
        rest = [rest[i] for i in (sorted(chosen) if chance.random() < 0.6 else chosen)]
    lead = f"{chance.choice(QUESTION_WORDS)} {chance.choice(VERBS)}".strip()
    return f"{lead} {' '.join(rest)}".strip() + "?", answer or words[place]


def _blanked(document: str, words: list[str], place: int, chance: random.Random) -> Question:
    end = place + 1
    while end < len(words) and end - place < MOST_BLANK_WORDS and telling(words[end]) and chance.random() < 0.7:
        end += 1
    answer = " ".join(words[place:end]).strip(MARKS)
    rest = words[end - 1][len(words[end - 1].rstrip(MARKS)) :]
    blanked = " ".join([*words[:place], BLANK + rest, *words[end:]])
    return Question(document, f"Fill in the blank: {blanked}", answer or words[place])
