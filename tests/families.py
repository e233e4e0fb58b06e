"""Small models of the families that memvec supports, each with a tokenizer of its family's kind.

Weights are random, and large enough that an input moves the output: vectors can be fitted to them in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

CORPUS = Path(__file__).parent / "tiny" / "corpus.txt"
SIZE = 400  # tokens of a vocabulary
COMMON: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
GROUPED = COMMON | {"num_key_value_heads": 2, "head_dim": 16}


def byte_level(bos: bool) -> PreTrainedTokenizerFast:
    """Byte-level BPE, as of GPT-2, GPT-NeoX, OLMo, Qwen and Phi, with a BOS of its own or without one."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    made.train([str(CORPUS)], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|end|>", pad_token="<|end|>", bos_token="<|end|>" if bos else None
    )


def sentencepiece(legacy: bool) -> PreTrainedTokenizerFast:
    """BPE over ▁ with bytes as a fallback, as of Llama 2, Mistral, Phi-3 (`legacy`: a space before every text) and Gemma."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    replace = normalizers.Replace(" ", "▁")
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if legacy else replace
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if legacy else steps)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=SIZE + 200, special_tokens=special)
    made.train_from_iterator(CORPUS.read_text("utf-8")[:60_000].split("\n"), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )


@dataclass(frozen=True)
class Family:
    """An architecture, its tokenizer, and the scale of its weights."""

    config: str
    tokenizer: Callable[[], PreTrainedTokenizerFast]
    settings: dict[str, Any] = field(default_factory=lambda: dict(COMMON))
    embedding: float = 1.0  # spread of the input embeddings
    weights: float = 1.2  # spread of the other matrices, times the root of their inputs


FAMILIES: dict[str, Family] = {
    "gpt_neox": Family("GPTNeoXConfig", lambda: byte_level(False)),
    "opt": Family(
        "OPTConfig",
        lambda: byte_level(True),
        {
            "hidden_size": 64,
            "ffn_dim": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 512,
            "word_embed_proj_dim": 32,
            "do_layer_norm_before": False,
        },
    ),
    "olmo": Family("OlmoConfig", lambda: byte_level(False)),
    "olmo2": Family("Olmo2Config", lambda: byte_level(False)),
    "gpt2": Family(
        "GPT2Config",
        lambda: byte_level(True),
        {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512},
        embedding=0.3,
        weights=3.0,
    ),
    "llama": Family("LlamaConfig", lambda: sentencepiece(True), COMMON | {"num_key_value_heads": 2}),
    "qwen2": Family("Qwen2Config", lambda: byte_level(False), COMMON | {"num_key_value_heads": 2}),
    "qwen3": Family("Qwen3Config", lambda: byte_level(False), GROUPED),
    "mistral": Family("MistralConfig", lambda: sentencepiece(True), GROUPED | {"sliding_window": 16}),
    "gemma3": Family(
        "Gemma3TextConfig",
        lambda: sentencepiece(False),
        GROUPED
        | {
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 16,
        },
        embedding=0.15,
    ),
    "phi": Family("PhiConfig", lambda: byte_level(True)),
    "phi3": Family("Phi3Config", lambda: sentencepiece(True)),
    "falcon": Family(  # looks its attention up in a list of its own, as the next two
        "FalconConfig",
        lambda: byte_level(True),
        {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 512},
    ),
    "gptj": Family(
        "GPTJConfig",
        lambda: byte_level(True),
        {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512, "rotary_dim": 8},
    ),
    "gpt_neo": Family(
        "GPTNeoConfig",
        lambda: byte_level(True),
        {
            "hidden_size": 64,
            "num_layers": 2,
            "num_heads": 4,
            "max_position_embeddings": 512,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 16,
        },
    ),
    "bloom": Family(  # never asks for another attention than its own, as the next
        "BloomConfig", lambda: byte_level(True), {"hidden_size": 64, "n_layer": 2, "n_head": 4}
    ),
    "mpt": Family(
        "MptConfig", lambda: byte_level(True), {"d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 512}
    ),
    "gpt_oss": Family(  # sinks
        "GptOssConfig", lambda: byte_level(True), GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2}
    ),
    "cohere": Family(  # logits are scaled
        "CohereConfig", lambda: byte_level(True), COMMON | {"num_key_value_heads": 2, "logit_scale": 0.25}
    ),
    "granite": Family(
        "GraniteConfig",
        lambda: byte_level(True),
        COMMON
        | {
            "num_key_value_heads": 2,
            "logits_scaling": 2.0,
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.25,
        },
        embedding=0.08,
    ),
    "mamba": Family(
        "MambaConfig",
        lambda: byte_level(True),
        {"hidden_size": 64, "state_size": 8, "num_hidden_layers": 2},
        embedding=0.3,
        weights=2.0,
    ),
}


def _rope(kind: str, **settings: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **settings}}


def _llama(**rope: Any) -> Family:
    return Family("LlamaConfig", lambda: byte_level(True), COMMON | {"num_key_value_heads": 2} | rope)


# Positions and attention of other kinds, for keys and values.
VARIANTS: dict[str, Family] = {
    "llama, llama3": _llama(
        **_rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
    ),
    "llama, yarn": _llama(**_rope("yarn", factor=8.0, original_max_position_embeddings=64)),
    "llama, linear": _llama(**_rope("linear", factor=4.0)),
    "llama, dynamic": _llama(**_rope("dynamic", factor=4.0)),
    "phi3, longrope": Family(
        "Phi3Config",
        lambda: byte_level(True),
        COMMON
        | {"max_position_embeddings": 2048, "original_max_position_embeddings": 512}
        | _rope(
            "longrope",
            short_factor=[1.0] * 8,
            long_factor=[2.0] * 8,
            factor=4.0,
            original_max_position_embeddings=512,
        ),
    ),
    "glm": Family("GlmConfig", lambda: byte_level(True), GROUPED),  # interleaved and partial
    "smollm3": Family("SmolLM3Config", lambda: byte_level(True), GROUPED | {"no_rope_layers": [1, 0]}),
    "olmo3": Family("Olmo3Config", lambda: byte_level(True), COMMON | {"num_key_value_heads": 2, "sliding_window": 16}),
    "phimoe": Family(  # only masks know its window
        "PhimoeConfig",
        lambda: byte_level(True),
        COMMON | {"num_key_value_heads": 2, "sliding_window": 16, "num_local_experts": 4},
    ),
    "deepseek_v3": Family(  # latent attention
        "DeepseekV3Config",
        lambda: byte_level(True),
        COMMON
        | {
            "num_key_value_heads": 4,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 16,
            "moe_intermediate_size": 32,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
        },
    ),
    "rwkv": Family("RwkvConfig", lambda: byte_level(True), {"hidden_size": 64, "num_hidden_layers": 2}),
    "lfm2": Family(  # convolutions between layers of attention
        "Lfm2Config",
        lambda: byte_level(True),
        COMMON | {"num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]},
    ),
}


def make(name: str, folder: Path, **changed: Any) -> Path:
    """Write the family's model and tokenizer into `folder`, with `changed` settings of the model."""
    family = (FAMILIES | VARIANTS)[name]
    tokenizer = family.tokenizer()
    special = {
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    config = getattr(transformers, family.config)(vocab_size=len(tokenizer), **family.settings | changed, **special)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    inputs = model.get_input_embeddings().weight
    with torch.no_grad():
        for label, parameter in model.named_parameters():
            if parameter is inputs:
                parameter.normal_(0, family.embedding)
            elif parameter.dim() == 2 and not label.endswith("A_log"):
                inner = parameter.shape[0 if ".c_" in label else 1]  # GPT-2 keeps its matrices transposed
                parameter.normal_(0, family.weights / inner**0.5)
        head = model.get_output_embeddings()
        if getattr(head, "bias", None) is not None:
            head.bias.normal_()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
