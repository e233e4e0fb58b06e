"""Models that cannot work are refused before any work, with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from families import byte_level
from transformers import AutoModelForCausalLM

import memvec
from memvec.errors import UnsupportedModelError
from memvec.lm.load import check_model

SMALL = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 16,
    "num_key_value_heads": 2, "vocab_size": 400,
}  # fmt: skip


def save(model: torch.nn.Module, folder: Path) -> str:
    """A checkpoint folder with a tokenizer."""
    model.save_pretrained(folder)  # type: ignore[operator]
    byte_level(False).save_pretrained(folder)
    return str(folder)


def refused(folder: str, tmp_path: Path, says: str) -> None:
    """Packing with the model is refused and leaves nothing behind."""
    store = tmp_path / "s.memvec"
    with pytest.raises(UnsupportedModelError, match=says):
        memvec.pack([memvec.Source("a", b"The ferry leaves from the north pier.")], store, model=folder)
    assert not store.exists()


def test_encoder_decoder_models(tmp_path: Path) -> None:
    config = transformers.T5Config(d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, vocab_size=400)
    refused(save(transformers.T5ForConditionalGeneration(config), tmp_path / "t5"), tmp_path, "decoder-only")


def test_models_that_change_logits_behind_the_head(tmp_path: Path) -> None:
    config = transformers.CohereConfig(**SMALL, logit_scale=0.25)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 1.0)
    refused(save(model, tmp_path / "cohere"), tmp_path, "after the LM head")


def test_models_with_soft_capped_attention(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(transformers.Gemma2Config(**SMALL))
    refused(save(model, tmp_path / "gemma2"), tmp_path, "softcap")


def test_encoders(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=400
    )
    refused(save(transformers.BertModel(config), tmp_path / "bert"), tmp_path, "decoder-only")


def test_models_that_take_more_from_ids_than_embeddings(tiny_lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = tiny_lm.model.forward

    def per_layer(*args: Any, input_ids: Any = None, **kwargs: Any) -> Any:
        out = forward(*args, input_ids=input_ids, **kwargs)
        if input_ids is not None:
            out.logits = out.logits + 5 * torch.randn(out.logits.shape)
        return out

    monkeypatch.setattr(tiny_lm.model, "forward", per_layer)
    with pytest.raises(UnsupportedModelError, match="more from token ids"):
        check_model(tiny_lm)


def test_models_that_look_at_later_tokens(tiny_lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = tiny_lm.hidden
    monkeypatch.setattr(tiny_lm, "hidden", lambda embeds: hidden(embeds) + hidden(embeds.flip(1)))
    with pytest.raises(UnsupportedModelError, match="look at later tokens"):
        check_model(tiny_lm)


def test_rounding_is_not_taken_for_looking_ahead(tiny_lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of other lengths go through other kernels, whose bfloat16 sums differ, on some processors by much."""
    hidden = tiny_lm.hidden
    monkeypatch.setattr(tiny_lm, "hidden", lambda embeds: hidden(embeds) * (1 + 4 / embeds.shape[1]))
    monkeypatch.setattr(tiny_lm, "head", tiny_lm.head / (1 + 4 / 8))
    check_model(tiny_lm)
