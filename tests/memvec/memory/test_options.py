"""Every argument of transformers' `generate` beside a memory: right in all four ways to put one in front, or refused in all."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from kv_memory import kv_memory
from transformers import (
    CompileConfig,
    GenerationConfig,
    GenerationMixin,
    WatermarkingConfig,
)
from ways import GREEDY, NEW, QUESTION, TEXT, WAYS, Stop, own, plain, prompt_ids, say

from memvec.errors import UsageError
from memvec.identity.fingerprint import fingerprint
from memvec.memory.attach import attached
from memvec.memory.memory import Memory
from memvec.memory.options import MODEL_ARGUMENTS, OPTIONS
from memvec.templates.template import places


@pytest.fixture
def model(tiny_lm: Any) -> Iterator[Any]:
    kept = tiny_lm.model.generation_config
    tiny_lm.model.generation_config = copy.deepcopy(kept)
    tiny_lm.model.generation_config.eos_token_id = None
    yield tiny_lm.model
    tiny_lm.model.generation_config = kept


@pytest.fixture
def memory(model: Any, tokenizer: Any, tiny: str) -> Memory:
    """The text's own embeddings: the checkpoint is in float16, so they are exact."""
    ids = torch.tensor(tokenizer(TEXT)["input_ids"])
    vectors = model.get_input_embeddings()(ids).numpy().astype(np.float16)
    return Memory(("text",), (vectors,), fingerprint(tiny))


NEGATIVE = torch.tensor([[5, 60, 41]])
SAMPLE: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "max_new_tokens": NEW}  # pipelines have .7
# What does not look at ids gives the tokens that the text itself gives.
AS_TEXT: dict[str, dict[str, Any]] = {
    "max_new_tokens": {"do_sample": False, "max_new_tokens": 5},
    "min_new_tokens": {**GREEDY, "min_new_tokens": 9, "eos_token_id": 46},
    "max_time": {**GREEDY, "max_time": 60.0},
    "do_sample": SAMPLE,
    "temperature": {**SAMPLE, "temperature": 0.7},
    "top_k": {**SAMPLE, "top_k": 3},
    "top_p": {**SAMPLE, "top_p": 0.5},
    "min_p": {**SAMPLE, "min_p": 0.2},
    "top_h": {**SAMPLE, "top_h": 0.5},
    "typical_p": {**SAMPLE, "typical_p": 0.5},
    "epsilon_cutoff": {**SAMPLE, "epsilon_cutoff": 0.01},
    "eta_cutoff": {**SAMPLE, "eta_cutoff": 0.01},
    "renormalize_logits": {**SAMPLE, "renormalize_logits": True},
    "remove_invalid_values": {**GREEDY, "remove_invalid_values": True},
    "num_beams": {**GREEDY, "num_beams": 3},
    "early_stopping": {**GREEDY, "num_beams": 3, "early_stopping": True, "eos_token_id": 46},
    "length_penalty": {**GREEDY, "num_beams": 3, "length_penalty": 2.0, "eos_token_id": 46},
    "num_return_sequences": {**SAMPLE, "num_return_sequences": 3},
    "use_cache": {**GREEDY, "use_cache": False},
    "cache_implementation": {**GREEDY, "cache_implementation": "static"},
    "max_cache_len": {**GREEDY, "cache_implementation": "static", "max_cache_len": 200},
    "disable_compile": {**GREEDY, "cache_implementation": "static", "disable_compile": True},
    "suppress_tokens": {**GREEDY, "suppress_tokens": [2, 41, 84]},
    "begin_suppress_tokens": {**GREEDY, "begin_suppress_tokens": list(range(40, 90))},
    "forced_eos_token_id": {**GREEDY, "forced_eos_token_id": 7},
    "exponential_decay_length_penalty": {
        **GREEDY,
        "exponential_decay_length_penalty": (2, 3.0),
        "eos_token_id": 46,
    },
    "return_dict_in_generate": {**GREEDY, "return_dict_in_generate": True},
    "output_scores": {**GREEDY, "return_dict_in_generate": True, "output_scores": True},
    "output_logits": {**GREEDY, "return_dict_in_generate": True, "output_logits": True},
    "output_hidden_states": {**GREEDY, "return_dict_in_generate": True, "output_hidden_states": True},
    "eos_token_id": {**GREEDY, "eos_token_id": 46},
    "pad_token_id": {**GREEDY, "pad_token_id": 5, "eos_token_id": 46},
    "bos_token_id": {**GREEDY, "bos_token_id": 3},
    "num_assistant_tokens": {**GREEDY, "num_assistant_tokens": 4},
    "num_assistant_tokens_schedule": {**GREEDY, "num_assistant_tokens_schedule": "heuristic"},
    "assistant_confidence_threshold": {**GREEDY, "assistant_confidence_threshold": 0.9},
    "assistant_lookbehind": {**GREEDY, "assistant_lookbehind": 3},
    "target_lookbehind": {**GREEDY, "target_lookbehind": 3},
    "assistant_ensemble_weight": {**GREEDY, "assistant_ensemble_weight": 0.5},
    "max_matching_ngram_size": {**GREEDY, "max_matching_ngram_size": 2},
    "decoder_start_token_id": {**GREEDY, "decoder_start_token_id": 3},
    "forced_bos_token_id": {**GREEDY, "forced_bos_token_id": 7},
    "synced_gpus": {**GREEDY, "synced_gpus": False},
    "low_memory": {**GREEDY, "low_memory": True},
    "cache_config": {**GREEDY, "cache_config": {}},
    "compile_config": {**GREEDY, "cache_implementation": "static", "compile_config": CompileConfig()},
    "watermarking_config": {**GREEDY, "watermarking_config": WatermarkingConfig(bias=9.0, seeding_scheme="lefthash")},
    "output_attentions": {**GREEDY, "return_dict_in_generate": True, "output_attentions": True},
    "negative_prompt_ids": {**GREEDY, "guidance_scale": 2.0, "negative_prompt_ids": NEGATIVE},
    "negative_prompt_attention_mask": {
        **GREEDY,
        "guidance_scale": 2.0,
        "negative_prompt_ids": NEGATIVE,
        "negative_prompt_attention_mask": torch.tensor([[0, 1, 1]]),
    },
    "trust_remote_code": {**GREEDY, "trust_remote_code": False},
}


@pytest.mark.parametrize("name", AS_TEXT)
def test_options_act_as_with_the_text(model: Any, tokenizer: Any, memory: Memory, name: str) -> None:
    options = AS_TEXT[name]
    wanted = plain(model, tokenizer, **options)
    for way in WAYS:
        if way == "pipeline" and name == "trust_remote_code":
            continue  # a parameter of the pipeline itself
        assert say(way, model, tokenizer, memory, **options) == wanted, way


@pytest.mark.parametrize("name", [name for name, given in AS_TEXT.items() if "cache_implementation" not in given])
def test_options_act_as_with_the_text_behind_keys_and_values(model: Any, tokenizer: Any, tiny: str, name: str) -> None:
    whole = kv_memory(model, tokenizer, fingerprint(tiny), TEXT)
    part = whole.kv[0][0]
    # A position more than there are tokens moves nothing: keys have distances. But no plain cache can hold it.
    part = replace(part, stored=replace(part.stored, positions=part.tokens + 1))
    options, front = AS_TEXT[name], replace(whole, kv=((part,),))
    wanted = plain(model, tokenizer, **options)
    for way in WAYS:
        if way == "pipeline" and name == "trust_remote_code":
            continue  # a parameter of the pipeline itself
        assert say(way, model, tokenizer, front, **options) == wanted, way


@pytest.mark.parametrize("name", ["temperature", "num_beams", "suppress_tokens", "max_new_tokens", "use_cache"])
@pytest.mark.parametrize("place", ["generation_config", "model"])
def test_options_in_configurations_act_as_in_the_call(
    model: Any, tokenizer: Any, memory: Memory, name: str, place: str
) -> None:
    options = AS_TEXT[name]
    wanted = plain(model, tokenizer, **options)
    config = None
    if place == "model":
        model.generation_config.update(**options)
    else:
        config = GenerationConfig(**options)
    for way in WAYS:
        assert say(way, model, tokenizer, memory, config) == wanted, way
    if config is not None:
        assert config.to_dict() == GenerationConfig(**options).to_dict()  # the caller's own stays as it was


def test_lengths_count_the_ids_of_the_output(model: Any, tokenizer: Any, memory: Memory) -> None:
    length = memory.generate_kwargs(model, tokenizer, QUESTION)["input_ids"].shape[1]
    for way in WAYS:
        ids = length - (len(places(tokenizer).separator) if way in ("attached", "pipeline") else 0)
        for given in ({"max_length": ids + 9}, {"config": GenerationConfig(max_length=ids + 9)}):
            (said,) = say(way, model, tokenizer, memory, do_sample=False, **given)
            assert len(said) == 9, way
        model.generation_config.max_length = ids + 7
        (said,) = say(way, model, tokenizer, memory, do_sample=False)
        assert len(said) == 7, way
        model.generation_config.max_length = None
        # 46 is said early, so that only a least length keeps it away.
        options = {"do_sample": False, "max_new_tokens": 20, "eos_token_id": plain(model, tokenizer, **GREEDY)[0][2]}
        (early,) = say(way, model, tokenizer, memory, **options)
        (late,) = say(way, model, tokenizer, memory, **options, min_length=ids + 15)
        assert len(early) == 3 and len(late) >= 15, way
        with pytest.raises(UsageError, match="no room for an answer"):
            say(way, model, tokenizer, memory, max_length=ids)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that 20 is the default
            (said,) = say(way, model, tokenizer, memory, do_sample=False, min_length=2)
        assert len(said) == (256 if way == "pipeline" else 20), way  # the defaults of both


def test_logits_processors_see_the_prompt_and_not_the_memory(model: Any, tokenizer: Any, memory: Memory) -> None:
    from transformers import generation

    first = plain(model, tokenizer, **GREEDY)[0][0]
    cases: dict[str, tuple[dict[str, Any], Any]] = {
        "repetition_penalty": ({"repetition_penalty": 1.8}, generation.RepetitionPenaltyLogitsProcessor(1.8)),
        "no_repeat_ngram_size": ({"no_repeat_ngram_size": 1}, generation.NoRepeatNGramLogitsProcessor(1)),
        "sequence_bias": (
            {"sequence_bias": [[[2], -9.0], [[41], 5.0]]},
            generation.SequenceBiasLogitsProcessor([[[2], -9.0], [[41], 5.0]]),
        ),
        "bad_words_ids": (
            {"bad_words_ids": [[first], [2]]},
            generation.NoBadWordsLogitsProcessor([[first], [2]], eos_token_id=None),
        ),
    }
    for name, (options, process) in cases.items():
        wanted = own(model, tokenizer, process)
        for way in ("generate_kwargs", "as_cache"):  # the others have no separator in their ids
            assert say(way, model, tokenizer, memory, **GREEDY, **options) == wanted, (name, way)
        said = [say(way, model, tokenizer, memory, **GREEDY, **options) for way in ("attached", "pipeline")]
        assert said[0] == said[1] != plain(model, tokenizer, **GREEDY), name


def test_callbacks_and_stops_see_the_ids(model: Any, tokenizer: Any, memory: Memory) -> None:
    greedy = plain(model, tokenizer, **GREEDY)[0]
    for way in WAYS:
        seen: list[torch.Tensor] = []

        def note(ids: torch.Tensor, scores: torch.Tensor, seen: list[torch.Tensor] = seen) -> torch.Tensor:
            seen.append(ids.clone())
            return scores

        def allowed(row: int, ids: torch.Tensor) -> list[int]:
            return [greedy[0], 9]

        assert say(way, model, tokenizer, memory, **GREEDY, logits_processor=[note]) == [greedy]
        width = seen[0].shape[1]
        assert seen[-1][0, width:].tolist() == greedy[:-1] and TEXT not in tokenizer.decode(seen[0][0])
        assert say(way, model, tokenizer, memory, **GREEDY, stopping_criteria=[Stop(width + 5)]) == [greedy[:5]]
        (few,) = say(way, model, tokenizer, memory, **GREEDY, prefix_allowed_tokens_fn=allowed)
        assert set(few) <= {greedy[0], 9} and few[0] == greedy[0]
        word = tokenizer.decode(greedy[:4])
        if way != "pipeline":  # it passes no tokenizer on
            options = {**GREEDY, "stop_strings": [word], "tokenizer": tokenizer}
            assert say(way, model, tokenizer, memory, **options) == [greedy[:4]]


def test_guidance_compares_with_the_prompt_alone(model: Any, tokenizer: Any, memory: Memory) -> None:
    options = {**GREEDY, "guidance_scale": 2.0}
    said = [say(way, model, tokenizer, memory, **options) for way in WAYS]
    assert all(one == said[0] for one in said) and said[0] != plain(model, tokenizer, **GREEDY)
    with_text = plain(model, tokenizer, **options)  # its unguided side is the last token alone as well
    assert said[0] == with_text


# Honoured, in tests of their own here and in test_prefix.
ELSEWHERE = {
    "inputs", "input_ids", "attention_mask", "generation_config", "max_length", "min_length", "logits_processor",
    "stopping_criteria", "prefix_allowed_tokens_fn", "stop_strings", "tokenizer", "streamer", "guidance_scale",
    "repetition_penalty", "no_repeat_ngram_size", "sequence_bias", "bad_words_ids",
}  # fmt: skip

REFUSED: dict[str, Any] = {
    "assistant_model": "model",
    "assistant_early_exit": 2,
    "assistant_tokenizer": "tokenizer",
    "constraints": [1],
    "continuous_batching_config": {"x": 1},
    "custom_generate": "transformers-community/dola",
    "diversity_penalty": 0.5,
    "dola_layers": "low",
    "encoder_no_repeat_ngram_size": 2,
    "encoder_repetition_penalty": 1.5,
    "force_words_ids": [[1]],
    "is_assistant": True,
    "num_beam_groups": 2,
    "penalty_alpha": 0.6,
    "prefill_chunk_size": 4,
    "prompt_lookup_num_tokens": 2,
    "speculation_type": "dflash",
    "token_healing": True,
    "use_mtp": True,
    "cache_implementation": "paged",
    "token_type_ids": torch.zeros(1, 3),
    "position_ids": torch.zeros(1, 3),
    "labels": torch.zeros(1, 3),
    "no_such_option": 1,
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("way", WAYS)
def test_what_cannot_be_honoured_is_refused_alike(
    model: Any, tokenizer: Any, memory: Memory, way: str, name: str
) -> None:
    value = (
        {"model": model, "tokenizer": tokenizer}.get(REFUSED[name], REFUSED[name])
        if isinstance(REFUSED[name], str)
        else REFUSED[name]
    )
    if way == "pipeline" and name in ("assistant_model", "assistant_tokenizer"):
        pytest.skip("parameters of the pipeline itself")
    with pytest.raises(UsageError, match=f"{name}.* cannot be used with a memory: .*Leave it out"):
        say(way, model, tokenizer, memory, **{name: value})


@pytest.mark.parametrize("name", ["prefill_chunk_size", "assistant_early_exit", "token_healing", "num_beam_groups"])
@pytest.mark.parametrize("way", WAYS)
def test_a_refused_option_is_refused_wherever_it_is_set(
    model: Any, tokenizer: Any, memory: Memory, way: str, name: str
) -> None:
    setattr(model.generation_config, name, REFUSED[name])
    with pytest.raises(UsageError, match=name):
        say(way, model, tokenizer, memory, **GREEDY)
    setattr(model.generation_config, name, None)
    config = GenerationConfig(**GREEDY)
    setattr(config, name, REFUSED[name])
    with pytest.raises(UsageError, match=name):
        say(way, model, tokenizer, memory, config)


def test_every_argument_of_the_installed_transformers_is_decided() -> None:
    parameters = set(inspect.signature(GenerationMixin.generate).parameters) - {"self", "kwargs"}
    fields = {name for name in vars(GenerationConfig()) if not name.startswith("_") and name != "transformers_version"}
    assert (parameters | fields) <= set(OPTIONS), (parameters | fields) - set(OPTIONS)
    assert {name for name, rule in OPTIONS.items() if not rule.honoured} | {"cache_implementation"} <= set(REFUSED)
    assert not set(OPTIONS) & set(MODEL_ARGUMENTS)
    assert {name for name, rule in OPTIONS.items() if rule.honoured} == set(AS_TEXT) | ELSEWHERE


def test_training_with_checkpoints_is_refused(tiny: str, tokenizer: Any, memory: Memory) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    model.activation_checkpointing_enable()
    model.train()
    for way in WAYS:
        with pytest.raises(UsageError, match=r"model\.eval\(\)"):
            say(way, model, tokenizer, memory, **GREEDY)
    assert say("as_cache", model.eval(), tokenizer, memory, **GREEDY) == plain(model, tokenizer, **GREEDY)


def test_a_mask_is_found_as_transformers_finds_it(model: Any, tokenizer: Any, memory: Memory) -> None:
    pad = model.generation_config.pad_token_id = tokenizer.convert_tokens_to_ids("!")
    rows = [[0, *tokenizer("wife")["input_ids"]], prompt_ids(tokenizer)[0].tolist()]
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    with attached(model, tokenizer, memory):
        given = model.generate(ids, attention_mask=ids.ne(pad).long(), **GREEDY)
        assert model.generate(ids, **GREEDY).tolist() == given.tolist()
        model.generation_config.eos_token_id = [pad, 3]  # padding is an end token as well: all of it counts
        both = model.generate(ids, **GREEDY)
        whole = model.generate(ids, attention_mask=torch.ones_like(ids), **GREEDY)
        assert both.tolist() == whole.tolist() != given.tolist()
        with pytest.raises(UsageError, match="attention mask is"):
            model.generate(ids, attention_mask=torch.ones(2, width + 1), **GREEDY)


def test_arguments_by_position(model: Any, tokenizer: Any, memory: Memory) -> None:
    ids, config = prompt_ids(tokenizer), GenerationConfig(**GREEDY)
    with attached(model, tokenizer, memory):
        assert model.generate(ids, config).tolist() == model.generate(ids, generation_config=config).tolist()
        with pytest.raises(TypeError, match="multiple values"):
            model.generate(ids, config, generation_config=config)
        with pytest.raises(UsageError, match="expected input_ids"):
            model.generate(inputs=ids, input_ids=ids)
        with pytest.raises(UsageError, match="expected input_ids"):
            model.generate()


def test_a_cache_that_the_checkpoint_asks_for_gives_way_to_keys_and_values(
    model: Any, tokenizer: Any, tiny: str
) -> None:
    """Gemma's `generation_config.json` names one. Only a call that asks for one is refused."""
    front = kv_memory(model, tokenizer, fingerprint(tiny), TEXT)
    wanted = {way: say(way, model, tokenizer, front, **GREEDY) for way in WAYS}
    model.generation_config.cache_implementation = "static"
    for way in WAYS:
        assert say(way, model, tokenizer, front, **GREEDY) == wanted[way], way
        with pytest.raises(UsageError, match="cache_implementation='static' cannot be used"):
            say(way, model, tokenizer, front, **GREEDY, cache_implementation="static")
