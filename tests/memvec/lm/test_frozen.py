"""A FrozenLM wraps a model and a tokenizer that are loaded already."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from memvec.errors import UnsupportedModelError
from memvec.lm.frozen import FrozenLM, open_embeddings


def test_it_takes_objects(tiny_lm: Any) -> None:
    """Its dtype, device and sizes are those of the model."""
    lm = FrozenLM(tiny_lm.model, tiny_lm.tokenizer)
    assert lm.model is tiny_lm.model and (lm.dtype, lm.device.type) == (torch.float32, "cpu")
    assert (lm.vocabulary, lm.width) == tuple(lm.table.shape) and lm.head is lm.table and not lm.graphs
    ids = lm.encode(" a  truth\n")
    assert lm.decode(ids) == " a  truth\n"
    with torch.inference_mode():
        logits = lm.hidden(lm.embed(torch.tensor([ids]))) @ lm.head.T
        torch.testing.assert_close(logits, lm.model(input_ids=torch.tensor([ids])).logits)


def test_models_that_hide_their_embeddings(tiny_lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_lm.model, "get_input_embeddings", lambda: None)
    with pytest.raises(UnsupportedModelError, match="hide their embeddings"):
        open_embeddings(tiny_lm.model)
