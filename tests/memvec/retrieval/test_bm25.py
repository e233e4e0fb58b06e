"""Words of texts, and BM25 over them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from memvec.retrieval.bm25 import TermIndex, terms
from memvec.retrieval.embedders import Words


def index_of(texts: Sequence[str]) -> TermIndex:
    """An index of texts, in order."""
    part = Words().keys({bytes([i] * 32): text for i, text in enumerate(texts)})
    return TermIndex([part], [(0, i) for i in range(len(texts))])


def scores(texts: Sequence[str], query: str) -> list[float]:
    """What each text scores."""
    return index_of(texts).scores(list(terms(query))).tolist()


def test_case_composition_and_common_endings_do_not_matter() -> None:
    assert terms("The FERRIES waited") == terms("the ferri waits")
    assert terms("cafe\u0301") == terms("CAFÉ")
    assert terms("bed bus") != terms("b bu")  # short words keep their ends


def test_scripts_without_spaces_are_found_by_a_part() -> None:
    found = scores(["北京的天气很好", "海边的灯塔"], "天气")
    assert found[0] > 0 == found[1]


def test_rare_words_weigh_more_and_long_texts_less() -> None:
    found = scores(["ferry at six", "the mail at six", "the dog at six", "the ferry" + " and so on" * 40], "the ferry")
    assert found[0] > found[1] == found[2] > 0  # fewer have "ferry"
    assert found[0] > found[3] > 0  # both words, among many others


def test_scores_are_shares_and_unknown_words_lower_them() -> None:
    texts = ["a lamp on the north pier", "a key in the engine room"]
    (known, _), (mixed, _) = scores(texts, "north pier"), scores(texts, "north pier zebra quagga")
    assert 0 < mixed < known <= 1


def test_bm25_is_that_of_robertson_and_zaragoza() -> None:
    texts = ["red red blue", "blue green"]
    lengths, mean = np.array([3, 2]), 2.5
    rarity = np.log1p((2 - 1 + 0.5) / (1 + 0.5))  # "red" is in one of two
    expected = rarity * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * lengths[0] / mean)) / (rarity * 2.2)
    assert scores(texts, "red")[0] == pytest.approx(expected, rel=1e-5)


def test_texts_without_terms_score_nothing() -> None:
    part = Words().keys({bytes(32): "word"})
    assert TermIndex([part], [None, (0, 0)]).scores(list(terms("word"))).tolist()[0] == 0
    assert TermIndex([], []).scores([1]).tolist() == []
