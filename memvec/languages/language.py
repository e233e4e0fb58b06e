"""The languages that questions are made in, and the words of each, from `data/languages.json`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

ENGLISH_MARKS = ".,;:!?\"'()"
MARKS = ENGLISH_MARKS + "«»‹›„“”‚‘’¿¡…–—―[]{}，。、；：！？（）「」『』《》〈〉【】؟،؛।॥။។ \t"
# Scripts without spaces between words: Thai and Lao, Myanmar, Khmer, kana, Chinese characters.
UNSPACED_LETTERS = "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
_ELIDED = re.compile(r"^(?:[cdjlmnst]|qu|jusqu|lorsqu|puisqu)['’]", re.IGNORECASE)  # "d'", "l'" before a French word


@dataclass(frozen=True, slots=True)
class Language:
    """What the rules for questions and answers need to know of a language."""

    code: str  # such as "en"; "unspaced": in a script without spaces between words; "other": not in Latin letters
    articles: tuple[str, ...] = ()
    common: frozenset[str] = frozenset()  # words that are worth nothing alone; letters in "unspaced"
    places: tuple[str, ...] = ()  # words in front of a place, such as "in", and likewise below
    because: tuple[str, ...] = ()
    by: tuple[str, ...] = ()
    dated: re.Pattern[str] | None = None  # matches an answer that is a date
    question: str = "{}"  # how a question is written, around its words
    # Question words for ordinary words, names, places, numbers, dates, reasons and agents. Without any, questions have a
    # blank in place of the answer.
    leads: Mapping[str, Sequence[str]] = field(default_factory=dict, hash=False)
    marks: str = MARKS  # around words
    long: int = 6  # letters; longer words are worth asking for

    @property
    def glue(self) -> str:
        """What stands between two words."""
        return "" if self.code == "unspaced" else " "

    def bare(self, word: str) -> str:
        """A word without marks around it, and in French without "l'" and its like."""
        found = word.strip(self.marks)
        return _ELIDED.sub("", found) if self.code == "fr" else found

    def is_common(self, word: str) -> bool:
        """Is a word worth nothing alone? Without spaces, a run of such letters is."""
        bare = self.bare(word).lower()
        return self.common.issuperset(bare) if self.code == "unspaced" else bare in self.common

    def telling(self, word: str) -> bool:
        """Is a word worth asking for: a name, a number or a long word?"""
        if self.code == "en":  # keeps its first rule, so that the same text gives the same questions as ever
            return word[0].isupper() or word[0].isdigit() or len(word) > self.long
        bare = self.bare(word)
        return bare[:1].isupper() or bare[:1].isdigit() or (len(bare) > self.long and not self.is_common(bare))

    def apart(self, word: str, following: str) -> bool:
        """Do marks stand between two words?"""
        behind = word.rstrip()[-1] in self.marks
        return behind if self.code == "en" else behind or following[0] in self.marks


@cache
def by_code(code: str) -> Language:
    """The language of a code. One that the table lacks has no words of its own."""
    entry = _table().get(code, {})
    months = entry.get("months", "").split()
    return Language(
        code,
        articles=tuple(entry.get("articles", "").split()),
        common=frozenset(entry["common"].split() if "common" in entry else entry.get("letters", "")),
        places=tuple(entry.get("places", ())),
        because=tuple(entry.get("because", ())),
        by=tuple(entry.get("by", ())),
        dated=re.compile(rf"(1[0-9]{{3}}|20[0-9]{{2}}|.*\b({'|'.join(months)}))\b") if months else None,
        question=entry.get("question", "{}"),
        leads=entry.get("leads", {}),
        marks=ENGLISH_MARKS if code == "en" else MARKS,
        long=entry.get("long", 6),
    )


@cache
def with_common_words() -> tuple[Language, ...]:
    """The languages in Latin letters that are told apart by their common words, English first."""
    return tuple(by_code(code) for code, entry in _table().items() if "common" in entry)


@cache
def _table() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((files("memvec") / "data" / "languages.json").read_text("utf-8"))
    return found
