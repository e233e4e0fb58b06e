"""What only a GPU shows: that a step's graph does what its kernels do, compiled or not. Run where there is one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memvec.decoding.greedy import certify, decode
from memvec.lm.frozen import FrozenLM
from memvec.lm.fused import PAYS_AFTER
from memvec.lm.load import load
from memvec.settings import PackSettings
from memvec.training.batch import RaggedBatch
from memvec.training.fit import FitEngine, Task
from memvec.training.static_batch import StaticBatch

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("default"),  # the compiler has advice
]


@pytest.fixture
def on_gpu(tiny: str) -> FrozenLM:
    return load(Path(tiny), torch.float32, "cuda")


def fit(lm: FrozenLM, settings: PackSettings, batch: Any) -> dict[int, Any]:
    engine = FitEngine(lm, settings, batch)
    engine.most = 5
    engine.add(Task(k, tuple(range(10 + k, 30 + 2 * k)), 2 + k % 4) for k in range(12))
    return {fitted.task.key: fitted for done in engine.run() for fitted in done}


def test_graphs_take_the_steps_of_kernels(on_gpu: FrozenLM, tiny_settings: Callable[..., PackSettings]) -> None:
    settings = tiny_settings(max_steps=6, max_corrections=0.0)
    ragged = fit(on_gpu, settings, RaggedBatch(on_gpu, settings))
    batch = StaticBatch(on_gpu, settings)
    graphs = fit(on_gpu, settings, batch)
    assert batch._graph is not None and on_gpu.graphs
    on_gpu.fused.ran(PAYS_AFTER)
    compiled = fit(on_gpu, settings, StaticBatch(on_gpu, settings))
    assert on_gpu.fused.ready  # it did not give up
    for key, one in ragged.items():
        for other in (graphs, compiled):
            np.testing.assert_allclose(other[key].vectors, one.vectors, atol=0.02)
            assert other[key].cost.steps == one.cost.steps


def test_what_is_fitted_there_decodes_on_both(
    on_gpu: FrozenLM, tiny_lm: Any, tiny_settings: Callable[..., PackSettings]
) -> None:
    ids = tuple(tiny_lm.encode("It is a truth universally acknowledged, that a single man in possession")[:24])
    settings = tiny_settings(max_steps=300)
    engine = FitEngine(on_gpu, settings)
    assert isinstance(engine.batch, StaticBatch)
    engine.add([Task(k, ids[: 24 - k], 6) for k in range(3)])
    done = [fitted for batch in engine.run() for fitted in batch]
    vectors, texts = [f.vectors for f in done], [f.task.ids for f in done]
    proofs = certify(on_gpu, vectors, texts, 0.1)
    assert all(len(proof.corrections) <= settings.allowed(24) for proof in proofs)
    for lm in (on_gpu, tiny_lm):
        found = decode(lm, vectors, [len(text) for text in texts], [proof.corrections for proof in proofs])
        assert found == [list(text) for text in texts]
