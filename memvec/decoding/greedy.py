"""Free-running decoding: greedy, KV-cached, batched, with corrections in place of tokens that the vectors get wrong.

Unpacking and certifying run the same loop, so a certified record decodes. transformers' generate() is not used: it takes
stop tokens and penalties from the model's own settings. Letters: B rows, M vectors, N tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memvec.decoding.static_greedy import StaticDecode, static_cache
from memvec.lm.device import free_bytes
from memvec.lm.frozen import FrozenLM
from memvec.lm.numerics import declared_numerics
from memvec.settings import DECODE_BATCH, DECODE_BATCH_GPU
from memvec.types import Vectors

SHARE_OF_GPU = 0.5  # share of its free memory for keys and values
# Chooses the next token of every row: (step, rows' numbers, logits (B, V)) -> ids (B,).
Choose = Callable[[int, Sequence[int], Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Certificate:
    """The result of certifying a record: a free-running decode of its rounded vectors."""

    corrections: tuple[tuple[int, int], ...]  # (position, token) of every token that must be stored
    wrong: int  # of these, tokens where the argmax is another token
    least_margin: float  # least lead of a token that is not corrected [logits]; 0 if all are
    nats: float  # surprisal of the segment given its vectors [nats]


def decode(
    lm: FrozenLM,
    vectors: Sequence[Vectors],
    lengths: Sequence[int],
    corrections: Sequence[Sequence[tuple[int, int]]],
    batch: int | None = None,
    tick: Callable[[int], None] = lambda tokens: None,
) -> list[list[int]]:
    """Decode records: `lengths[i]` token ids from vectors (M, D). Corrections replace the argmax.

    `tick` is called after every step with the number of new tokens.
    """
    forced = [dict(pairs) for pairs in corrections]
    out: list[list[int]] = [[] for _ in vectors]

    def choose(step: int, rows: Sequence[int], logits: Tensor) -> Tensor:
        ids = logits.argmax(1).tolist()
        ids = [forced[row].get(step, token) for row, token in zip(rows, ids, strict=True)]
        for row, token in zip(rows, ids, strict=True):
            out[row].append(token)
        tick(len(ids))
        return torch.tensor(ids, device=logits.device)

    _run(lm, vectors, lengths, choose, batch)
    return out


def certify(
    lm: FrozenLM,
    vectors: Sequence[Vectors],
    targets: Sequence[Sequence[int]],
    margin: float,
) -> list[Certificate]:
    """Decode rounded vectors and compare with the targets.

    A token that is wrong, or leads by less than `margin` [logits], becomes a correction.
    """
    measured = measure(lm, vectors, targets)
    return [_judge(leads, ids, sum(nats), margin) for (leads, nats), ids in zip(measured, targets, strict=True)]


def measure(
    lm: FrozenLM, vectors: Sequence[Vectors], targets: Sequence[Sequence[int]], batch: int | None = None
) -> list[tuple[list[float], list[float]]]:
    """For each record, the lead of every true token over the best other one [logits], and its surprisal [nats]."""
    leads: list[list[float]] = [[] for _ in vectors]
    nats: list[list[float]] = [[] for _ in vectors]

    def choose(step: int, rows: Sequence[int], logits: Tensor) -> Tensor:
        true = torch.tensor([targets[row][step] for row in rows], device=logits.device)
        own = logits.gather(1, true[:, None])
        rival = logits.scatter(1, true[:, None], -torch.inf).amax(1, keepdim=True)
        surprise = logits.logsumexp(1, keepdim=True) - own
        for row, lead, nat in zip(rows, (own - rival)[:, 0].tolist(), surprise[:, 0].tolist(), strict=True):
            leads[row].append(lead)
            nats[row].append(nat)
        return true  # a wrong token will be corrected, so the decoder always continues with the true one

    _run(lm, vectors, [len(ids) for ids in targets], choose, batch)
    return list(zip(leads, nats, strict=True))


def _judge(leads: Sequence[float], ids: Sequence[int], nats: float, margin: float) -> Certificate:
    # "not >=" rather than "<": a NaN lead is wrong.
    bad = [i for i, lead in enumerate(leads) if not (lead >= margin and lead > 0)]
    wrong = sum(not leads[i] > 0 for i in bad)
    right = set(range(len(leads))) - set(bad)
    least = min((leads[i] for i in right), default=0.0)
    return Certificate(tuple((i, ids[i]) for i in bad), wrong, least, nats)


def rows_at_once(lm: FrozenLM, positions: int = 1) -> int:
    """The default batch: how many records of so many positions are decoded at once.

    On a GPU a step takes the same time for many records, so the batch is as large as memory allows.
    """
    if lm.device.type != "cuda" or lm.recurrent:
        return DECODE_BATCH
    room = SHARE_OF_GPU * free_bytes(lm.device) / max(1, lm.cache_bytes * positions)
    return max(1, min(DECODE_BATCH_GPU, int(room)))


def _run(lm: FrozenLM, vectors: Sequence[Vectors], lengths: Sequence[int], choose: Choose, batch: int | None) -> None:
    with declared_numerics(lm.device):
        for rows in _batches(vectors, lengths, lambda positions: batch or rows_at_once(lm, positions)):
            (_run_static if lm.graphs else _run_batch)(lm, rows, vectors, lengths, choose)


def _batches(vectors: Sequence[Vectors], lengths: Sequence[int], most: Callable[[int], int]) -> Iterator[list[int]]:
    """Yield batches of rows with the same M, longest first. They need no padding and no mask, so rows are independent.

    `most` gives the largest batch for a number of positions.
    """
    order = sorted(range(len(vectors)), key=lambda row: (len(vectors[row]), -lengths[row], row))
    at = 0
    while at < len(order):
        m = len(vectors[order[at]])
        batch = most(m + lengths[order[at]])
        rows = [row for row in order[at : at + batch] if len(vectors[row]) == m]
        yield rows
        at += len(rows)


def _stacked(lm: FrozenLM, rows: Sequence[int], vectors: Sequence[Vectors]) -> Tensor:
    """The vectors (B, M, D) of rows of one M."""
    return torch.from_numpy(np.stack([vectors[row] for row in rows])).to(lm.device, lm.dtype)


def _run_batch(
    lm: FrozenLM, rows: list[int], vectors: Sequence[Vectors], lengths: Sequence[int], choose: Choose
) -> None:
    logits, cache = lm.start(_stacked(lm, rows, vectors))
    for step in range(lengths[rows[0]]):
        running = [row for row in rows if lengths[row] > step]
        if len(running) < len(rows):  # rows are sorted by length, so the running ones come first
            rows, logits = running, logits[: len(running)]
            cache = _first_rows(cache, len(running), lm.device)
        ids = choose(step, rows, logits)
        if step + 1 < lengths[rows[0]]:
            logits, cache = lm.advance(ids, cache)


def _run_static(
    lm: FrozenLM, rows: list[int], vectors: Sequence[Vectors], lengths: Sequence[int], choose: Choose
) -> None:
    """As `_run_batch`, with a cache of fixed size if there is one. Rows that have ended stay in the batch."""
    longest = lengths[rows[0]]
    cache = static_cache(lm, len(vectors[rows[0]]) + longest)
    if cache is None:
        _run_batch(lm, rows, vectors, lengths, choose)
        return
    running = StaticDecode(lm, _stacked(lm, rows, vectors), longest, cache)
    ids = torch.zeros(len(rows), dtype=torch.long, device=lm.device)
    for step in range(longest):
        going = [row for row in rows if lengths[row] > step]
        ids[: len(going)] = choose(step, going, running.logits[: len(going)])
        if step + 1 < longest:
            running.advance(ids)


def _first_rows(cache: Any, count: int, device: torch.device) -> Any:
    cache.reorder_cache(torch.arange(count, device=device))  # caches of recurrent models have no other selection
    return cache
