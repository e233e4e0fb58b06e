"""Memories as PEFT adapter folders, and back: PROMPT_TUNING (vectors), PREFIX_TUNING and CARTRIDGE (keys and values).

Each folder holds what PEFT reads (adapter_config.json, adapter_model.safetensors) and memvec.json, which says what model
and documents it is of. `PeftModel.from_pretrained(model, folder)` loads it; nothing is trained.

| adapter | rows of different lengths in one batch | size of a position |
|---|---|---|
| PROMPT_TUNING | wrong: PEFT drops the positions of padded rows. One row at a time, or rows of one length | D floats |
| PREFIX_TUNING, CARTRIDGE | right under left padding | 2 · layers · key/value width floats |

PEFT puts an adapter before everything, where memvec puts a memory behind BOS and the chat template's first words. What
stands before the memory therefore goes into the adapter (`before`), and only what comes after it into the prompt:
`frame(tokenizer, prompt).after` of `memvec.template`. All rows of a batch have one memory.

Letters: M vectors, D width, P positions of `before` and the memory.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memvec.errors import FingerprintError, MissingExtraError, NotFoundError, UnsupportedModelError, UsageError
from memvec.formats import files
from memvec.identity import check_fingerprint, check_model
from memvec.memory import Memory
from memvec.paths import outside
from memvec.prefix import CachedMemory, Template, tensor
from memvec.types import Fingerprint

CONFIG, WEIGHTS, ORIGIN = "adapter_config.json", "adapter_model.safetensors", "memvec.json"
KEY = "prompt_embeddings"  # the one tensor of every adapter that PEFT puts before prompts
ORIGIN_FORMAT = "memvec.adapter/1"


def export_prompt_tuning(
    memory: Memory, folder: str | Path, model: Any, tokenizer: Any = None, before: Sequence[int] = ()
) -> Path:
    """Write `memory` as a PROMPT_TUNING adapter: (len(before) + M, D) float32, exact. The folder; raises as below.

    `before`: token ids to stand before the memory, as virtual tokens too: `frame(tokenizer, "").before` reproduces the
    hook's prompt exactly when the model is then given `frame(tokenizer, prompt).after`. Without it the memory comes first
    of all, before BOS and template, which is not where it was made for.
    A trap of PEFT: in a left-padded batch padded rows come out wrong, since it drops their positions (and warns "Position
    ids are not supported"). Give it one row at a time, or export keys and values.
    `tokenizer` None: only the width of the model is compared. FingerprintError; UsageError when something is at `folder`.
    """
    from peft import PromptTuningConfig

    _check(memory, model, tokenizer)
    look = model.get_input_embeddings()
    ids = torch.tensor(list(before), dtype=torch.long, device=look.weight.device)
    with torch.inference_mode():
        vectors = torch.cat([look(ids).float().cpu(), tensor(memory)])
    sizes = model.config.get_text_config()
    config = PromptTuningConfig(
        num_attention_heads=sizes.num_attention_heads,
        num_layers=sizes.num_hidden_layers,
        **_common(model, len(vectors), int(vectors.shape[1])),
    )
    return _write(outside(folder, "folder"), config, vectors, _origin(memory, before))


def import_prompt_tuning(folder: str | Path, fingerprint: Fingerprint | None = None) -> Memory:
    """The memory in a PROMPT_TUNING adapter, bit for bit where `export_prompt_tuning` wrote it, without its `before`.

    An adapter that PEFT trained has no memvec.json: give the fingerprint of its base model (`memvec.fingerprint`); its
    vectors are rounded to float16. NotFoundError, UsageError for other adapters, FingerprintError for another model.
    """
    folder = Path(folder)
    config = _json(folder / CONFIG)
    if config.get("peft_type") != "PROMPT_TUNING":
        raise UsageError(
            f"{str(folder)!r} is a {config.get('peft_type')} adapter, expected PROMPT_TUNING: keys and values cannot "
            "be turned back into vectors. Export the memory as PROMPT_TUNING."
        )
    origin = _json(folder / ORIGIN) if (folder / ORIGIN).exists() else None
    if origin is None:
        if fingerprint is None:
            raise UsageError(
                f"{str(folder)!r} has no {ORIGIN}, so it is not known what model it belongs to. Pass fingerprint="
                "memvec.fingerprint(model)."
            )
        return Memory((folder.name,), (_read_vectors(folder, fingerprint.width),), fingerprint)
    owner, documents, sizes = _parse_origin(folder, origin)
    if fingerprint is not None:
        check_fingerprint(fingerprint, owner)
    vectors = _read_vectors(folder, owner.width)
    if sum(sizes) != len(vectors):
        raise UsageError(f"{str(folder)!r} has {len(vectors)} vectors, {ORIGIN} says {sum(sizes)}. Export it again.")
    _, *parts = np.split(vectors, np.cumsum(sizes)[:-1])
    return Memory(documents, tuple(parts), owner)


def export_prefix_tuning(
    memory: Memory, folder: str | Path, model: Any, tokenizer: Any, template: Template = "auto"
) -> Path:
    """Write the keys and values of BOS, template and `memory` as a PREFIX_TUNING adapter. The folder.

    (P, layers · 2 · key/value width) float32, right in left-padded batches; the model is given `frame(…).after`. It
    cannot be imported again. FingerprintError, UnsupportedModelError; UsageError when something is at `folder`.
    """
    from peft import PrefixTuningConfig

    return _export_cache(memory, folder, model, tokenizer, template, PrefixTuningConfig)


def export_cartridge(
    memory: Memory, folder: str | Path, model: Any, tokenizer: Any, template: Template = "auto"
) -> Path:
    """The same as a CARTRIDGE adapter, which PEFT can also join with others. As `export_prefix_tuning`.

    MissingExtraError when the installed PEFT is too old to know cartridges.
    """
    try:
        from peft import CartridgeConfig
    except ImportError:
        raise MissingExtraError(
            "this PEFT knows no cartridges. Upgrade it with `pip install -U peft`, or export as prefix tuning."
        ) from None
    return _export_cache(memory, folder, model, tokenizer, template, CartridgeConfig)


def _export_cache(
    memory: Memory, folder: str | Path, model: Any, tokenizer: Any, template: Template, kind: Any
) -> Path:
    _check(memory, model, tokenizer)
    cached = CachedMemory(model, tokenizer, memory, template, check=False)
    layers = cached.copy().layers
    shapes = {tuple(layer.keys.shape) for layer in layers} | {tuple(layer.values.shape) for layer in layers}
    if len(shapes) != 1 or next(iter(shapes))[2] != cached.length:
        raise UnsupportedModelError(
            f"{model.config.model_type} keeps keys and values of different shapes ({sorted(shapes)}), which a PEFT "
            "prefix cannot hold; export as prompt tuning"
        )
    _, heads, positions, size = shapes.pop()
    # PEFT's layout: for each position keys then values of each layer, each as (heads, size).
    stacked = torch.stack([t[0].transpose(0, 1) for layer in layers for t in (layer.keys, layer.values)], dim=1)
    config = kind(num_attention_heads=heads, num_layers=len(layers), **_common(model, positions, heads * size))
    return _write(
        outside(folder, "folder"), config, stacked.reshape(positions, -1).float().cpu(), _origin(memory, cached.before)
    )


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
            f"{', '.join(memory.documents)} has no vectors, only stored bytes. There is nothing to export."
        )
    width = int(model.get_input_embeddings().weight.shape[1])
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
        "parts": [len(part) for part in memory.parts],
    }


def _write(folder: Path, config: Any, vectors: Tensor, origin: dict[str, Any]) -> Path:
    from safetensors.torch import save

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{str(folder)!r} exists and is not an empty folder. Choose another name, or remove it.")
    folder.mkdir(parents=True, exist_ok=True)
    files.write_atomically(folder / WEIGHTS, save({KEY: vectors.contiguous()}, metadata={"format": "pt"}))
    files.write_atomically(folder / ORIGIN, json.dumps(origin, indent=1, ensure_ascii=False).encode())
    config.save_pretrained(str(folder))
    return folder


def _read_vectors(folder: Path, width: int) -> Any:
    """(virtual tokens, D) float16. NotFoundError, UsageError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / WEIGHTS
    if not file.exists():
        raise NotFoundError(f"no {WEIGHTS} in {str(folder)!r}. Other formats are not read; save it as safetensors.")
    try:
        found = load_file(file).get(KEY)
    except SafetensorError as error:
        raise UsageError(f"{str(file)!r} is damaged ({error}). Export it again.") from None
    if found is None or found.ndim != 2 or found.shape[1] != width:
        shape = "nothing" if found is None else tuple(found.shape)
        raise UsageError(
            f"{str(file)!r} holds {shape} as {KEY!r}, expected (positions, {width}). Pass the fingerprint of its base model."
        )
    with np.errstate(over="ignore"):
        vectors = found.float().numpy().astype(np.float16)
    if not np.isfinite(vectors).all():
        raise UsageError(f"{str(file)!r} holds values that float16 cannot. It cannot become a memory.")
    return vectors


def _parse_origin(folder: Path, origin: dict[str, Any]) -> tuple[Fingerprint, tuple[str, ...], list[int]]:
    """(fingerprint, document names, vectors before the memory and of each of its parts). UsageError."""
    try:
        if origin["format"] != ORIGIN_FORMAT:
            raise UsageError(f"{ORIGIN} is {origin['format']!r}, this memvec reads {ORIGIN_FORMAT!r}. Upgrade memvec.")
        sizes = [int(size) for size in (origin["before"], *origin["parts"])]
        if min(sizes) < 0:
            raise ValueError("a count is negative")
        return Fingerprint(**origin["fingerprint"]), tuple(map(str, origin["documents"])), sizes
    except UsageError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{str(folder / ORIGIN)!r} is damaged ({error}). Export it again.") from None


def _json(file: Path) -> dict[str, Any]:
    if not file.exists():
        raise NotFoundError(f"no {file.name} in {str(file.parent)!r}: it is no PEFT adapter.")
    try:
        value = json.loads(file.read_bytes())
    except ValueError as error:
        raise UsageError(f"{str(file)!r} is damaged ({error}). Export it again.") from None
    if not isinstance(value, dict):
        raise UsageError(f"{str(file)!r} holds no object. Export it again.")
    return value
