"""Right answers in what the LM says: the measure that a user sees, beside the surprisal of answers it was given.

Letters: P positions, D width.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from memvec.arms import embedded
from memvec.lexical import UNSPACED
from memvec.lm import FrozenLM
from memvec.rows import Row, sample

NEW_TOKENS = 32
TOGETHER = 16  # prompts at once


def right(lm: FrozenLM, prefix: Tensor, rows: Sequence[Row], wanted: Sequence[str]) -> int:
    """How many of the wanted answers are in the first line of what the LM says greedily to rows' questions behind (P, D)."""
    found = 0
    for begin in range(0, len(rows), TOGETHER):
        heads = [row.ids[: row.start] for row in rows[begin : begin + TOGETHER]]
        fronts = [torch.cat([prefix, embedded(lm, head[:-1]).to(prefix.dtype)]) for head in heads]
        end = lm.tokenizer.eos_token_id
        said = sample(lm, fronts, range(len(heads)), [head[-1] for head in heads], NEW_TOKENS, 0.0, end=end)
        texts = [_first_line(lm, ids[1:], end) for ids in said]
        found += sum(holds(text, answer) for text, answer in zip(texts, wanted[begin:], strict=False))
    return found


def holds(said: str, answer: str) -> bool:
    """Are the words of an answer in what was said, next to each other? Case and marks do not count."""
    if UNSPACED.search(answer):
        return answer.strip().casefold() in said.casefold()
    wanted = _words(answer)
    return bool(wanted.strip()) and wanted in _words(said)


def _words(text: str) -> str:
    return " ".join(["", *re.findall(r"[^\W_]+", text.casefold()), ""])


def _first_line(lm: FrozenLM, ids: Sequence[int], end: int | None) -> str:
    kept = ids[: ids.index(end)] if end in ids else ids
    return str(lm.tokenizer.decode(kept)).strip().split("\n")[0]
