"""Fingerprints: what model and tokenizer vectors belong to, computed from a checkpoint's files without loading it."""

from __future__ import annotations

import functools
import hashlib
import json
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memvec.errors import FingerprintError, NotFoundError, UnsupportedModelError
from memvec.formats import canonical
from memvec.model_cache import DEFAULT_MODEL, Notify, lasting_name, readable, resolve, silent
from memvec.types import Fingerprint

# Behaviour only. The rest of a config (names, versions, training settings) may change without changing an output.
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
EMBEDDING_NAMES = (
    "embed_tokens.weight",
    "wte.weight",
    "embed_in.weight",
    "embeddings.weight",
    "word_embeddings.weight",
)
BUFFER_NAMES = (".inv_freq", ".masked_bias", ".attn.bias", ".attention.bias")

# What tokenizers disagree about: spaces, line ends, composed letters, joined emoji, digits, code, special look-alikes.
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


def fingerprint(model: str = DEFAULT_MODEL, notify: Notify = silent) -> Fingerprint:
    """The fingerprint of a model by name, folder, GGUF file or hub id. NotFoundError when it cannot be had."""
    return fingerprint_folder(resolve(model, notify), source=lasting_name(model))


def fingerprint_folder(folder: Path, source: str = "") -> Fingerprint:
    """The fingerprint of the checkpoint in `folder`: config.json, *.safetensors and tokenizer files."""
    from transformers import AutoConfig, AutoTokenizer

    with readable(folder):
        config = AutoConfig.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        digests = dict(sorted(_tensor_digests(folder)))
    embedding = next((d for suffix in EMBEDDING_NAMES for n, d in digests.items() if n.endswith(suffix)), None)
    values = _architecture(config)
    width = values.get("word_embed_proj_dim") or values.get("hidden_size")
    if embedding is None or width is None:
        raise UnsupportedModelError(f"{str(folder)!r} ({config.model_type}) shows no token embedding or no width")
    if values.get("tie_word_embeddings"):
        digests.pop("lm_head.weight", None)  # some writers keep the tied copy, some drop it
    return Fingerprint(
        weights=_sha256(digests),
        embedding=embedding,
        architecture=values,
        vocabulary=_vocabulary(tokenizer),
        probe=_probe(tokenizer),
        width=int(width),
        source=source,
    )


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of the checkpoint in `folder`."""
    from transformers import AutoTokenizer

    with readable(folder):
        return AutoTokenizer.from_pretrained(folder)


def embedding_table(folder: Path) -> Any:
    """The input embeddings (V, D) of the checkpoint in `folder`, as float16 numpy, nothing else of it loaded."""
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:  # numpy has no bfloat16
            name = next((n for suffix in EMBEDDING_NAMES for n in tensors.keys() if n.endswith(suffix)), None)  # noqa: SIM118
            if name is not None:
                return tensors.get_tensor(name).half().numpy()
    raise UnsupportedModelError(f"{str(folder)!r} shows no token embedding")


def _architecture(config: Any) -> dict[str, Any]:
    # Through attributes, not the file: configurations spell these names in their own ways and map them.
    values = {name: getattr(config, name, None) for name in ARCHITECTURE_FIELDS}
    return {name: value for name, value in values.items() if value is not None}


def _vocabulary(tokenizer: Any) -> str:
    return _sha256(sorted(tokenizer.get_vocab().items()))


def _probe(tokenizer: Any) -> str:
    return _sha256([tokenizer(text, add_special_tokens=False)["input_ids"] for text in PROBES])


def _tensor_digests(folder: Path) -> Iterator[tuple[str, str]]:
    """(name, sha256 over name, dtype, shape and bytes) of every tensor in the folder's safetensors files."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise NotFoundError(f"no *.safetensors in {str(folder)!r}. Save the model with save_pretrained() first.")
    for file in files:
        with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield from _digests(data)


def _digests(data: bytes | mmap.mmap) -> Iterator[tuple[str, str]]:
    (size,) = struct.unpack("<Q", data[:8])
    entries: dict[str, Any] = json.loads(data[8 : 8 + size])
    for name, entry in entries.items():
        if name == "__metadata__" or name.endswith(BUFFER_NAMES):
            continue
        begin, end = entry["data_offsets"]
        digest = hashlib.sha256(canonical.dumps([name, entry["dtype"], entry["shape"]]))
        with memoryview(data) as view:
            digest.update(view[8 + size + begin : 8 + size + end])
        yield name, digest.hexdigest()


def _sha256(value: Any) -> str:
    return hashlib.sha256(canonical.dumps(value)).hexdigest()


def check_fingerprint(expected: Fingerprint, found: Fingerprint) -> None:
    """FingerprintError with every differing field unless both stand for the same model and tokenizer."""
    if differences := expected.differences(found):
        raise FingerprintError(differences)


def check_model(model: Any, tokenizer: Any, expected: Fingerprint) -> None:
    """FingerprintError unless a loaded model and tokenizer are those of `expected`, as far as it can be told.

    Architecture, vocabulary and probes come from the objects, the weights from the files the model was loaded from.
    Where these are not to be found its input embedding is compared, which must be in the checkpoint's dtype.
    """
    try:
        of_files = _of_folder(resolve(str(model.name_or_path), download=False))
        weights, embedding = of_files.weights, of_files.embedding
    except NotFoundError:
        weights, embedding = expected.weights, _embedding_digest(model)
    found = Fingerprint(
        weights=weights,
        embedding=embedding,
        architecture=_architecture(model.config),
        vocabulary=_vocabulary(tokenizer),
        probe=_probe(tokenizer),
        width=int(model.get_input_embeddings().weight.shape[1]),
    )
    check_fingerprint(expected, found)


@functools.lru_cache(maxsize=8)
def _of_folder(folder: Path) -> Fingerprint:
    return fingerprint_folder(folder)


def _embedding_digest(model: Any) -> str:
    """The digest of a loaded model's input embedding, as its checkpoint would have it."""
    from safetensors.torch import save

    table = model.get_input_embeddings().weight.detach()
    name = next((n for n, tensor in model.state_dict().items() if tensor.data_ptr() == table.data_ptr()), "")
    data = save({name: table.cpu().contiguous()})
    return dict(_digests(data)).get(name, "")
