"""Near words are the tokens whose embeddings point the same way, other forms of the same word and pieces of words aside."""

from __future__ import annotations

from typing import Any

import torch

from memvec.retrieval.neighbours import Thesaurus

TOKENS = [" fee", " price", " Fee", "fee", " fe", " 17", " barge", " sea", " ship"]
DIRECTIONS = [
    [1, 0, 0],
    [1, 0.9, 0],
    [1, 0.8, 0],
    [1, 0.7, 0],
    [1, 0.8, 0],
    [1, 0.6, 0],
    [-1, 0, 2],
    [-1, 0, 2],
    [-1, -2, -2],
]


class _Words:
    """As much of a model as a thesaurus needs: a token for each word."""

    table = torch.tensor(DIRECTIONS, dtype=torch.float32)

    def encode(self, text: str) -> list[int]:
        return [TOKENS.index(text)] if text in TOKENS else [0, 1]

    def decode(self, ids: list[int]) -> str:
        return TOKENS[ids[0]]


def test_near_words_are_whole_other_words_in_lower_case() -> None:
    lm: Any = _Words()
    near = Thesaurus(lm).near
    assert near("fee") == ("price",)  # not itself capitalised or inside a word, nor pieces, nor numbers
    assert near("barge") == ()  # " sea" points the very same way: as likely the same word spelled otherwise
    assert near("quay") == ()  # two tokens
    assert near("17") == ()
