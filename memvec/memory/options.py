"""A table of the arguments of transformers' `generate` that work with a memory, for all ways to use one.

A call with a memory gives `generate` both the prompt's ids (B, T) and its embeddings (B, P). The output begins with the ids,
and logits processors see them. Only the embeddings hold the memory's M positions. `python -m memvec.memory.options` prints the
table for docs/reference/generate-arguments.md.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memvec.errors import UsageError, counted


@dataclass(frozen=True, slots=True)
class Rule:
    """Whether one argument of `generate` works with a memory."""

    honoured: bool
    note: str = ""  # its meaning with a memory, or the reason for its refusal
    neutral: tuple[Any, ...] = ()  # values besides None that have no effect


def _yes(note: str = "") -> Rule:
    return Rule(True, note)


def _no(note: str, *neutral: Any) -> Rule:
    return Rule(False, note, neutral)


_IDS = "sees the prompt's ids and the new ones, not the memory"
_ASSISTED = "the candidates would be made without the memory"
_MOVED = "transformers moved it to a hub repository, whose code is not run"
_BATCHING = "continuous batching takes ids only, so the memory would be left out"
_NOT_DECODER = "does nothing for a decoder-only model"

# Every parameter of GenerationMixin.generate and every field of GenerationConfig. A test fails when one is missing.
OPTIONS: dict[str, Rule] = {
    # parameters of generate
    "inputs": _yes("the ids, by position; generate_kwargs and as_cache give their own"),
    "input_ids": _yes("the ids, by name; generate_kwargs and as_cache give their own"),
    "attention_mask": _yes("(B, T); found from the padding token where it is not given, as transformers does"),
    "generation_config": _yes(),
    "logits_processor": _yes(_IDS),
    "stopping_criteria": _yes(_IDS),
    "prefix_allowed_tokens_fn": _yes(_IDS),
    "synced_gpus": _yes(),
    "streamer": _yes("gets the prompt's ids, then the new ones"),
    "tokenizer": _yes("for stop_strings"),
    "negative_prompt_ids": _yes("for guidance_scale: a prompt without the memory"),
    "negative_prompt_attention_mask": _yes("for guidance_scale"),
    "assistant_model": _no(_ASSISTED),
    "assistant_tokenizer": _no(_ASSISTED),
    "custom_generate": _no("memvec does not know the use that other code makes of the embeddings"),
    "trust_remote_code": _yes("does nothing without custom_generate"),
    # lengths
    "max_length": _yes("counts the ids of the output, as without a memory"),
    "max_new_tokens": _yes(),
    "min_length": _yes("counts the ids of the output, as without a memory"),
    "min_new_tokens": _yes(),
    "max_time": _yes(),
    "stop_strings": _yes(_IDS),
    "early_stopping": _yes(),
    # strategy
    "do_sample": _yes(),
    "num_beams": _yes(),
    "num_return_sequences": _yes(),
    "use_cache": _yes("True, whatever is given: embeddings are read once, so the cache must hold them. Same tokens"),
    "cache_implementation": _yes(
        "as_cache then runs the memory again in the cache that is asked for; refused with keys and values, which are a cache"
    ),
    "cache_config": _yes(),
    "max_cache_len": _yes(),
    "compile_config": _yes(),
    "disable_compile": _yes(),
    "low_memory": _yes("transformers ignores it"),
    "prefill_chunk_size": _no("it splits the prompt by its ids, which do not count the memory"),
    "use_mtp": _no(_ASSISTED, False),
    "prompt_lookup_num_tokens": _no("it looks candidates up in ids, which do not hold the memory"),
    "assistant_early_exit": _no("it drafts from the prompt's ids, without the memory"),
    "speculation_type": _no(_ASSISTED),
    "is_assistant": _no(_ASSISTED, False),
    "num_assistant_tokens": _yes("does nothing without an assistant"),
    "num_assistant_tokens_schedule": _yes("does nothing without an assistant"),
    "assistant_confidence_threshold": _yes("does nothing without an assistant"),
    "max_matching_ngram_size": _yes("does nothing without prompt_lookup_num_tokens"),
    "assistant_lookbehind": _yes("does nothing without an assistant"),
    "target_lookbehind": _yes("does nothing without an assistant"),
    "assistant_ensemble_weight": _yes("does nothing without an assistant"),
    "penalty_alpha": _no(_MOVED, 0, 0.0),
    "dola_layers": _no(_MOVED),
    "diversity_penalty": _no(_MOVED, 0, 0.0),
    "num_beam_groups": _no(_MOVED, 1),
    "constraints": _no(_MOVED),
    "force_words_ids": _no(_MOVED),
    "continuous_batching_config": _no(_BATCHING),
    # changes of logits
    "temperature": _yes(),
    "top_k": _yes(),
    "top_p": _yes(),
    "min_p": _yes(),
    "top_h": _yes(),
    "typical_p": _yes(),
    "epsilon_cutoff": _yes(),
    "eta_cutoff": _yes(),
    "renormalize_logits": _yes(),
    "remove_invalid_values": _yes(),
    "repetition_penalty": _yes(_IDS),
    "no_repeat_ngram_size": _yes(_IDS),
    "bad_words_ids": _yes(_IDS),
    "sequence_bias": _yes(_IDS),
    "suppress_tokens": _yes(),
    "begin_suppress_tokens": _yes(),
    "forced_bos_token_id": _yes("acts where the output has one id so far, as without a memory"),
    "forced_eos_token_id": _yes(),
    "exponential_decay_length_penalty": _yes(),
    "length_penalty": _yes(),
    "guidance_scale": _yes("the guided side has the memory, the unguided side has not"),
    "watermarking_config": _yes(),
    "token_healing": _no("it changes the prompt's ids, and the embeddings would stay as they are", False),
    "encoder_repetition_penalty": _no("transformers drops it where the prompt is given as embeddings", 1, 1.0),
    "encoder_no_repeat_ngram_size": _no("transformers drops it where the prompt is given as embeddings", 0),
    # the output
    "output_attentions": _yes("over all P positions"),
    "output_hidden_states": _yes("over all P positions"),
    "output_scores": _yes(),
    "output_logits": _yes(),
    "return_dict_in_generate": _yes(),
    # tokens
    "pad_token_id": _yes("the tokenizer's, where nothing names one"),
    "bos_token_id": _yes(),
    "eos_token_id": _yes(),
    "decoder_start_token_id": _yes(_NOT_DECODER),
}

# Arguments of models that users pass to `generate`, with the reason that they are refused.
MODEL_ARGUMENTS = {
    "token_type_ids": "a memory's positions have no token types",
    "position_ids": "positions count the memory, and are made here",
    "cache_position": "positions count the memory, and are made here",
    "inputs_embeds": "the embeddings are made here, of the ids and the memory",
    "cache": "a cache would hold a prompt without the memory",
    "past_key_values": "a cache would hold a prompt without the memory",
    "cache_params": "a cache would hold a prompt without the memory",
}
UNKNOWN = "memvec does not know what it does beside a memory"


def resolve(model: Any, given: Mapping[str, Any], name: str) -> Any:
    """Return the value of a generation option, in transformers' order: the call, its configuration, the model's."""
    if name in given:
        return given[name]
    values = (getattr(config, name, None) for config in _configurations(model, given))
    return next((value for value in values if value is not None), None)


def check(model: Any, given: Mapping[str, Any]) -> None:
    """Refuse arguments and settings with which a memory would be ignored or misread.

    Args:
        model: The transformers model, for its `generation_config`.
        given: The arguments of the call by name.

    Raises:
        UsageError: An argument is refused or unknown.
    """
    for name, value in given.items():
        if value is not None and name not in OPTIONS:
            raise UsageError(
                f"{name} cannot be used with a memory: {MODEL_ARGUMENTS.get(name, UNKNOWN)}. Leave it out."
            )
    for name, rule in OPTIONS.items():
        value = None if rule.honoured else resolve(model, given, name)
        if value is not None and not (isinstance(value, bool | int | float) and value in rule.neutral):
            raise UsageError(f"{name} cannot be used with a memory: {rule.note}. Leave it out.")
    if "paged" in str(resolve(model, given, "cache_implementation")):
        raise UsageError(f"cache_implementation='paged' cannot be used with a memory: {_BATCHING}. Leave it out.")
    newer = hasattr(type(model), "is_activation_checkpointing")  # transformers 5.22 or so renamed it
    if model.training and getattr(model, f"is_{'activation' if newer else 'gradient'}_checkpointing", False):
        raise UsageError(
            "the model is in training mode with gradient checkpointing, where transformers keeps no cache and a memory "
            "would be lost after the first token. Call model.eval() first."
        )


def check_cache(model: Any, given: Mapping[str, Any], cache: Any) -> None:
    """Refuse options of a call that do not go together with the keys and values of a memory. UsageError."""
    asked = given.get("cache_implementation", getattr(given.get("generation_config"), "cache_implementation", None))
    if asked is not None:
        raise UsageError(
            f"cache_implementation={asked!r} cannot be used with a memory of keys and values: it makes an empty cache, and "
            "they are one already. Leave it out, or load context vectors: memvec.load_memory(…, kind='context')."
        )
    if model.dtype != (of := cache.layers[0].keys.dtype):
        raise UsageError(
            f"the keys and values are in {of}, the model in {model.dtype}. Make the arguments again, of this model."
        )


def settle(model: Any, given: Mapping[str, Any], length: int, pad: int) -> dict[str, Any]:
    """Return the call's options for a call with embeddings, with lengths counted in new tokens.

    transformers would subtract the length of the embeddings from `max_length` and `min_length`, and that of the ids again.

    Args:
        model: The transformers model, for its `generation_config`.
        given: The arguments of the call by name, without ids, mask, embeddings and cache.
        length: T, the number of ids at the start of the output.
        pad: The padding token's id, if the call and the model have none.

    Raises:
        UsageError: `max_length` leaves no room for a new token.
    """
    changed: dict[str, Any] = {"use_cache": True}
    limits = {"max": resolve(model, given, "max_length"), "min": resolve(model, given, "min_length")}
    for kind, limit in limits.items():
        if limit is None:
            continue
        changed[f"{kind}_length"] = None
        if resolve(model, given, f"{kind}_new_tokens") is None:
            changed[f"{kind}_new_tokens"] = limit - length if kind == "max" else max(0, limit - length)
    if changed.get("max_new_tokens", 1) < 1:
        raise UsageError(
            f"max_length is {limits['max']} and the prompt has {counted(length, 'id')}, so there is no room for an answer. "
            "Pass a larger max_length, or max_new_tokens."
        )
    if resolve(model, given, "pad_token_id") is None:
        changed["pad_token_id"] = pad
    config = given.get("generation_config")
    if config is None:
        return {**given, **changed}
    config = copy.deepcopy(config)  # transformers warns where a configuration and options come together
    for name, value in changed.items():
        setattr(config, name, value)
    return {**{name: value for name, value in given.items() if name not in changed}, "generation_config": config}


def table() -> str:
    """Return the table of docs/reference/generate-arguments.md."""
    lines = ["| argument | with a memory | |", "|---|---|---|"]
    for name, rule in sorted(OPTIONS.items()):
        lines.append(f"| `{name}` | {'honoured' if rule.honoured else '**refused**'} | {rule.note} |")
    lines += [f"| `{name}` | **refused** | {why} |" for name, why in sorted(MODEL_ARGUMENTS.items())]
    lines.append(f"| any other | **refused** | {UNKNOWN} |")
    return "\n".join(lines)


def _configurations(model: Any, given: Mapping[str, Any]) -> list[Any]:
    return [config for config in (given.get("generation_config"), getattr(model, "generation_config", None)) if config]


if __name__ == "__main__":
    print(table())
