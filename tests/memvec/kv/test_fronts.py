"""The attention of fronts, against a loop over rows and heads; and their caches, whose rows can be chosen and repeated."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import make
from reading import behind, behind_text, off, tokens, uneven, whole
from torch import Tensor

from memvec.errors import UnsupportedModelError
from memvec.kv.compact import compact, gathered
from memvec.kv.fronts import FrontCache
from memvec.kv.place import placed
from memvec.kv.scores import read
from memvec.lm.frozen import FrozenLM
from memvec.lm.load import load

HEADS, SHARED, WIDTH, ASKED, BEFORE = 2, 2, 32, 3, 2


def fronts(lm: FrozenLM) -> Any:
    """The front of the first layer, of two memories that keep as many rows in no two heads."""
    texts = [tokens(lm, 30), tokens(lm, 14, 1)]
    return placed(lm.model, compact(lm, texts, 3), [(5, 6), (4,)]).cache


def states(chance: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys and values of a layer with two positions before the memory, and a mask with padding."""
    shapes = ((2, HEADS * SHARED, ASKED, WIDTH), *[(2, HEADS, BEFORE + ASKED, WIDTH)] * 2)
    query, key, value = (torch.randn(shape, generator=chance) for shape in shapes)
    own = torch.ones(ASKED, ASKED, dtype=torch.bool).tril()[None, None].expand(2, 1, -1, -1)
    before = torch.tensor([[True, True], [False, True]])[:, None, None].expand(-1, 1, ASKED, -1)
    return query, key, value, torch.cat([before, own], -1)


def by_hand(front: Any, query: Tensor, key: Tensor, value: Tensor, own: Tensor) -> Tensor:
    """Softmax over what each query sees, one row and head at a time."""
    out = torch.zeros(2, ASKED, HEADS * SHARED, WIDTH)
    for row in range(2):
        for group in front.groups:
            for number, head in enumerate(group.heads):
                seen = group.distances[row, number] > 0
                keys = torch.cat([group.keys[row, number][seen], key[row, head]])
                values = torch.cat([group.values[row, number][seen], value[row, head]])
                for ask in range(ASKED):
                    hidden = torch.cat([torch.zeros(int(seen.sum())), torch.where(own[row, 0, ask], 0, -torch.inf)])
                    for one in range(head * SHARED, (head + 1) * SHARED):
                        weights = (keys @ query[row, one, ask] * 0.3 + hidden).softmax(0)
                        out[row, ask, one] = weights @ values
    return out


@pytest.mark.parametrize("boolean", [True, False])
def test_attention_by_hand(tiny_lm: FrozenLM, boolean: bool) -> None:
    """Heads of every length, with masks of both kinds."""
    for number, layer in enumerate(fronts(tiny_lm).layers):
        front = layer.front
        query, key, value, own = states(torch.Generator().manual_seed(number))
        among = torch.ones(2, 1, ASKED, front.positions, dtype=torch.bool)  # a front does not look at its own columns
        mask = torch.cat([own[..., :BEFORE], among, own[..., BEFORE:]], -1)
        if not boolean:
            mask = torch.where(mask, 0.0, torch.finfo(torch.float32).min)
        found, _ = front.attend(SimpleNamespace(), query, key, value, mask, scaling=0.3)
        assert off(found, by_hand(front, query, key, value, own)) < 1e-5


@pytest.mark.parametrize("name", ["s_aux", "softcap"])
def test_unknown_changes_of_weights_are_refused(tiny_lm: FrozenLM, name: str) -> None:
    """Sinks and caps would be left out."""
    front = fronts(tiny_lm).layers[0].front
    query, key, value, mask = states(torch.Generator())
    with pytest.raises(UnsupportedModelError, match="attention weights"):
        front.attend(SimpleNamespace(), query, key, value, mask, **{name: torch.zeros(4)})


def test_rows_are_chosen_and_repeated(tiny_lm: FrozenLM) -> None:
    """As beams, batches and `num_return_sequences` do."""
    question, memories = tokens(tiny_lm, 4, 3), whole(tiny_lm, [tokens(tiny_lm, 12), tokens(tiny_lm, 7, 1)])
    made = uneven(tiny_lm, memories, [(3, 5), (4,)])
    wanted = [behind(tiny_lm, made, question, row) for row in (0, 1)]
    for rows, change in (
        ([1, 1, 0], lambda cache: cache.batch_select_indices(torch.tensor([1, 1, 0]))),
        ([0, 0, 1, 1], lambda cache: cache.batch_repeat_interleave(2)),
    ):
        cache: Any = made.cache.branched(torch.arange(2))  # type: ignore[attr-defined]
        change(cache)
        assert isinstance(cache, FrontCache) and cache.get_seq_length() == 2 + 12
        chosen = type(made)(cache, made.held[rows])
        for row, owner in enumerate(rows):
            assert off(behind(tiny_lm, chosen, question, row), wanted[owner]) < 1e-5


@pytest.mark.parametrize("name", ["mistral", "gemma3", "olmo3"])
def test_sliding_windows_are_those_of_the_text(name: str, tmp_path: Path) -> None:
    """Rows out of every question's sight may go. However few positions are left, the model answers as behind the text."""
    lm = load(make(name, tmp_path))  # a window of 16
    text, question = tokens(lm, 40), tokens(lm, 6, 1)
    found = read(lm, [text], "norm")
    wanted = behind_text(lm, [*[lm.tokenizer.bos_token_id] * found.before, *text], question)
    kinds = lm.model.config.layer_types if name != "mistral" else ["sliding_attention"] * 2
    kept = torch.zeros_like(found.scores, dtype=torch.bool)
    for of_layer, kind in zip(kept, kinds, strict=True):
        of_layer[:, :, -15 if kind == "sliding_attention" else 0 :] = True
    for positions in (40, 15, 5):
        memory = gathered(lm, found, kept, [positions])
        before = [[lm.tokenizer.bos_token_id] * found.before]
        assert off(behind(lm, placed(lm.model, memory, before), question), wanted) < 1e-5, positions
