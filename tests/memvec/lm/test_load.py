"""Models that cannot work are refused before any work, with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from families import byte_level, make
from transformers import AutoModelForCausalLM

import memvec
from memvec.errors import UnsupportedModelError
from memvec.lm import attention
from memvec.lm.load import check_model, load

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


@pytest.mark.parametrize("config", ["NanoChatConfig", "Gemma2Config"])
def test_models_that_cap_logits(config: str, tmp_path: Path) -> None:
    """Random weights give small logits, which a cap hardly changes. It is found all the same."""
    model = AutoModelForCausalLM.from_config(getattr(transformers, config)(**SMALL))
    refused(save(model, tmp_path / "model"), tmp_path, "another way than by their LM head")


def test_models_without_a_body(tmp_path: Path) -> None:
    """Their layers cannot be run without the LM head."""
    config = transformers.Llama4TextConfig(**SMALL, intermediate_size_mlp=64, num_local_experts=2)
    refused(save(AutoModelForCausalLM.from_config(config), tmp_path / "llama4"), tmp_path, "beneath their LM head")


def test_models_that_take_embeddings_of_tokens_only(tmp_path: Path) -> None:
    """Vectors are the embeddings of no token."""
    settings = {"vocab_size_per_layer_input": 400, "hidden_size_per_layer_input": 8, "num_hidden_layers": 2}
    config = transformers.Gemma4TextConfig(**SMALL | settings)
    with pytest.raises(UnsupportedModelError, match=r"gemma4_text models cannot be run .*inputs_embeds"):
        load(Path(save(AutoModelForCausalLM.from_config(config), tmp_path / "gemma4")))


class TestAttention:
    """memvec's own where it says what the model's says."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_ours(self, tiny: str, dtype: torch.dtype) -> None:
        assert load(Path(tiny), dtype).model.config._attn_implementation == attention.NAME

    def test_large_keys(self, tmp_path: Path) -> None:
        """Qwen2's first layer has biases so large that attention in bfloat16 depends on how it is rounded."""
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(transformers.Qwen2Config(**SMALL | {"vocab_size": 400}))
        for part in (model.model.layers[0].self_attn.q_proj, model.model.layers[0].self_attn.k_proj):
            part.bias.data[7::16] = 50.0  # of the part of each head that places hardly turn
        lm = load(Path(save(model, tmp_path / "model")), torch.bfloat16)
        assert lm.model.config._attn_implementation == attention.NAME

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize(
        ("config", "settings"),
        [
            ("Gemma2Config", SMALL | {"final_logit_softcapping": None, "attn_logit_softcapping": 2.0}),
            ("GptOssConfig", SMALL | {"num_local_experts": 2, "num_experts_per_tok": 1}),  # sinks
            ("BloomConfig", {"hidden_size": 32, "n_layer": 1, "n_head": 2}),
            ("FalconConfig", {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}),
        ],
    )
    def test_the_models(self, config: str, settings: dict[str, Any], dtype: torch.dtype, tmp_path: Path) -> None:
        """It fails, gives something else, is not asked, or cannot be chosen."""
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(getattr(transformers, config)(**{"vocab_size": 400} | settings))
        lm = load(Path(save(model, tmp_path / "model")), dtype)
        assert lm.model.config._attn_implementation == attention.EAGER
        ids = torch.arange(1, 40)[None]
        with torch.inference_mode():
            expected = model.to(dtype)(input_ids=ids).logits.float()
            found = (lm.hidden(lm.embed(ids)) @ lm.head.T).float()
        assert (found - expected).norm() < (1e-4 if dtype == torch.float32 else 0.05) * expected.norm()

    def test_memory_that_runs_out_is_no_reason(self, tiny_lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is raised as it is."""

        def hungry(*given: Any, **named: Any) -> Any:
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.")

        monkeypatch.setattr(attention, "attend", hungry)
        with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
            check_model(tiny_lm)
        assert tiny_lm.model.config._attn_implementation == attention.NAME


def test_models_that_keep_more_than_keys(tmp_path: Path) -> None:
    """Their vectors can be decoded, but nothing can be continued behind a prefix."""
    folder, store = str(make("lfm2", tmp_path / "lfm2")), tmp_path / "s.memvec"
    with pytest.raises(UnsupportedModelError, match=r"lfm2 models do not go on from keys.*kind='exact'"):
        memvec.pack([memvec.Source("a", b"The ferry leaves at six.")], store, model=folder, kind="context")
    memvec.pack([memvec.Source("a", b"The ferry leaves at six.")], store, model=folder)
    assert memvec.cat(store, "a") == b"The ferry leaves at six."


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scaled_logits(dtype: torch.dtype, tmp_path: Path) -> None:
    """A factor behind the head is measured, exactly."""
    config = transformers.GraniteConfig(**SMALL, logits_scaling=13.0)
    lm = load(Path(save(AutoModelForCausalLM.from_config(config), tmp_path / "granite")), dtype)
    assert lm.scale == pytest.approx(1 / 13, rel=1e-6)


def test_encoders(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=400
    )
    refused(save(transformers.BertModel(config), tmp_path / "bert"), tmp_path, "decoder-only")


def test_models_that_take_more_from_ids_than_embeddings(tiny_lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = tiny_lm.model.base_model.forward

    def per_layer(*args: Any, input_ids: Any = None, **kwargs: Any) -> Any:
        out = forward(*args, input_ids=input_ids, **kwargs)
        if input_ids is not None:
            out.last_hidden_state = out.last_hidden_state + torch.randn(out.last_hidden_state.shape)
        return out

    monkeypatch.setattr(tiny_lm.model.base_model, "forward", per_layer)
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
