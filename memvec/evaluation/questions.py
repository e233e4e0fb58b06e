"""Questions about documents: a user's file, and cloze questions made from the text by rule. Knows no model."""

from __future__ import annotations

import json
import random
import reprlib
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from memvec.errors import UsageError
from memvec.evaluation.words import MARKS, sentences, telling, telling_places
from memvec.filesystem.text_files import read_lines

FIELDS = ("document", "question", "answer")
BLANK = "____"
MOST_BLANK_WORDS = 4


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a document, with its right answer.

    `memvec.pack` trains memories on questions, `memvec.evaluate` tests memories with them.

    Attributes:
        document: The name of the document.
        question: The question, as a user would ask it.
        answer: The right answer.

    Raises:
        UsageError: One of the three is no text, or has no words.

    Example:
        >>> memvec.Question("harbour.txt", "When do the pilots row out?", "at six").answer
        'at six'
    """

    document: str
    question: str
    answer: str

    def __post_init__(self) -> None:
        """UsageError unless each of the three is a text with words."""
        for name in FIELDS:
            _check(name, getattr(self, name))


def read_questions(file: str | Path) -> list[Question]:
    """Read questions from a file of JSON lines `{"document": …, "question": …, "answer": …}` in UTF-8.

    Args:
        file: The file. Lines that are empty are skipped, other fields of an object are ignored.

    Returns:
        The questions, in order.

    Raises:
        NotFoundError: No such file.
        ReadError: The system refused to read it.
        UsageError: A line is no such object, named by its number, or there is no question.
    """
    found = []
    for number, line in enumerate(read_lines(file), 1):
        if not line.strip():
            continue
        try:
            found.append(_question(line))
        except (ValueError, RecursionError) as error:
            why = str(error).removesuffix(".")
            if isinstance(error, JSONDecodeError):
                why = f"not JSON, {error.msg} at character {error.pos}"
            raise UsageError(
                f'{str(file)!r} line {number}: {why}. Expected {{"document": …, "question": …, "answer": …}} in text.'
            ) from error
    if not found:
        raise UsageError(f"{str(file)!r} holds no question. Expected JSON lines with {', '.join(FIELDS)}.")
    return found


def _question(line: str) -> Question:
    """The question in a line. ValueError says what is wrong with it."""
    value = json.loads(line, object_pairs_hook=_object, parse_constant=_constant)
    if not isinstance(value, dict):
        raise ValueError(f"{reprlib.repr(value)} is no object")  # noqa: TRY004  # of what the user wrote
    for name in FIELDS:
        if name not in value:
            raise ValueError(f"{name!r} is missing")
    return Question(*(value[name] for name in FIELDS))


def _check(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{name} is {reprlib.repr(value)}, expected a text with words.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{name} holds half a surrogate pair, expected a text.") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def _constant(name: str) -> None:
    raise ValueError(f"not JSON, which has no {name}")


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
