"""Find the language of a text by the scripts of its letters, and by the shares of common words among its words."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace
from statistics import fmean

from memvec.languages.language import UNSPACED_LETTERS, Language, by_code, with_common_words

LEAST_SHARE, LEAST_WORDS = 0.2, 3  # common words of a language that must be in a text
_UNSPACED = re.compile(UNSPACED_LETTERS)
_WORD = re.compile(r"[^\W\d_]+")


def language_of(text: str) -> Language:
    """The language of most of a text. A text in Latin letters is English until it is clearly something else."""
    letters = [letter for letter in text if letter.isalpha()]
    unspaced = len(_UNSPACED.findall(text))
    # Two letters of such a script say as much as one word of some five letters.
    if 5 * unspaced > 2 * (len(letters) - unspaced):
        return by_code("unspaced")
    words = _WORD.findall(text)
    if 2 * sum(map(_is_latin, letters)) < len(letters):
        # Which words are worth asking for depends on the script: Arabic and Korean words are short.
        return replace(by_code("other"), long=int(fmean(map(len, text.split()))))
    # Names, such as Los Angeles, have capitals, so they do not count.
    found = {known: sum(word in known.common for word in words) for known in with_common_words()}
    likely = max(found, key=found.__getitem__)
    return likely if found[likely] >= max(LEAST_WORDS, LEAST_SHARE * len(words)) else by_code("en")


def _is_latin(letter: str) -> bool:
    return letter.isascii() or unicodedata.name(letter, "").startswith("LATIN")
