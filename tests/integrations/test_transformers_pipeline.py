"""The pipeline against generate() with the hook's arguments, and against the pipeline it is made from."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from kv_memory import kv_memory
from transformers import TextStreamer, pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from memvec.errors import FingerprintError, UsageError
from memvec.identity.fingerprint import fingerprint
from memvec.integrations.transformers_pipeline import TASK, MemoryTextGenerationPipeline, register
from memvec.memory.memory import Memory
from memvec.memory.prompt import generate_kwargs

CHAT = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"
PROMPTS = ["However little", "The feelings or views of such a man may be on", "wife"]
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def owner(tiny: str) -> Any:
    return fingerprint(tiny)


@pytest.fixture
def model(tiny_lm: Any) -> Iterator[Any]:
    kept = tiny_lm.model.generation_config
    tiny_lm.model.generation_config = copy.deepcopy(kept)
    tiny_lm.model.generation_config.eos_token_id = None  # every answer as long as asked for
    yield tiny_lm.model
    tiny_lm.model.generation_config = kept


@pytest.fixture
def tokenizer(tiny_lm: Any) -> Any:
    """Without a chat template, with a BOS that it does not add itself."""
    changed = copy.deepcopy(tiny_lm.tokenizer)
    changed.bos_token = changed.pad_token = "<|end|>"
    return changed


@pytest.fixture
def chat(tokenizer: Any) -> Any:
    tokenizer.chat_template = CHAT
    return tokenizer


def memory_of(owner: Any, size: int, seed: int = 0) -> Memory:
    noise = np.random.default_rng(seed).standard_normal((size, owner.width)) * 0.3
    return Memory((f"{seed}",), (noise.astype(np.float16),), owner)


def hooked(model: Any, tokenizer: Any, prompts: Any, memories: Any, template: str = "auto") -> list[str]:
    kwargs = generate_kwargs(model, tokenizer, prompts, memories, template)  # type: ignore[arg-type]
    out = model.generate(**kwargs, **GREEDY)
    return [tokenizer.decode(row[kwargs["input_ids"].shape[1] :], skip_special_tokens=True) for row in out]


def made(model: Any, tokenizer: Any, **options: Any) -> Any:
    return pipeline(TASK, model=model, tokenizer=tokenizer, **options)


def test_one_prompt_is_generate_with_the_hook(model: Any, tokenizer: Any, owner: Any) -> None:
    memory = memory_of(owner, 6)
    pipe = made(model, tokenizer)
    assert isinstance(pipe, MemoryTextGenerationPipeline)
    (wanted,) = hooked(model, tokenizer, PROMPTS[0], memory)
    assert pipe(PROMPTS[0], memory=memory, **GREEDY) == [{"generated_text": PROMPTS[0] + wanted}]
    assert pipe(PROMPTS[0], memory=memory, return_full_text=False, **GREEDY) == [{"generated_text": wanted}]
    assert pipe(PROMPTS[0], return_full_text=False, **GREEDY) != [{"generated_text": wanted}]
    assert "generate" not in vars(model)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_prompts_with_a_memory_each(model: Any, tokenizer: Any, owner: Any, batch: int) -> None:
    memories = [memory_of(owner, 3, 1), None, memory_of(owner, 9, 2)]
    wanted = hooked(model, tokenizer, PROMPTS, memories)
    answers = made(model, tokenizer)(PROMPTS, memory=memories, batch_size=batch, return_full_text=False, **GREEDY)
    got = [answer[0]["generated_text"] for answer in answers]
    assert [got[0], got[2]] == [wanted[0], wanted[2]]
    plain = made(model, tokenizer)(PROMPTS[1], return_full_text=False, **GREEDY)
    assert got[1] == plain[0]["generated_text"]  # the base class adds no BOS where the tokenizer adds none


def test_one_memory_for_a_batch(model: Any, tokenizer: Any, owner: Any) -> None:
    memory = memory_of(owner, 6)
    answers = made(model, tokenizer, memory=memory)(PROMPTS, batch_size=2, return_full_text=False, **GREEDY)
    wanted = [hooked(model, tokenizer, prompt, memory)[0] for prompt in PROMPTS]
    assert [answer[0]["generated_text"] for answer in answers] == wanted


def test_chats(model: Any, chat: Any, owner: Any) -> None:
    memory = memory_of(owner, 6)
    talks = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    talks[1].insert(0, {"role": "system", "content": "be brief"})
    wanted = [hooked(model, chat, talk, memory)[0] for talk in talks]
    pipe = made(model, chat)
    assert pipe(talks[1], memory=memory, **GREEDY) == [
        {"generated_text": [*talks[1], {"role": "assistant", "content": wanted[1]}]}
    ]
    for given in (memory, [memory] * 3):
        answers = pipe(talks, memory=given, batch_size=2, return_full_text=False, **GREEDY)
        assert [answer[0]["generated_text"] for answer in answers] == wanted
    assert pipe(talks[0], memory=[memory], return_full_text=False, **GREEDY)[0][0]["generated_text"] == wanted[0]
    # Plain text is no chat, also where there is a template.
    (text,) = hooked(model, chat, PROMPTS[0], memory, "text")
    assert pipe(PROMPTS[0], memory=memory, return_full_text=False, **GREEDY)[0]["generated_text"] == text


def test_a_chat_that_ends_with_the_assistant_is_continued(model: Any, chat: Any, owner: Any) -> None:
    talk = [{"role": "user", "content": "How so?"}, {"role": "assistant", "content": "Because"}]
    pipe = made(model, chat)
    (answer,) = pipe(talk, memory=memory_of(owner, 6), **GREEDY)
    assert answer["generated_text"][1]["content"].startswith("Because")
    assert answer != pipe(talk, **GREEDY)[0]


def test_without_a_memory_it_is_the_base_pipeline(model: Any, chat: Any, owner: Any) -> None:
    base = pipeline("text-generation", model=model, tokenizer=chat)
    talks = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    for pipe in (made(model, chat), made(model, chat, memory=memory_of(owner, 6))):
        for inputs in (PROMPTS, talks, PROMPTS[0], talks[0]):
            for batch in (1, 2):
                options = {**GREEDY, "batch_size": batch}
                assert pipe(inputs, memory=None, **options) == base(inputs, **options)
    assert made(model, chat, memory=memory_of(owner, 6))(PROMPTS[0], **GREEDY) != base(PROMPTS[0], **GREEDY)


def test_a_streamer_gets_the_answer(model: Any, tokenizer: Any, owner: Any) -> None:
    class Keep(TextStreamer):  # type: ignore[misc]
        text = ""

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            self.text += text

    streamer = Keep(tokenizer, skip_prompt=True, skip_special_tokens=True)
    made(model, tokenizer)(PROMPTS[0], memory=memory_of(owner, 6), streamer=streamer, **GREEDY)
    assert streamer.text == hooked(model, tokenizer, PROMPTS[0], memory_of(owner, 6))[0]


def test_registering_twice_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        register()
        register()
    assert not caplog.records
    assert PIPELINE_REGISTRY.supported_tasks[TASK]["impl"] is MemoryTextGenerationPipeline


def test_refusals(model: Any, chat: Any, owner: Any) -> None:
    from dataclasses import replace

    pipe, memory = made(model, chat), memory_of(owner, 3)
    with pytest.raises(UsageError, match="2 memories for 3 prompts"):
        pipe(PROMPTS, memory=[memory, memory], **GREEDY)
    stranger = Memory(("x",), memory.parts, replace(owner, weights="0" * 64))
    with pytest.raises(FingerprintError, match="weights"):
        pipe(PROMPTS[0], memory=stranger, **GREEDY)
    with pytest.raises(UsageError, match="prompt_lookup_num_tokens"):
        pipe(PROMPTS[0], memory=memory, prompt_lookup_num_tokens=2, **GREEDY)
    talk = [{"role": "user", "content": PROMPTS[1]}]
    with pytest.raises(UsageError, match="user's message was not found"):
        pipe(talk, memory=memory, tokenizer_encode_kwargs={"truncation": True, "max_length": 4}, **GREEDY)


def test_memories_and_prompts_as_iterators_and_at_construction(model: Any, tokenizer: Any, owner: Any) -> None:
    memories = [memory_of(owner, 3), None, memory_of(owner, 4, 1)]
    options = {"return_full_text": False, **GREEDY}
    wanted = made(model, tokenizer)(PROMPTS, memory=memories, **options)
    assert made(model, tokenizer)(iter(PROMPTS), memory=iter(memories), **options) == wanted
    assert made(model, tokenizer, memory=memories)(PROMPTS, **options) == wanted


@pytest.mark.parametrize("wrong", ["a.txt", {"a": 1}, ["a.txt"], np.zeros((2, 3))])
def test_what_is_no_memory_is_refused(model: Any, tokenizer: Any, wrong: Any) -> None:
    with pytest.raises(UsageError, match="in place of a memory"):
        made(model, tokenizer)(PROMPTS[0], memory=wrong, **GREEDY)


def test_keys_and_values(model: Any, chat: Any, owner: Any) -> None:
    """Beside vectors and nothing, in chats and in text."""
    memories = [kv_memory(model, chat, owner, PROMPTS[1], 3), memory_of(owner, 5), None]
    for prompts in (PROMPTS, [[{"role": "user", "content": prompt}] for prompt in PROMPTS]):
        template = "text" if prompts is PROMPTS else "auto"
        wanted = [
            hooked(model, chat, prompt, memory, template)[0]
            for prompt, memory in zip(prompts[:2], memories, strict=False)
        ]
        for batch in (1, 3):
            answers = made(model, chat)(prompts, memory=memories, batch_size=batch, return_full_text=False, **GREEDY)
            assert [answer[0]["generated_text"] for answer in answers[:2]] == wanted
        assert answers[2] == made(model, chat)(prompts[2], return_full_text=False, **GREEDY)
