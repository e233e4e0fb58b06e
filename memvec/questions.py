"""Questions about documents: a user's file, and cloze questions made from the text by rule. Knows no model."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from memvec.errors import NotFoundError, UsageError
from memvec.words import MARKS, sentences, telling, telling_places

FIELDS = ("document", "question", "answer")
BLANK = "____"
MOST_BLANK_WORDS = 4


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
    told = sentences(text)
    places = [(number, place) for number, words in enumerate(told) for place in telling_places(words)]
    chosen = sorted(chance.sample(places, min(count, len(places))))
    return [_blanked(document, told[number], place, chance) for number, place in chosen]


def _blanked(document: str, words: list[str], place: int, chance: random.Random) -> Question:
    end = place + 1
    while end < len(words) and end - place < MOST_BLANK_WORDS and telling(words[end]) and chance.random() < 0.7:
        end += 1
    answer = " ".join(words[place:end]).strip(MARKS)
    rest = words[end - 1][len(words[end - 1].rstrip(MARKS)) :]
    blanked = " ".join([*words[:place], BLANK + rest, *words[end:]])
    return Question(document, f"Fill in the blank: {blanked}", answer or words[place])
