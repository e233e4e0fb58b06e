"""Starts are drawn from the segment alone, and the one of the least surprisal is taken."""

from __future__ import annotations

from typing import Any

import torch

from memvec.training.starts import TRIED, best, draw
from memvec.training.units import unit_of

FIRST = "in possession of a good fortune, must be in want of a wife."
OTHER = "Mr. Bennet was so odd a mixture of quick parts"


def test_the_start_of_the_least_surprisal_is_taken(tiny_lm: Any) -> None:
    ids = tuple(tiny_lm.encode(FIRST)[:12])
    scale, shape = unit_of(tiny_lm), (3, tiny_lm.width)
    starts = draw(scale, shape, ids, "salt")
    assert starts.shape == (TRIED, 3, tiny_lm.width)
    assert torch.equal(starts, draw(scale, shape, ids, "salt")) and not torch.equal(
        starts, draw(scale, shape, ids, "more")
    )
    other = tuple(tiny_lm.encode(OTHER)[:9])
    found, beside = best(tiny_lm, [starts, draw(scale, (2, tiny_lm.width), other, "salt")], [ids, other])
    assert beside.shape == (2, tiny_lm.width)

    def nats(start: Any) -> float:
        rounded = start.half().to(tiny_lm.dtype)
        rows = torch.cat([rounded, tiny_lm.embed(torch.tensor(ids[:-1]))])[None]
        logits = tiny_lm.hidden(rows)[0, 2:] @ tiny_lm.head.T
        return float(torch.nn.functional.cross_entropy(logits.float(), torch.tensor(ids), reduction="sum"))

    behind = [nats(start) for start in starts]
    assert torch.equal(found, starts[behind.index(min(behind))])
