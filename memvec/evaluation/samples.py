"""Texts to measure a model on: passages of a given text, Python's handbook, and random words."""

from __future__ import annotations

import random

from memvec.errors import UsageError
from memvec.lm.frozen import FrozenLM

LETTERS_A_TOKEN = 8  # more letters than a token of running text has
WORD_LETTERS = 3  # a random word has more letters


def handbook() -> dict[str, str]:
    """The handbook that comes with every Python interpreter: {name: text}."""
    from pydoc_data.topics import topics

    return {"python-handbook": "\n".join(topics[name] for name in sorted(topics))}


def passages(lm: FrozenLM, text: str, count: int, most: int) -> list[tuple[int, ...]]:
    """Take `count` evenly spaced passages of at most `most` tokens, from the start of a line if one is near. UsageError."""
    if len(text) < count * LETTERS_A_TOKEN:
        raise UsageError(
            f"a text of {len(text)} characters is too short for {count} passages. Give more, or ask for fewer."
        )
    out = []
    for number in range(count):
        begin, end = len(text) * number // count, len(text) * (number + 1) // count
        line = text.find("\n", begin, (begin + end) // 2) + 1 if number else 0
        out.append(tuple(lm.encode(text[line or begin : end][: most * LETTERS_A_TOKEN])[:most]))
    return out


def random_words(lm: FrozenLM, count: int, most: int, seed: int) -> list[tuple[int, ...]]:
    """Draw `count` rows of `most` tokens, of random words that are one token each."""
    said = [lm.decode([token]) for token in range(lm.vocabulary)]
    words = [w for w in said if len(w) > WORD_LETTERS and w[0] == " " and w[1:].isalpha() and w.isascii()]
    if not words:
        raise UsageError(
            "this tokenizer has no tokens that are words, so no random words can be drawn. Pass a text instead."
        )
    chance = random.Random(seed)
    return [tuple(lm.encode("".join(chance.choices(words, k=most)).strip())[:most]) for _ in range(count)]
