"""Cut a text into sentences, and these into words.

Without spaces between words, short runs of letters stand for words. A dictionary would be needed to do better.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from memvec.languages.language import UNSPACED_LETTERS, Language

LEAST_WORDS, LEAST_RUNS = 5, 3  # shorter sentences are left out
RUN_LETTERS = 4  # most in a run that stands for a word
_END_ENGLISH = re.compile(r"(?<=[.!?;])\s+")
# No sentence ends behind a single letter, as in "z. B.", or a day, as in "7. Februar".
_END = re.compile(r"(?<=[.!?;…؟؛।॥])(?<!\b\w\.)\s+")
_END_GERMAN = re.compile(rf"(?<!\b\d\d\.){_END.pattern}")
_THAI = "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]"  # and its like: a space ends a clause or a sentence
_END_UNSPACED = re.compile(rf"(?<=[。！？；!?;…။។])|\n|(?<={_THAI})\s+(?={_THAI})")
_OPENING = f"[{re.escape('«‹„“‘¿¡([{「『《〈【（')}]"  # marks that belong to the word behind them
_KATAKANA = "[\u30a1-\u30ff]"
# Vowels and tones that belong to the letter in front of them, and vowels that belong to the one behind them
_BEHIND = (
    "[\u0e30-\u0e3a\u0e45\u0e47-\u0e4e\u0eb0-\u0ebc\u0ec8-\u0ece\u102b-\u103e\u1056-\u1059\u17b4-\u17d3\u3099\u309a]"
)
_BEFORE = "[\u0e40-\u0e44\u0ec0-\u0ec4]"


def sentences(text: str, language: Language) -> list[list[str]]:
    """The words of each sentence, short sentences left out. `language.glue` joins them again."""
    least = LEAST_WORDS
    if language.code == "unspaced":
        least = LEAST_RUNS
        found = [_run(language).findall(" ".join(sentence.split())) for sentence in _END_UNSPACED.split(text)]
    elif language.code == "en":
        found = [sentence.split() for sentence in _END_ENGLISH.split(text)]
    else:
        end = _END_GERMAN if language.code == "de" else _END
        found = [_words(sentence, language) for sentence in end.split(text)]
    return [words for words in found if len(words) >= least]


def telling_places(words: Sequence[str], language: Language) -> list[int]:
    """The places of the words of a sentence that are worth asking for. The first is left out, as it always has a capital."""
    first = 0 if language.code == "unspaced" else 1
    return [place for place in range(first, len(words)) if language.telling(words[place])]


def run_starts(words: Sequence[str], places: Sequence[int], language: Language) -> list[int]:
    """The places at which a run of telling words begins: the word in front is not telling, or marks stand between."""
    return [
        place
        for place in places
        if not place or not language.telling(words[place - 1]) or language.apart(*words[place - 1 : place + 1])
    ]


def _words(sentence: str, language: Language) -> list[str]:
    """Words between spaces. Marks between spaces, such as a dash or the French "?", belong to the word in front."""
    found: list[str] = []
    for word in sentence.split():
        if found and not (_has_letters(word) and _has_letters(found[-1])):
            found[-1] += f" {word}"
        else:
            found.append(word)
    return found


def _has_letters(word: str) -> bool:
    return any(map(str.isalnum, word))


@cache
def _run(language: Language) -> re.Pattern[str]:
    """Matches a short run of letters of one kind, with the marks around it. Joined, the runs are the sentence."""
    common = f"[{''.join(sorted(language.common))}]"
    letter = f"(?!{common}|{_KATAKANA}){_BEFORE}?{UNSPACED_LETTERS}{_BEHIND}*"
    other = rf"(?:(?!{UNSPACED_LETTERS})\w)+"
    kinds = f"{common}+|{_KATAKANA}+|(?:{letter}){{1,{RUN_LETTERS}}}|{other}(?:[.,:'’-]{other})*"
    mark = rf"(?!{UNSPACED_LETTERS}|{_OPENING}{{1,8}}(?:{UNSPACED_LETTERS}|\w))\W"
    return re.compile(f"{_OPENING}{{,8}}(?:{kinds})(?:{mark})*")
