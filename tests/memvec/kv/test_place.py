"""Selected rows in front of prompts: keys at their places, in batches of memories, of none, and of both."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from reading import behind, behind_text, off, prose, tokens, uneven, whole
from transformers import DynamicCache

from memvec.kv import scores
from memvec.kv.compact import compact
from memvec.kv.fronts import FrontCache
from memvec.kv.place import layer_first, placed, plain
from memvec.kv.selection import Selection
from memvec.lm.frozen import FrozenLM
from memvec.templates.template import Frame, frame

BEFORE = (7, 9)


@pytest.fixture
def template(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tokens before a document: the tiny LM has no BOS."""
    monkeypatch.setattr(scores, "frame", lambda tokenizer, words: Frame(BEFORE, frame(tokenizer, words).after))


@pytest.mark.usefixtures("template")
def test_everything_kept_is_the_text(tiny_lm: FrozenLM) -> None:
    """In a plain cache, and with a front."""
    text, question = tokens(tiny_lm, 30), tokens(tiny_lm, 6, 1)
    wanted = behind_text(tiny_lm, [*BEFORE, *text], question)
    memories = whole(tiny_lm, [text])
    for made in (placed(tiny_lm.model, memories, [BEFORE]), uneven(tiny_lm, memories, [BEFORE])):
        assert made.held.tolist() == [[1] * 32] and off(behind(tiny_lm, made, question), wanted) < 1e-5


@pytest.mark.usefixtures("template")
def test_mixed_rows_are_those_of_single_memories(tiny_lm: FrozenLM) -> None:
    """Memories of several lengths and none, with and without tokens before them, in one batch."""
    question = tokens(tiny_lm, 5, 1)
    texts = [tokens(tiny_lm, many, many) for many in (30, 12, 21)]
    one, two, three = (compact(tiny_lm, [text], ratio)[0] for text, ratio in zip(texts, (3, 2, 1), strict=True))
    even = compact(tiny_lm, texts[:1], 3, "even")[0]
    memories: list[Selection | None] = [one, None, two, three, even, None, two]
    before = [BEFORE, (5, 6, 4, 3), (), BEFORE, (8,), (), (8, 9, 3)]
    made = placed(tiny_lm.model, memories, before)
    for row, (memory, own) in enumerate(zip(memories, before, strict=True)):
        if memory is not None:
            wanted = behind(tiny_lm, placed(tiny_lm.model, [memory], [own]), question)
        elif own:
            wanted = behind_text(tiny_lm, own, question)
        else:
            wanted = behind_text(tiny_lm, question[:1], question[1:])
        found = behind(tiny_lm, made, question, row)
        assert off(found if memory is not None or own else found[1:], wanted) < 1e-5, row


def test_even_memories_make_a_plain_cache(tiny_lm: FrozenLM) -> None:
    """It gives the logits that a front gives, for memories of several lengths."""
    texts, question = [tokens(tiny_lm, many, many) for many in (30, 12)], tokens(tiny_lm, 5, 1)
    memories = compact(tiny_lm, texts, 3, "even")
    made, fronts = placed(tiny_lm.model, memories, [(), (3, 4)]), uneven(tiny_lm, memories, [(), (3, 4)])
    assert type(made.cache) is DynamicCache and isinstance(fronts.cache, FrontCache)
    assert made.held.tolist() == fronts.held.tolist() == [[0, 0, *[1] * 10], [1, 1, *[0] * 6, *[1] * 4]]
    for row in range(2):
        assert off(behind(tiny_lm, made, question, row), behind(tiny_lm, fronts, question, row)) < 1e-5
    head = compact(tiny_lm, texts, 3)
    assert isinstance(placed(tiny_lm.model, head, [(), ()]).cache, FrontCache)


def test_keys_keep_all_their_distances(tiny_lm: FrozenLM) -> None:
    """Positions that a memory saves change nothing: neither for the question, nor between it and the tokens before."""
    question, before = tokens(tiny_lm, 5, 1), (5, 6, 4)
    kept = compact(tiny_lm, [prose(tiny_lm, 60)], 4)[0]
    wanted = behind(tiny_lm, placed(tiny_lm.model, [dataclasses.replace(kept, positions=60)], [before]), question)
    errors = []
    for positions in (59, 15, 1):
        made = placed(tiny_lm.model, [dataclasses.replace(kept, positions=positions)], [before])
        assert made.held.shape == (1, 3 + positions)
        errors.append(off(behind(tiny_lm, made, question), wanted))
    assert max(errors) < 1e-5
    elsewhere = dataclasses.replace(kept, distances=kept.distances + 1)
    assert off(behind(tiny_lm, placed(tiny_lm.model, [elsewhere], [before]), question), wanted) > 1e-3


def test_a_plain_cache_needs_rows_for_all_positions(tiny_lm: FrozenLM) -> None:
    """Even memories that take more positions than they keep rows stand in a front, as GPT-2's do."""
    kept = compact(tiny_lm, [tokens(tiny_lm, 30)], 3, "even")[0]
    made = placed(tiny_lm.model, [dataclasses.replace(kept, positions=30)], [()])
    assert isinstance(made.cache, FrontCache) and made.held.shape == (1, 30)


def test_the_order_of_layers() -> None:
    """Rows that lie memory by memory are found layer by layer."""
    counts = torch.tensor([[[1, 1], [0, 1]], [[0, 0], [2, 0]]])  # two memories of two layers
    assert layer_first(counts).tolist() == [0, 1, 2, 3, 4]
    assert layer_first(counts.flip(0)).tolist() == [2, 3, 0, 1, 4]


def test_plain_keeps_the_mask(tiny_lm: FrozenLM) -> None:
    """Padding of shorter memories is where the mask has it."""
    memories = whole(tiny_lm, [tokens(tiny_lm, 9), tokens(tiny_lm, 4)])
    made = plain(uneven(tiny_lm, memories, [(), ()]))
    assert not made.cache.layers[0].keys[1, :, :5].any() and made.held[1].tolist() == [0] * 5 + [1] * 4  # type: ignore[attr-defined]
