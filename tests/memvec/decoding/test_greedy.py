"""Free-running decoding against a loop without a cache; certificates; corrections in mixed batches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from memvec.decoding.greedy import _judge, certify, decode

RNG = np.random.default_rng(0)


def vectors(count: int, width: int) -> Any:
    return RNG.normal(size=(count, width)).astype(np.float16)


def reference(lm: Any, memory: Any, length: int, forced: dict[int, int]) -> list[int]:
    """Greedy decoding by whole forward passes, one row, no cache."""
    ids: list[int] = []
    for step in range(length):
        start = torch.from_numpy(memory).float()[None]
        embeds = torch.cat([start, lm.embed(torch.tensor([ids], dtype=torch.long))], 1)
        with torch.no_grad():
            best = lm.model(inputs_embeds=embeds).logits[0, -1].argmax().item()
        ids.append(forced.get(step, best))
    return ids


def test_batched_decoding_is_greedy_decoding(tiny_lm: Any) -> None:
    shapes = [(1, 5), (3, 9), (3, 9), (3, 2), (2, 12), (3, 1)]
    memories = [vectors(m, tiny_lm.width) for m, _ in shapes]
    forced = [{}, {0: 7, 4: 9}, {}, {1: 3}, {11: 2}, {0: 1}]
    corrections = [tuple(sorted(f.items())) for f in forced]
    expected = [reference(tiny_lm, v, n, f) for v, (_, n), f in zip(memories, shapes, forced, strict=True)]
    for batch in (1, 2, 16):
        assert decode(tiny_lm, memories, [n for _, n in shapes], corrections, batch) == expected


def test_corrections_cascade(tiny_lm: Any) -> None:
    """A forced token changes what follows: it is fed to the model, not patched into the output."""
    memory = [vectors(2, tiny_lm.width)]
    plain = decode(tiny_lm, memory, [10], [()])[0]
    other = (plain[2] + 1) % tiny_lm.vocabulary
    forced = decode(tiny_lm, memory, [10], [((2, other),)])[0]
    assert forced[:2] == plain[:2]
    assert forced[2] == other
    assert forced[3:] != plain[3:]


def test_a_certificate_makes_any_vectors_exact(tiny_lm: Any) -> None:
    targets = [
        tiny_lm.encode("a text that these vectors never saw"),
        tiny_lm.encode("and another, longer than the first"),
    ]
    memories = [vectors(2, tiny_lm.width), vectors(2, tiny_lm.width)]
    proofs = certify(tiny_lm, memories, targets, 0.1)
    assert all(p.wrong > 0 and p.least_margin >= 0.1 for p in proofs)
    assert decode(tiny_lm, memories, [len(t) for t in targets], [p.corrections for p in proofs], 1) == targets


def test_a_higher_threshold_corrects_more_and_leaves_wider_margins(tiny_lm: Any) -> None:
    target = [tiny_lm.encode("It is a truth universally acknowledged, that a single man in possession")]
    memory = [vectors(2, tiny_lm.width)]
    low, high = (certify(tiny_lm, memory, target, margin)[0] for margin in (0.1, 2.0))
    assert set(low.corrections) < set(high.corrections)
    assert low.wrong == high.wrong
    assert high.least_margin >= 2.0
    assert low.nats == high.nats > 0


def test_judging_leads() -> None:
    proof = _judge([1.0, 0.05, 0.0, -3.0, math.nan, 0.1], [10, 11, 12, 13, 14, 15], 2.0, 0.1)
    assert proof.corrections == ((1, 11), (2, 12), (3, 13), (4, 14))
    assert proof.wrong == 3  # a tie, a miss and a NaN; the thin one is right
    assert proof.least_margin == 0.1
    assert _judge([-1.0], [5], 0.0, 0.1).least_margin == 0.0
