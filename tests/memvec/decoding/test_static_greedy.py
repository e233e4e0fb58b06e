"""Decoding into a cache of fixed size gives what decoding into a growing one gives."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from memvec.decoding import greedy as decoding
from memvec.decoding.greedy import decode, measure
from memvec.decoding.static_greedy import StaticDecode, static_cache
from memvec.settings import DECODE_BATCH, DECODE_BATCH_GPU

LENGTHS = (9, 20, 12, 30, 3, 1)
SIZES = (3, 3, 4, 4, 4, 5)


def test_a_cache_of_fixed_size_gives_the_same_tokens(tiny_lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0)
    vectors = [noise.standard_normal((m, tiny_lm.width)).astype(np.float16) for m in SIZES]
    forced = [((2, 77),)] * 5 + [()]
    grown = decode(tiny_lm, vectors, LENGTHS, forced, 2)
    leads = measure(tiny_lm, vectors, grown, 2)
    calls = []

    def static(*given: Any) -> None:
        calls.append(given)
        decoding._run_static(*given)

    monkeypatch.setattr(decoding, "_run_batch", static)
    ticked: list[int] = []
    assert decode(tiny_lm, vectors, LENGTHS, forced, 2, ticked.append) == grown
    assert len(calls) == 4 and sum(ticked) == sum(LENGTHS)
    for (lead, nats), (other, same) in zip(leads, measure(tiny_lm, vectors, grown, 16), strict=True):
        np.testing.assert_allclose(lead, other, atol=1e-4)
        np.testing.assert_allclose(nats, same, atol=1e-4)


def test_a_model_without_such_a_cache_decodes_as_before(tiny_lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert static_cache(tiny_lm, 8) is not None
    monkeypatch.setattr(tiny_lm, "recurrent", True)
    assert static_cache(tiny_lm, 8) is None
    monkeypatch.undo()
    vectors = [np.ones((2, tiny_lm.width), np.float16)]
    (want,) = decode(tiny_lm, vectors, [5], [()])
    monkeypatch.setattr(decoding, "static_cache", lambda *_: None)
    out: list[int] = []

    def choose(step: int, rows: Any, logits: torch.Tensor) -> torch.Tensor:
        out.append(int(logits.argmax(1)))
        return logits.argmax(1)

    decoding._run_static(tiny_lm, [0], vectors, [5], choose)
    assert out == want


def test_on_a_gpu_as_many_records_as_there_is_room_for_are_decoded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "free_bytes", lambda device: 10**9)
    gpu = SimpleNamespace(device=torch.device("cuda"), recurrent=False, cache_bytes=50_000)
    assert decoding.rows_at_once(gpu, 9) == DECODE_BATCH_GPU and decoding.rows_at_once(gpu, 100) == 100
    assert decoding.rows_at_once(gpu, 10**6) == 1
    assert decoding.rows_at_once(SimpleNamespace(device=torch.device("cpu")), 10**6) == DECODE_BATCH
    states = SimpleNamespace(device=torch.device("cuda"), recurrent=True, cache_bytes=0)
    assert decoding.rows_at_once(states, 10) == DECODE_BATCH  # how much these take is not known
    vectors = [np.zeros((m, 4), np.float16) for m in (2, 3, 3, 3, 2)]
    rows = decoding._batches(vectors, [5, 9, 70, 8, 60], lambda positions: 1 if positions > 50 else 2)
    assert list(rows) == [[4], [0], [2], [1, 3]]  # of one number of vectors, longest first


class Recorded:
    """A CUDA graph on a CPU: what it captured is run when it is replayed, into the same tensor."""

    replays = 0

    def __init__(self, decode: StaticDecode, logits: torch.Tensor) -> None:
        self.decode, self.logits = decode, logits

    def replay(self) -> None:
        Recorded.replays += 1
        self.logits.copy_(self.decode._compute())


@pytest.mark.parametrize("works", [True, False])
def test_steps_after_the_first_are_its_graph_if_there_can_be_one(
    works: bool, tiny_lm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0)
    vectors = [noise.standard_normal((m, tiny_lm.width)).astype(np.float16) for m in SIZES]
    want = decode(tiny_lm, vectors, LENGTHS, [()] * 6, 2)
    tried: list[Any] = []

    def capture(lm: Any, compute: Any) -> Recorded | None:
        tried.append(compute)
        if not works:
            lm.graphs = False
            return None
        running: StaticDecode = compute.__self__
        running._next = torch.empty_like(running.logits)
        return Recorded(running, running._next)

    Recorded.replays = 0
    monkeypatch.setattr("memvec.decoding.static_greedy.captured", capture)
    monkeypatch.setattr(tiny_lm, "graphs", True)
    assert decode(tiny_lm, vectors, LENGTHS, [()] * 6, 2) == want
    batches = [max(9, 20), max(12, 30), 3]  # the last, of one token, and its like of three take no graph
    assert len(tried) == (2 if works else 1) and tiny_lm.graphs is works
    assert Recorded.replays == (sum(n - 2 for n in batches[:2]) if works else 0)
