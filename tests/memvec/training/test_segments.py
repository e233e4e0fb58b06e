"""Segments tile the text, decode to their own bytes, keep to budget and cap, and end where a reader would pause."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memvec.settings import PackSettings
from memvec.training.segments import MOST_VECTORS, WINDOW, cut, surprisal, vectors_for

SETTINGS = PackSettings(nats_per_vector=9.0, segment_tokens=32)


def segments_of(lm: Any, text: str, chosen: PackSettings = SETTINGS) -> Any:
    ids = lm.encode(text)
    return cut(text, ids, surprisal(lm, [ids])[0], lm, chosen)


@given(text=st.text(min_size=1, max_size=120) | st.text("ab \n.\ufffd😀é你", min_size=1, max_size=200))
@settings(max_examples=60, deadline=None)
def test_segments_tile_any_text(tiny_lm: Any, text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    if data.decode("utf-8", "ignore") != text:
        return  # lone surrogates are no text
    segments = segments_of(tiny_lm, text)
    assert segments is not None
    reached = 0
    for segment in segments:
        assert segment.start == reached
        piece = data[reached : reached + segment.length]
        assert tiny_lm.decode(segment.ids).encode() == piece
        piece.decode("utf-8")  # a cut never splits a character
        reached += segment.length
    assert reached == len(data)


def test_segments_keep_to_cap_and_budget(tiny_lm: Any) -> None:
    text = "Elizabeth walked on alone, and thought of nothing but the letter that she had read. " * 12
    segments = segments_of(tiny_lm, text)
    assert all(len(s.ids) <= 32 for s in segments)
    tight = PackSettings(nats_per_vector=4.0, segment_tokens=64)
    hard = "Zqx vrblt. Kwxy plonk? " * 20
    ids = tiny_lm.encode(hard)
    for segment, nats in zip(
        s := segments_of(tiny_lm, hard, tight), surprisal(tiny_lm, [x.ids for x in s]), strict=True
    ):
        # Cut by the document's surprisal; alone, a segment also pays for its first token and for lost context.
        assert sum(nats) <= 4.0 * MOST_VECTORS + 2 * math.log(tiny_lm.vocabulary) + 20, segment
    assert sum(len(s.ids) for s in segments_of(tiny_lm, hard, tight)) == len(ids)


def test_cuts_prefer_line_and_sentence_ends(tiny_lm: Any) -> None:
    lines = "".join(f"Day {i}.\n" for i in range(60))
    segments = segments_of(tiny_lm, lines, PackSettings(nats_per_vector=30.0, segment_tokens=32))
    ends = [lines.encode()[: s.start + s.length].endswith(b"\n") for s in segments]
    assert sum(ends) > 0.8 * len(ends)


def test_no_stump_is_left(tiny_lm: Any) -> None:
    for words in range(20, 120, 7):
        segments = segments_of(tiny_lm, "and so it went " * words)
        sizes = [len(s.ids) for s in segments]
        assert min(sizes) >= max(sizes) / 4, sizes


def test_surprisal_is_the_models_own(tiny_lm: Any) -> None:
    import torch

    ids = tiny_lm.encode("It is a truth universally acknowledged, that a single man")
    with torch.no_grad():
        logits = tiny_lm.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = [math.log(tiny_lm.vocabulary), *(-logits[i, t].item() for i, t in enumerate(ids[1:]))]
    alone, beside_others = surprisal(tiny_lm, [ids])[0], surprisal(tiny_lm, [ids[:5], ids, []])[1]
    assert alone == pytest.approx(expected, abs=1e-3)
    assert beside_others == pytest.approx(expected, abs=1e-3)
    assert len(surprisal(tiny_lm, [ids * 40])[0]) == len(ids) * 40 > WINDOW


def test_fixed_vectors(tiny_lm: Any) -> None:
    fixed = PackSettings(nats_per_vector=9.0, segment_tokens=64, vectors=3)
    segments = segments_of(
        tiny_lm, "Mr. Bingley was good-looking and gentlemanlike; he had a pleasant face. " * 6, fixed
    )
    assert max(len(s.ids) for s in segments) < 20  # 18 nats, the anchor has none, do not reach far
    assert vectors_for(500.0, 10, 128, fixed) == 3


def test_vectors_follow_the_nats() -> None:
    assert vectors_for(9.0, 32, 128, SETTINGS) == 1 + 1  # with the anchor
    assert vectors_for(9.1, 32, 128, SETTINGS) == 1 + 2
    assert vectors_for(9.1, 32, 128, replace(SETTINGS, anchor=False)) == 2
    assert vectors_for(900.0, 32, 128, SETTINGS) == 1 + 32  # never more vectors than tokens
    assert vectors_for(950.0, 64, 576, PackSettings()) == 1 + 10  # 95 nats at the default model's width
