"""What in a text is worth asking for: sentences, telling words, words that say nothing. Knows no model."""

from __future__ import annotations

import re
from collections.abc import Sequence

LEAST_WORDS = 5  # of a sentence worth asking about
MARKS = ".,;:!?\"'()"
_COMMON = (
    "a about after again all also an and any are as at be because been before but by can could did do does each for "
    "from had has have he her here him his i if in into is it its just may me might more most must my no not of off "
    "on once only or our out over shall she should since so such than that the their them then there these they this "
    "those to too under until up us very was we were what when where which while who whom whose will with would you "
    "your "
)
COMMON = frozenset(_COMMON.split())


def sentences(text: str) -> list[list[str]]:
    """The words of each sentence that has some."""
    found = [sentence.split() for sentence in re.split(r"(?<=[.!?;])\s+", text)]
    return [words for words in found if len(words) >= LEAST_WORDS]


def telling(word: str) -> bool:
    """Is a word worth asking for: a name, a number or a long word?"""
    return word[0].isupper() or word[0].isdigit() or len(word) > 6


def telling_places(words: Sequence[str]) -> list[int]:
    """Where telling words stand, the first word aside."""
    return [place for place in range(1, len(words)) if telling(words[place])]
