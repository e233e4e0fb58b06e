"""Export memories as PEFT adapters: PROMPT_TUNING (vectors), PREFIX_TUNING and CARTRIDGE (keys and values).

A folder holds the files of PEFT (adapter_config.json, adapter_model.safetensors) and memvec.json, which names the model and
the documents. `PeftModel.from_pretrained(model, folder)` loads it. Nothing is trained. Context vectors go into all three, keys
and values into the last two if every head keeps as many (an even budget).

| adapter | rows of different lengths in one batch | size of a position |
|---|---|---|
| PROMPT_TUNING | wrong: PEFT drops the positions of padded rows. One row at a time, or rows of one length | D floats |
| PREFIX_TUNING, CARTRIDGE | right with left padding, except for models with sliding windows: these count the padding | 2 · layers · key/value width floats |

PEFT puts an adapter before the complete prompt; memvec puts a memory behind BOS and the chat template's first words. So the
tokens before the memory go into the adapter (`before`), and the model gets only the tokens after it:
`frame(tokenizer, prompt).after` of `memvec.templates.template`. All rows of a batch have the same memory.

Letters: M vectors, D width, P positions of `before` and the memory.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memvec.arguments import anything, checked, instance, literal
from memvec.errors import FingerprintError, MissingExtraError, UnsupportedModelError, UsageError
from memvec.filesystem.paths import outside
from memvec.formats import files
from memvec.guard import loading_alone
from memvec.identity.fingerprint import check_model
from memvec.integrations.peft_import import (
    KEY,
    ORIGIN,
    ORIGIN_FORMAT,
    WEIGHTS,
    import_cartridge,
    import_prompt_tuning,
    one_shape,
)
from memvec.kv.place import placed_plain, windowed
from memvec.kv.selection import Selection
from memvec.lm.adapters import unwrapped
from memvec.lm.compat import recurrent, sliding
from memvec.lm.device import device_of
from memvec.memory.cached import CachedMemory
from memvec.memory.memory import Memory
from memvec.memory.prompt import front_of, refuse_kv, tensor
from memvec.templates.template import Template, frame

__all__ = [
    "export_cartridge",
    "export_prefix_tuning",
    "export_prompt_tuning",
    "import_cartridge",
    "import_prompt_tuning",
]


@checked(model=anything, memory=instance(Memory))
def export_prompt_tuning(
    memory: Memory, folder: str | Path, model: Any, tokenizer: Any = None, before: Sequence[int] = ()
) -> Path:
    """Write a memory as a PROMPT_TUNING adapter: (len(before) + M, D) float32, without loss.

    In a left-padded batch, PEFT gets padded rows wrong, because it drops their positions (it warns "Position ids are not
    supported"). Pass one row at a time, or export keys and values.

    Args:
        memory: The memory.
        folder: A new or empty folder.
        model: The model the memory belongs to.
        tokenizer: Its tokenizer. With None, only the width of the model is compared.
        before: Ids of the tokens before the memory. `frame(tokenizer, "").before` gives the prompt that memvec makes, if the
            model then gets `frame(tokenizer, prompt).after`. Without them, the memory comes before BOS and template, which
            is not the place it was trained for.

    Returns:
        The folder.

    Raises:
        FingerprintError: The model is another one.
        UsageError: The folder is not empty, or the memory has no vectors or is keys and values.
    """
    refuse_kv(memory)
    with loading_alone():
        from peft import PromptTuningConfig

    _check(memory, model, tokenizer)
    model = unwrapped(model)
    look = model.get_input_embeddings()
    ids = torch.tensor(list(before), dtype=torch.long, device=device_of(look))
    with torch.inference_mode():
        vectors = torch.cat([look(ids).float().cpu(), tensor(memory)])
    if recurrent(model):
        warnings.warn(
            f"PEFT's generate() loses the state of {model.config.model_type} behind this adapter after one token. Pass it "
            "use_cache=False.",
            stacklevel=2,
        )
    sizes = model.config.get_text_config()
    config = PromptTuningConfig(
        # State-space models have none, and PEFT wants a number.
        num_attention_heads=getattr(sizes, "num_attention_heads", 1),
        num_layers=sizes.num_hidden_layers,
        prompt_tuning_init_text=_note(memory, before),
        **_common(model, len(vectors), int(vectors.shape[1])),
    )
    return _write(outside(folder, "folder"), config, vectors, _origin(memory, before))


@checked(model=anything, memory=instance(Memory), template=literal(Template))
def export_prefix_tuning(
    memory: Memory, folder: str | Path, model: Any, tokenizer: Any, template: Template = "auto"
) -> Path:
    """Write the keys and values of BOS, template and memory as a PREFIX_TUNING adapter. Return the folder.

    The adapter has (P, layers · 2 · key/value width) float32. The model then gets `frame(…).after`, also in left-padded
    batches. A model with sliding windows counts the padding, so its rows must have the same length: a warning says so.
    `import_cartridge` makes a memory of keys and values of it. FingerprintError, UnsupportedModelError; UsageError if the
    folder is not empty, or heads keep different numbers of keys.
    """
    with loading_alone():
        from peft import PrefixTuningConfig

    return _export_cache(memory, folder, model, tokenizer, template, PrefixTuningConfig)


@checked(model=anything, memory=instance(Memory), template=literal(Template))
def export_cartridge(
    memory: Memory, folder: str | Path, model: Any, tokenizer: Any, template: Template = "auto"
) -> Path:
    """Write the same as a CARTRIDGE adapter, which PEFT can join with others. As `export_prefix_tuning`.

    MissingExtraError if the installed PEFT is too old for cartridges.
    """
    try:
        with loading_alone():
            from peft import CartridgeConfig
    except ImportError as error:
        raise MissingExtraError(
            "this version of PEFT has no cartridges. Upgrade it with `pip install -U peft`, or export as prefix tuning."
        ) from error
    return _export_cache(memory, folder, model, tokenizer, template, CartridgeConfig)


def _export_cache(
    memory: Memory, folder: str | Path, model: Any, tokenizer: Any, template: Template, kind: Any
) -> Path:
    _check(memory, model, tokenizer)
    model = unwrapped(model)
    before, tokens, cache = _cache(memory, model, tokenizer, template)
    if sliding(cache) or (memory.kv and windowed(model)):
        warnings.warn(
            f"{model.config.model_type} has sliding windows, which count padding between this adapter and a prompt. "
            "Give it one row at a time, or rows of one length.",
            stacklevel=3,
        )
    layers = cache.layers
    heads, positions, size = one_shape(model, cache)
    if positions != len(before) + len(memory):
        raise UnsupportedModelError(
            f"{model.config.model_type} keeps {positions} of {len(before) + len(memory)} keys and values, because of its "
            "sliding windows",
            "Export as prompt tuning",
        )
    # PEFT's layout: for each position keys then values of each layer, each as (heads, size).
    stacked = torch.stack([t[0].transpose(0, 1) for layer in layers for t in (layer.keys, layer.values)], dim=1)
    config = kind(num_attention_heads=heads, num_layers=len(layers), **_common(model, positions, heads * size))
    origin = {**_origin(memory, before), "tokens": tokens}
    return _write(outside(folder, "folder"), config, stacked.reshape(positions, -1).float().cpu(), origin)


def _cache(memory: Memory, model: Any, tokenizer: Any, template: Template) -> tuple[Sequence[int], int, Any]:
    """(tokens before the memory, tokens that it stands for, the keys and values of both as a plain cache)."""
    front = front_of(memory)
    if not isinstance(front, Selection):
        cached = CachedMemory(model, tokenizer, memory, template, check=False)
        return cached.before, len(memory), cached.copy()
    before = frame(tokenizer, "", template).before
    return before, front.tokens, placed_plain(model, front, before).cache


def _common(model: Any, positions: int, width: int) -> dict[str, Any]:
    return {
        "task_type": "CAUSAL_LM",
        "num_virtual_tokens": positions,
        "token_dim": width,
        "num_transformer_submodules": 1,
        "base_model_name_or_path": str(model.name_or_path),
        "inference_mode": True,
    }


def _check(memory: Memory, model: Any, tokenizer: Any) -> None:
    """FingerprintError for another model; UsageError for a memory without vectors."""
    if not len(memory):
        raise UsageError(
            f"{', '.join(memory.documents)} has no vectors, only raw bytes, so there is nothing to export."
        )
    width = int(unwrapped(model).get_input_embeddings().weight.shape[1])
    if tokenizer is not None:
        check_model(model, tokenizer, memory.fingerprint)
    elif width != memory.fingerprint.width:
        raise FingerprintError([("width", str(memory.fingerprint.width), str(width))])


def _origin(memory: Memory, before: Sequence[int]) -> dict[str, Any]:
    return {
        "format": ORIGIN_FORMAT,
        "fingerprint": asdict(memory.fingerprint),
        "documents": list(memory.documents),
        "before": len(before),
        "parts": [len(part) for part in memory.parts] or [part.stored.positions for kept in memory.kv for part in kept],
    }


def _note(memory: Memory, before: Sequence[int]) -> str:
    """A note on the memory, for an adapter that PEFT saves again: PEFT then saves only the configuration.

    The note is in a field that PEFT reads only to initialise an adapter with a text.
    """
    return json.dumps({"format": ORIGIN_FORMAT, "before": len(before), "fingerprint": memory.fingerprint.id})


def _write(folder: Path, config: Any, vectors: Tensor, origin: dict[str, Any]) -> Path:
    from safetensors.torch import save

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{str(folder)!r} exists and is not an empty folder. Choose another name, or remove it.")
    folder.mkdir(parents=True, exist_ok=True)
    files.write_atomically(folder / WEIGHTS, save({KEY: vectors.contiguous()}, metadata={"format": "pt"}))
    files.write_atomically(folder / ORIGIN, json.dumps(origin, indent=1, ensure_ascii=False).encode())
    config.save_pretrained(str(folder))
    return folder
