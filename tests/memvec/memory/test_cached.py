"""`as_cache` against the memory in front of each prompt."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import families
import pytest
import torch
from greedy import greedy
from isolation import noise

from memvec.errors import FingerprintError
from memvec.identity.fingerprint import fingerprint

ASKED = ["wife and", "the carriage came to the house and nobody heard it come"]


@pytest.fixture
def memory(tiny: str) -> Any:
    return noise(fingerprint(tiny), 6, 1)


def test_the_same_arguments_serve_again(tiny_lm: Any, tokenizer: Any, memory: Any) -> None:
    model = tiny_lm.model
    wanted = greedy(model, memory.generate_kwargs(model, tokenizer, ASKED))
    kwargs = memory.as_cache(model, tokenizer).generate_kwargs(ASKED)
    copied = copy.deepcopy(kwargs)
    model(
        **{name: value for name, value in kwargs.items() if name != "input_ids"}
        | {"inputs_embeds": torch.zeros(2, 1, 128), "attention_mask": None}
    )
    for given in (kwargs, kwargs, copied, dict(kwargs)):
        assert greedy(model, given) == wanted


def test_a_configuration_without_cache(tiny_lm: Any, tokenizer: Any, memory: Any) -> None:
    model = copy.deepcopy(tiny_lm.model)
    model.generation_config.use_cache = model.config.use_cache = False  # as training leaves it
    cached = memory.as_cache(model, tokenizer)
    wanted = greedy(tiny_lm.model, memory.generate_kwargs(tiny_lm.model, tokenizer, ASKED))
    assert greedy(model, cached.generate_kwargs(ASKED)) == wanted
    assert greedy(tiny_lm.model, cached.generate_kwargs(ASKED)) == wanted  # another object of the same model


def test_another_model_of_the_same_shape_is_refused(tiny_lm: Any, tokenizer: Any, memory: Any) -> None:
    from transformers import LlamaForCausalLM

    other = LlamaForCausalLM(tiny_lm.model.config).eval()
    kwargs = memory.as_cache(tiny_lm.model, tokenizer).generate_kwargs("wife")
    with pytest.raises(FingerprintError):
        other.generate(**kwargs, max_new_tokens=1)


def test_beams_and_samples_take_rows_of_the_cache(tiny_lm: Any, tokenizer: Any, memory: Any) -> None:
    model, cached = tiny_lm.model, memory.as_cache(tiny_lm.model, tokenizer)
    for options in ({"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}, {"num_beams": 2, "do_sample": True}):
        answers = []
        for kwargs in (memory.generate_kwargs(model, tokenizer, ASKED), cached.generate_kwargs(ASKED)):
            torch.manual_seed(0)
            answers.append(greedy(model, kwargs, **options))
        assert answers[0] == answers[1], options


def test_rows_of_unlike_length_in_sliding_windows(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = families.make("mistral", tmp_path) or tmp_path  # a window of 16
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    memory = noise(fingerprint(str(folder)), 3, 0, 0.5)
    cached = memory.as_cache(model, tokenizer)
    assert cached.sliding

    def logits(kwargs: dict[str, Any]) -> torch.Tensor:
        options = {"max_new_tokens": 1, "output_logits": True, "return_dict_in_generate": True, "eos_token_id": None}
        found: torch.Tensor = model.generate(**kwargs, **options, do_sample=False).logits[0]
        return found

    alone = torch.cat([logits(cached.generate_kwargs(prompt)) for prompt in ASKED])
    torch.testing.assert_close(logits(cached.generate_kwargs(ASKED)), alone, atol=1e-4, rtol=0)
    torch.testing.assert_close(logits(cached.generate_kwargs([ASKED[1]] * 2)), alone[[1, 1]], atol=1e-4, rtol=0)

    from memvec.integrations.peft_adapter import export_prefix_tuning

    with pytest.warns(UserWarning, match="rows of one length"):
        export_prefix_tuning(memory, tmp_path / "adapter", model, tokenizer)
