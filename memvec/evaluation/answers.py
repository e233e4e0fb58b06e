"""Find right answers in the lines that the LM generates. Users see those lines. Surprisal scores only given answers.

Letters: P positions, D width.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from memvec.lm.frozen import FrozenLM
from memvec.lm.scoring import CACHE_AT_ONCE, Row, embedded, sample
from memvec.retrieval.bm25 import UNSPACED

NEW_TOKENS = 32
TOGETHER = 24  # most prompts at once; fewer if memory allows no more

Prompt = tuple[Tensor, Row, str]  # the arm in front (P, D), a question's row, the right answer


def right(lm: FrozenLM, prompts: Sequence[Prompt]) -> list[bool]:
    """Generate one line for each prompt, greedily. Does the line hold the right answer?"""
    lengths = [len(prefix) + row.start for prefix, row, _ in prompts]
    # The longest first: its length bounds its batch.
    order = sorted(range(len(prompts)), key=lengths.__getitem__, reverse=True)
    found: dict[int, bool] = {}
    while len(found) < len(prompts):
        longest = lengths[order[len(found)]] + NEW_TOKENS
        size = max(1, min(TOGETHER, CACHE_AT_ONCE // max(1, lm.cache_bytes * longest)))
        batch = order[len(found) : len(found) + size]
        said = _lines(lm, [prompts[number] for number in batch])
        found |= {number: holds(line, prompts[number][2]) for number, line in zip(batch, said, strict=True)}
    return [found[number] for number in range(len(prompts))]


def _lines(lm: FrozenLM, prompts: Sequence[Prompt]) -> list[str]:
    """The first line that the LM generates for each prompt."""
    heads = [row.ids[: row.start] for _, row, _ in prompts]
    fronts = [
        torch.cat([prefix, embedded(lm, head[:-1]).to(prefix.dtype)])
        for (prefix, _, _), head in zip(prompts, heads, strict=True)
    ]

    def over(ids: Sequence[int]) -> bool:
        return lm.tokenizer.eos_token_id in ids or "\n" in _text(lm, ids)

    said = sample(lm, fronts, range(len(heads)), [head[-1] for head in heads], NEW_TOKENS, 0.0, over=over)
    return [_text(lm, ids[1:]).split("\n")[0] for ids in said]


def holds(said: str, answer: str) -> bool:
    """Does a text hold the words of an answer, next to each other? Case and punctuation are ignored."""
    if UNSPACED.search(answer):
        return answer.strip().casefold() in said.casefold()
    wanted = _words(answer)
    return bool(wanted.strip()) and wanted in _words(said)


def _words(text: str) -> str:
    return " ".join(["", *re.findall(r"[^\W_]+", text.casefold()), ""])


def _text(lm: FrozenLM, ids: Sequence[int]) -> str:
    """The text of the ids up to the end token, without space around it."""
    end = lm.tokenizer.eos_token_id
    return str(lm.tokenizer.decode(ids[: ids.index(end)] if end in ids else ids)).strip()
