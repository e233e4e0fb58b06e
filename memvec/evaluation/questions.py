"""Questions about documents: read from a user's file, or made from the text by rules. Knows no model."""

from __future__ import annotations

import json
import random
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from memvec.errors import UsageError
from memvec.filesystem.text_files import read_lines
from memvec.languages.detect import language_of
from memvec.languages.language import Language
from memvec.languages.sentences import sentences, telling_places

FIELDS = ("document", "question", "answer")
ANSWERS = "answers"  # all accepted ones, the first of which stands for "answer" where a line lacks that
BLANK = "____"
MOST_BLANK_WORDS = 4


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a document, with its right answer.

    `memvec.pack` trains memories on questions, `memvec.evaluate` tests memories with them.

    Attributes:
        document: The name of the document.
        question: The question, as a user would ask it.
        answer: The right answer. Memories learn it, and its surprisal is measured.
        answers: All accepted answers, `answer` first. Generated answers are compared with each of them, and the best
            match counts. Other wordings of the answer belong here.

    Raises:
        UsageError: One of the first three is not a string or is empty, or `answers` is no list of such strings.

    Example:
        >>> memvec.Question("harbour.txt", "When do the pilots row out?", "at six").answer
        'at six'
        >>> memvec.Question("harbour.txt", "When do the pilots row out?", "at six", ["six o'clock"]).answers
        ('at six', "six o'clock")
    """

    document: str
    question: str
    answer: str
    answers: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Put `answer` before the other `answers`. UsageError unless each field is a string with words, or such strings."""
        for name in FIELDS:
            _check(name, getattr(self, name))
        if not isinstance(self.answers, list | tuple):
            raise UsageError(f"answers is {reprlib.repr(self.answers)}, expected a list of texts.")
        for number, answer in enumerate(self.answers):
            _check(f"answers[{number}]", answer)
        object.__setattr__(self, ANSWERS, tuple(dict.fromkeys((self.answer, *self.answers))))


def read_questions(file: str | Path) -> list[Question]:
    """Read questions from a UTF-8 file of JSON lines `{"document": …, "question": …, "answer": …}`.

    Args:
        file: The file. Empty lines are skipped, and other fields of an object are ignored. A line may have a list
            "answers" of all accepted answers, beside "answer" or in its place.

    Returns:
        The questions, in the order of the file.

    Raises:
        NotFoundError: The file does not exist.
        ReadError: The system refused to read the file.
        UsageError: A line is not such an object, or the file holds no question. The message names the line.
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
    """The question in a line. ValueError names the fault."""
    value = json.loads(line, object_pairs_hook=_object, parse_constant=_constant)
    if not isinstance(value, dict):
        raise ValueError(f"{reprlib.repr(value)} is no object")  # noqa: TRY004  # of what the user wrote
    accepted = value.get(ANSWERS, ())
    if isinstance(accepted, list) and accepted:
        value.setdefault("answer", accepted[0])
    for name in FIELDS:
        if name not in value:
            raise ValueError(f"{name!r} is missing")
    return Question(value["document"], value["question"], value["answer"], accepted)


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
    """Up to `count` questions, each a sentence of the text with a blank for a name, a number or a long word. No two have the same blank."""
    chance = random.Random(f"{seed} {document} {text}")
    language = language_of(text)
    told = sentences(text, language)
    places = [(number, place) for number, words in enumerate(told) for place in telling_places(words, language)]
    chosen = sorted(chance.sample(places, min(count, len(places))))
    return [_cloze(document, told[number], place, chance, language) for number, place in chosen]


def _cloze(document: str, words: Sequence[str], place: int, chance: random.Random, language: Language) -> Question:
    asked, answer = blanked(words, place, blank_end(words, place, chance, language), language)
    return Question(document, f"Fill in the blank: {asked}", answer)


def blank_end(words: Sequence[str], begin: int, chance: random.Random, language: Language) -> int:
    """The end of some words to ask for: the one at `begin`, and perhaps more if they are telling too."""
    end = begin + 1
    while (
        end < len(words) and end - begin < MOST_BLANK_WORDS and language.telling(words[end]) and chance.random() < 0.7
    ):
        if language.code != "en" and language.apart(*words[end - 1 : end + 1]):  # English keeps its first rule
            break
        end += 1
    return end


def blanked(words: Sequence[str], begin: int, end: int, language: Language) -> tuple[str, str]:
    """The words with a blank in place of some, and these."""
    taken = language.glue.join(words[begin:end])
    answer = language.bare(taken) or words[begin]
    # English keeps its first rule, which drops the marks in front.
    lead = "" if language.code == "en" else taken[: taken.index(answer)]
    rest = words[end - 1][len(words[end - 1].rstrip(language.marks)) :]
    return language.glue.join([*words[:begin], f"{lead}{BLANK}{rest}", *words[end:]]), answer
