"""Texts to measure a model on: passages of a given text, Python's handbook, and words in no order."""

from __future__ import annotations

import random

from memvec.errors import UsageError
from memvec.lm.frozen import FrozenLM

LETTERS_A_TOKEN = 8  # more than tokenizers take in running text
WORD_LETTERS = 3  # fewest of a random word


def handbook() -> dict[str, str]:
    """Python's own handbook, which every interpreter brings: {name: text}."""
    from pydoc_data.topics import topics

    return {"python-handbook": "\n".join(topics[name] for name in sorted(topics))}


def passages(lm: FrozenLM, text: str, count: int, most: int) -> list[tuple[int, ...]]:
    """`count` evenly spaced passages of `text`, from a line's start where one is near, of at most `most` tokens. UsageError."""
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
    """`count` rows of `most` tokens of words drawn evenly from those that are one token of the vocabulary."""
    said = [lm.decode([token]) for token in range(lm.vocabulary)]
    words = [w for w in said if len(w) > WORD_LETTERS and w[0] == " " and w[1:].isalpha() and w.isascii()]
    if not words:
        raise UsageError("this tokenizer has no tokens that are words. Pass a text instead.")
    chance = random.Random(seed)
    return [tuple(lm.encode("".join(chance.choices(words, k=most)).strip())[:most]) for _ in range(count)]
