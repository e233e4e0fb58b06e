"""Rows behind shared prefixes: grouped with the least padding, and drawn from as the LM's odds say."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memvec.lm.scoring import Row, alike, run_prefixes, run_rows, sample

TEXT = """Mr. Bennet was so odd a mixture of quick parts, sarcastic humour, reserve, and caprice, that the experience of
three-and-twenty years had been insufficient to make his wife understand his character. Her mind was less difficult to
develop. She was a woman of mean understanding, little information, and uncertain temper."""


def cost(lengths: list[int], groups: list[list[int]], a_pass: int) -> int:
    return sum(len(group) * max(lengths[r] for r in group) + a_pass for group in groups)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=7), st.integers(0, 60))
def test_no_other_cut_of_the_sorted_rows_costs_less(lengths: list[int], a_pass: int) -> None:
    groups = alike(lengths, a_pass)
    assert sorted(itertools.chain(*groups)) == list(range(len(lengths)))
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    for cuts in itertools.product([False, True], repeat=len(lengths) - 1):
        other = [[order[0]]]
        for r, cut in zip(order[1:], cuts, strict=True):
            if cut:
                other.append([r])
            else:
                other[-1].append(r)
        assert cost(lengths, groups, a_pass) <= cost(lengths, other, a_pass)


def test_where_passes_are_dear_all_rows_run_at_once() -> None:
    assert alike([3, 40, 5], 1000) == [[0, 2, 1]]
    assert alike([3, 40, 4], 0) == [[0], [2], [1]]


def test_what_is_drawn_has_the_odds_of_the_lm(tiny_lm: Any) -> None:
    front = tiny_lm.embed(torch.tensor(tiny_lm.encode("It is a truth universally")))
    head, temperature, draws = tiny_lm.encode(" ")[0], 1.5, 4000
    row = torch.cat([front, tiny_lm.embed(torch.tensor([head]))])[None]
    with torch.inference_mode():
        odds = (tiny_lm.model(inputs_embeds=row).logits[0, -1] / temperature).softmax(0)
    said = sample(tiny_lm, [front], [0] * draws, [[head]] * draws, 1, temperature, seed=3)
    seen = torch.bincount(torch.tensor([ids[0] for ids in said]), minlength=len(odds)) / draws
    assert float((seen - odds).abs().max()) < 4 * (0.25 / draws) ** 0.5
    assert said == sample(tiny_lm, [front], [0] * draws, [[head]] * draws, 1, temperature, seed=3)


@pytest.mark.parametrize("length", [1, 3])
def test_drawing_ends_when_every_row_is_over(tiny_lm: Any, length: int) -> None:
    front = torch.zeros(0, tiny_lm.width)
    heads = [tiny_lm.encode("It")[:1]] * 3
    said = sample(tiny_lm, [front], [0] * 3, heads, 9, 0.0, over=lambda ids: len(ids) == length)
    assert [len(ids) for ids in said] == [length] * 3


def test_heads_of_several_lengths_share_prefixes(tiny_lm: Any) -> None:
    """Each row goes on as the model does behind its prefix and its head alone."""
    ids = tiny_lm.encode(TEXT)
    texts, heads, owner = [ids[:9], ids[20:40]], [ids[40:43], ids[50:57], ids[60:61]], [1, 0, 1]
    run = run_prefixes(tiny_lm, [tiny_lm.embed(torch.tensor(text)) for text in texts])
    said = sample(tiny_lm, run, owner, heads, 6, 0.0)
    for number, head, found in zip(owner, heads, said, strict=True):
        alone = torch.tensor([[*texts[number], *head]])
        out = tiny_lm.model.generate(alone, max_new_tokens=6, do_sample=False, eos_token_id=None)
        assert found == out[0, alone.shape[1] :].tolist()


def test_rows_behind_a_shared_prefix_are_what_they_are_alone(tiny_lm: Any) -> None:
    ids = tiny_lm.encode(TEXT)
    texts = [ids[begin:] for begin in (0, 3, 6)]
    prefixes = [tiny_lm.embed(torch.tensor(ids[:size])) for ids, size in zip(texts, (5, 30, 17), strict=True)]
    rows = [Row(texts[2][40:45], 1), Row(texts[1][40:60], 3), Row(texts[0][9:11], 1), Row(texts[0][20:40], 1)]
    owner = [0, 2, 1, 2]
    with torch.inference_mode():
        got = run_rows(tiny_lm, run_prefixes(tiny_lm, prefixes), owner, rows)
        for row, number in zip(rows, owner, strict=True):
            whole = torch.cat([prefixes[number], tiny_lm.embed(torch.tensor(row.ids))])
            wanted = tiny_lm.hidden(whole[None])[0, len(prefixes[number]) + row.start - 1 : -1]
            torch.testing.assert_close(got[: row.scored], wanted, atol=1e-4, rtol=1e-3)
            got = got[row.scored :]
    assert not len(got)
