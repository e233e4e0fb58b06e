"""Describe the behaviour of a configuration and a tokenizer in values that can be compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from memvec.formats import canonical

# Other fields of a configuration (names, versions, training settings) do not change an output.
ARCHITECTURE_FIELDS = (
    "activation_function",
    "attention_bias",
    "attention_multiplier",
    "attn_logit_softcapping",
    "conv_kernel",
    "embedding_multiplier",
    "expand",
    "final_logit_softcapping",
    "head_dim",
    "hidden_act",
    "hidden_activation",
    "hidden_size",
    "intermediate_size",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "layer_types",
    "logit_scale",
    "logits_scaling",
    "mlp_bias",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "partial_rotary_factor",
    "query_pre_attn_scalar",
    "residual_multiplier",
    "rms_norm_eps",
    "rope_parameters",
    "sliding_window",
    "state_size",
    "tie_word_embeddings",
    "use_bidirectional_attention",
    "use_parallel_residual",
    "vocab_size",
    "word_embed_proj_dim",
)

# The tokenizer strings, which tokenizers split differently: spaces, line ends, composed letters, joined emoji, digits, code,
# look-alikes of special tokens.
PROBES = (
    "The quick brown fox jumps over the lazy dog.",
    "  two  spaces\tand tab\r\nCRLF\n\n\nthree",
    "caf\u00e9 cafe\u0301 \ufb01 \u00a0nbsp \ufeffbom \u0000nul",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1eb\U0001f1f7 \u4f60\u597d\u4e16\u754c \u3053\u3093 \ud55c\uae00",
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd \u0928\u092e\u0938\u094d\u0924\u0947",
    "0123456789 3.14159 1e-10 1,000,000 \u00bd\u00b2",
    "def f(x): return {'a': [x**2, -x]}  # ok\n\tif __name__ == '__main__':",
    "<s></s><|endoftext|><|im_start|><pad>[CLS][MASK]<unk>",
)


def architecture(config: Any) -> dict[str, Any]:
    """The fields of a configuration that change the model's output, as JSON values."""
    # Read attributes and not the file, because configurations map their own names to these.
    values = {name: getattr(config, name, None) for name in ARCHITECTURE_FIELDS}
    plain: dict[str, Any] = json.loads(json.dumps({name: value for name, value in values.items() if value is not None}))
    return plain


def vocabulary(tokenizer: Any) -> str:
    """The sha256 of a tokenizer's tokens and their ids."""
    return vocabulary_of(tokenizer.get_vocab())


def vocabulary_of(tokens: Mapping[str, int]) -> str:
    """The sha256 of tokens and their ids."""
    return sha256(sorted(tokens.items()))


def probe(tokenizer: Any) -> str:
    """The sha256 of a tokenizer's ids for all PROBES."""
    return sha256([_ids(tokenizer, text) for text in PROBES])


def pieces(tokenizer: Any) -> list[str]:
    """8 hex digits of the sha256 of a tokenizer's ids for each of PROBES."""
    return [sha256(_ids(tokenizer, text))[:8] for text in PROBES]


def sha256(value: Any) -> str:
    """The sha256 of the canonical JSON of a value, in hex."""
    return hashlib.sha256(canonical.dumps(value)).hexdigest()


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
