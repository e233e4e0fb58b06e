"""Refuse checkpoints that memvec cannot use, by the files of their folder alone, and say what would make them usable."""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from memvec.causes import UNREADABLE, own_mistake
from memvec.errors import MemvecError, MissingExtraError, NotFoundError, UnsupportedModelError

POINTER = b"version https://git-lfs"  # how the stand-in for a large file in a git repository begins
# Keys of config.json that describe quantised weights. The last is of MLX.
QUANTISED = ("quantization_config", "compression_config", "quantization")
# Endings of tensors that only quantised layers have, for checkpoints whose configuration is silent about them.
PACKED = (".qweight", ".weight_packed", ".SCB", ".absmax", ".weight_scale_inv", "_proj_blocks")
UNWRAP = 'Save its language model in a folder of its own and pass that folder; the guide "Other models" shows how'


def check_settings(folder: Path) -> None:
    """Raise UnsupportedModelError if config.json says that the weights are quantised."""
    settings = _settings(folder / "config.json")
    text = settings.get("text_config")
    for part in (settings, text if isinstance(text, dict) else {}):
        for said in (part[name] for name in QUANTISED if part.get(name) is not None):
            raise quantised(folder, str(said.get("quant_method") or "") if isinstance(said, dict) else "")


def check_config(folder: Path, config: Any) -> None:
    """Raise UnsupportedModelError if the configuration is of a model that wraps a language model."""
    if "text_config" not in getattr(config, "sub_configs", ()):
        return
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    text = config.get_text_config()
    alone = type(text) in MODEL_FOR_CAUSAL_LM_MAPPING
    raise UnsupportedModelError(
        f"{str(folder)!r} ({config.model_type}) reads more than text, and memvec uses language models alone. Its language model "
        f"is {text.model_type}, which transformers {'also knows alone' if alone else 'does not know alone'}",
        UNWRAP if alone else "Take a model of text",
    )


def check_tensors(folder: Path, names: Iterable[str]) -> None:
    """Raise UnsupportedModelError if the names of tensors are those of quantised layers."""
    if any(name.endswith(PACKED) for name in names):
        raise quantised(folder)


def quantised(folder: Path, method: str = "") -> UnsupportedModelError:
    """The error for quantised weights. `method` is the name in the configuration, such as "gptq"."""
    return UnsupportedModelError(
        f"{str(folder)!r} holds quantised weights{f' ({method})' if method else ''}, expected weights in bfloat16, "
        "float16 or float32",
        "Take the checkpoint that they were made of, or dequantise it and save it in bfloat16",
    )


def check_loaded(folder: Path, model: Any, missing: set[str], differing: Iterable[Any]) -> None:
    """Raise NotFoundError if weights of a model are not in its files, or have other shapes there.

    transformers fills such weights with random numbers.

    Args:
        folder: The checkpoint.
        model: The model that transformers made of it.
        missing: Names of weights without a tensor, as transformers reports them.
        differing: Of weights with other shapes: name, shape in the files, shape in the model.
    """
    weights = dict(model.named_parameters(remove_duplicate=False))  # without buffers, which are made and not read
    absent = sorted(missing & weights.keys())
    head, inputs = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and getattr(model.config.get_text_config(), "tie_word_embeddings", False):
        known = [name for name, value in weights.items() if value is inputs.weight and name not in missing]
        absent = [name for name in absent if not (known and weights[name] is head.weight)]  # it may be tied later
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise NotFoundError(
            f"{str(folder)!r} lacks the weights {absent[0]!r}{more} that its config.json asks for. Download the model "
            "again, or save it again with save_pretrained()."
        )
    for name, found, expected in sorted(differing, key=lambda each: str(each[0])):
        raise NotFoundError(
            f"{name!r} in {str(folder)!r} has the shape {tuple(found)}, expected {tuple(expected)} by its config.json. "
            "Download the model again, or save it again with save_pretrained()."
        )


def check_tokens(tokenizer: Any, rows: int) -> None:
    """Raise UnsupportedModelError if a text, a chat or the anchor may hold a token beyond the `rows` of the embeddings.

    Special tokens need no row if nothing uses them: many tokenizers have a padding token that the model never learnt.
    """
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}  # texts never hold them
    used, template = {tokenizer.bos_token_id, tokenizer.eos_token_id}, str(tokenizer.chat_template or "")
    for i, token in sorted((i, token) for token, i in tokenizer.get_vocab().items() if i >= rows):
        if i not in special or i in used or token in template:
            raise UnsupportedModelError(
                f"the tokenizer's token {token!r} has the id {i}, expected less than {rows}: the model has embeddings for "
                "no more tokens",
                "Call model.resize_token_embeddings(len(tokenizer)) and save both, or take the tokenizer that came with it",
            )


def check_complete(file: Path, start: bytes, size: int, wanted: int = 0) -> None:
    """Raise NotFoundError if a file is a Git LFS pointer, or has fewer than `wanted` bytes."""
    if start.startswith(POINTER):
        raise NotFoundError(
            f"{str(file)!r} is a Git LFS pointer, expected the file itself. Run `git lfs pull` in its folder, or download "
            "the model again."
        )
    if size < wanted:
        raise NotFoundError(f"{str(file)!r} has {size:,} bytes, expected {wanted:,}. Download it again.")


def no_checkpoint(folder: Path) -> NotFoundError:
    """The error for a folder without a configuration or without weights that memvec loads. It names what is there instead."""
    there = sorted(path.name for path in folder.iterdir())
    lacks = not {"model.safetensors", "model.safetensors.index.json"} & set(there)
    ggufs = [name for name in there if name.endswith(".gguf")]
    bins = [name for name in there if name.startswith("pytorch_model") and name.endswith(".bin")]
    others = [name for name in there if name.endswith(".safetensors")]
    found, advice = "", "Download config.json too" if not lacks else "Pass a folder that save_pretrained() wrote"
    if "adapter_config.json" in there:
        base = _settings(folder / "adapter_config.json").get("base_model_name_or_path")
        found, advice = "a PEFT adapter alone", f"Merge it into its model{f' ({base})' if base else ''} and save that"
    elif lacks and ggufs:
        found, advice = ggufs[0], f"Pass the file itself: {str(folder / ggufs[0])!r}"
    elif lacks and bins:
        found = f"{bins[0]}, which is not read, because loading one may run code"
        advice = "Load the model with transformers and save it again with save_pretrained()"
    elif lacks and others:
        found = f"{others[0]}, which is not what transformers loads"
        advice = "Save the model with save_pretrained() first"
    return NotFoundError(
        f"{str(folder)!r} holds no checkpoint: expected config.json and *.safetensors in it"
        f"{', no model.safetensors and no model.safetensors.index.json is there' if lacks else ''}"
        f"{f', found {found}' if found else ''}. {advice}."
    )


@contextlib.contextmanager
def explained(folder: Path, tokenizer: bool = False) -> Iterator[None]:
    """Turn the error of a library that cannot read a configuration or a tokenizer into memvec's, if the files show why."""
    try:
        yield
    except UNREADABLE as error:
        if isinstance(error, MemvecError) or own_mistake(error):
            raise
        if (cause := _tokenizer_fault(folder) if tokenizer else _config_fault(folder)) is not None:
            raise cause from error
        raise


def _config_fault(folder: Path) -> MemvecError | None:
    """The reason that transformers cannot read the configuration, if the files show it."""
    from transformers import CONFIG_MAPPING
    from transformers import __version__ as version

    if (fault := _pointer(folder / "config.json")) is not None:
        return fault
    settings = _settings(folder / "config.json")
    kind = settings.get("model_type")
    if not isinstance(kind, str) or kind in CONFIG_MAPPING:
        return None
    if own := _own_code(settings, "AutoConfig"):
        return _needs_code(folder, own, "Take a form of the model that transformers knows, often named -hf")
    return UnsupportedModelError(
        f"{str(folder)!r} is of the kind {kind!r}, which transformers {version} does not know", "Upgrade transformers"
    )


def _tokenizer_fault(folder: Path) -> MemvecError | None:
    """The reason that transformers cannot read the tokenizer, if the files show it."""
    for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json"):
        if (fault := _pointer(folder / name)) is not None:
            return fault
    own = _own_code(_settings(folder / "tokenizer_config.json"), "AutoTokenizer")
    if own:
        return _needs_code(folder, own, "Take a form of the model with a tokenizer.json that transformers reads")
    if (folder / "tokenizer.json").is_file():
        return None
    if (folder / "tokenizer.model").is_file() and importlib.util.find_spec("sentencepiece") is None:
        return MissingExtraError(
            f"the tokenizer in {str(folder)!r} is a tokenizer.model alone, and reading one needs sentencepiece: run "
            "`pip install sentencepiece`."
        )
    if not any((folder / name).is_file() for name in ("tokenizer.model", "vocab.json", "vocab.txt")):
        also = "; tekken.json is in a format of its own" if (folder / "tekken.json").is_file() else ""
        return NotFoundError(
            f"{str(folder)!r} has no tokenizer, expected tokenizer.json{also}. Download the tokenizer's files too, or save "
            "the tokenizer with save_pretrained()."
        )
    return None


def _pointer(file: Path) -> MemvecError | None:
    """The error for a file that is a Git LFS pointer, or None."""
    try:
        with file.open("rb") as opened:
            check_complete(file, opened.read(len(POINTER)), 0)
    except NotFoundError as error:
        return error
    except OSError:  # not there, or not to be read: others say so
        return None
    return None


def _needs_code(folder: Path, own: str, advice: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{str(folder)!r} needs code of its own ({own}), and memvec runs no code from a checkpoint", advice
    )


def _own_code(settings: Mapping[str, Any], name: str) -> str:
    """The class of the checkpoint's own that a configuration names. "" without one."""
    places = settings.get("auto_map")
    own = places.get(name) if isinstance(places, Mapping) else places if name == "AutoTokenizer" else None
    if isinstance(own, list):
        own = next((each for each in own if each), None)
    return own if isinstance(own, str) else ""


def _settings(file: Path) -> Mapping[str, Any]:
    """A JSON object in a file. Empty without one that can be read."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
