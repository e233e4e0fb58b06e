"""Memories in front of a model inside PEFT, torch.compile, DataParallel and accelerate's offload."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from isolation import PROMPT, Setting, made_up
from kv_memory import kv_memory

from memvec.identity.fingerprint import fingerprint
from memvec.memory.attach import attached


@pytest.fixture(scope="module")
def of(tiny: str) -> Setting:
    """The tiny LM with memories A and B of vectors, and one of keys and values."""
    made = made_up(tiny)
    kept = kv_memory(made.model, made.tokenizer, fingerprint(tiny), PROMPT, 3)
    return Setting(made.model, made.tokenizer, {**made.memories, "kv": kept})


@pytest.mark.filterwarnings("ignore:.*checkpointing")  # PEFT asks by a name that transformers renamed
@pytest.mark.parametrize("name", ["A", "kv"])
@pytest.mark.parametrize("wrap", ["lora", "compiled", "parallel", "offloaded"])
def test_wrapped_models(of: Setting, tiny: str, wrap: str, name: str) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    if wrap == "lora":
        from peft import LoraConfig, get_peft_model

        outer = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"]))
        outer.eval()  # adapters begin as zero: the answers stay the same
    elif wrap == "compiled":
        outer = torch.compile(model, backend="eager")
    elif wrap == "parallel":
        outer = torch.nn.DataParallel(model)
    else:
        import accelerate

        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
        outer = model
    caller = outer.module if wrap == "parallel" else outer
    memory = of.memories[name]
    assert memory is not None
    options: dict[str, Any] = {"allow_adapters": wrap == "lora"}
    for kwargs in (
        memory.generate_kwargs(outer, of.tokenizer, "wife", **options),
        memory.as_cache(outer, of.tokenizer, **options).generate_kwargs("wife"),
    ):
        out = caller.generate(**kwargs, do_sample=False, max_new_tokens=4)
        wanted = of.told(memory.generate_kwargs(of.model, of.tokenizer, "wife"))
        assert tuple(out[0, -4:].tolist()) == wanted
    with attached(outer, of.tokenizer, memory, **options):
        out = caller.generate(input_ids=of.ids, attention_mask=of.mask, do_sample=False, max_new_tokens=4)
    assert tuple(out[0, -4:].tolist()) == of.wanted[name]
