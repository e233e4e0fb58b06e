"""The generation hook against an uncached, unpadded reference, and one test for each trap of generate()."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from greedy import greedy, reference

from memvec.errors import FingerprintError, UsageError
from memvec.identity.fingerprint import fingerprint
from memvec.memory.attach import attached
from memvec.memory.cached import CachedMemory
from memvec.memory.memory import Memory
from memvec.memory.prompt import embed, generate_kwargs, prompts_with, tensor
from memvec.templates.template import Frame, frame, places

TEXT = "It is a truth universally acknowledged, that a single man"
QUESTIONS = ["However little", "The feelings or views of such a man may be on", "wife"]


@pytest.fixture(scope="module")
def model(tiny_lm: Any) -> Any:
    return tiny_lm.model


@pytest.fixture(scope="module")
def owner(tiny: str) -> Any:
    return fingerprint(tiny)


def memory_of(owner: Any, size: int, seed: int = 0) -> Memory:
    noise = np.random.default_rng(seed).standard_normal((size, owner.width)) * 0.3
    return Memory((f"{seed}",), (noise.astype(np.float16),), owner)


def test_the_text_itself_through_the_hook_gives_the_logits_of_its_ids(model: Any, tokenizer: Any) -> None:
    ids = tokenizer(TEXT)["input_ids"]
    frames = [frame(tokenizer, question) for question in QUESTIONS]
    text = model.get_input_embeddings()(torch.tensor(ids))
    made = embed(model, [(row, text) for row in frames])
    with torch.inference_mode():
        logits = model(
            inputs_embeds=made.inputs_embeds, attention_mask=made.attention_mask, position_ids=made.position_ids
        ).logits
        for i, row in enumerate(frames):
            alone = torch.tensor([[*row.before, *ids, *row.after]])
            wanted = model(input_ids=alone).logits[0]
            torch.testing.assert_close(logits[i, -alone.shape[1] :], wanted, atol=2e-4, rtol=0)


def test_rows_of_different_memories_and_lengths_generate_as_each_would_alone(
    model: Any, tokenizer: Any, owner: Any
) -> None:
    memories = [memory_of(owner, 3, 1), None, memory_of(owner, 9, 2)]
    kwargs = generate_kwargs(model, tokenizer, QUESTIONS, memories)
    assert kwargs["attention_mask"].sum(1).unique().numel() == 3  # otherwise nothing would be padded
    for got, question, memory in zip(greedy(model, kwargs), QUESTIONS, memories, strict=True):
        row = frame(tokenizer, question, separated=memory is not None)
        assert got == reference(model, row.before, memory, row.after)


def test_the_output_begins_with_the_prompt_ids_without_the_memory(model: Any, tokenizer: Any, owner: Any) -> None:
    kwargs = generate_kwargs(model, tokenizer, QUESTIONS[0], memory_of(owner, 5))
    out = model.generate(**kwargs, max_new_tokens=2, do_sample=False, eos_token_id=None)
    row = frame(tokenizer, QUESTIONS[0])
    assert out[0, :-2].tolist() == [*row.before, *row.after]
    assert out.shape[1] == kwargs["input_ids"].shape[1] + 2


def test_bos_comes_first_and_once(model: Any, tokenizer: Any, owner: Any) -> None:
    both = memory_of(owner, 2, 1) + memory_of(owner, 3, 2)
    made = prompts_with(model, tokenizer, QUESTIONS[0], both)
    bos = model.get_input_embeddings()(torch.tensor(tokenizer.bos_token_id))
    hits = (made.inputs_embeds[0] == bos).all(1)
    assert hits.tolist() == [True] + [False] * (len(hits) - 1)
    torch.testing.assert_close(made.inputs_embeds[0, 1:6], tensor(both))


def test_the_memory_stands_at_the_start_of_the_users_turn(model: Any, chat: Any, owner: Any) -> None:
    row = frame(chat, "How so?")
    assert chat.decode(row.before) == "be kind\n[user]"
    assert chat.decode(row.after) == "\n\nHow so?<|end|>[a]"
    talk = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "second"},
    ]
    row = frame(chat, talk)
    assert chat.decode(row.before) == "[system]be brief<|end|>[user]"
    assert chat.decode(row.after) == "\n\nfirst<|end|>[assistant]yes<|end|>[user]second<|end|>[a]"
    kwargs = generate_kwargs(model, chat, [talk, [{"role": "user", "content": "x"}]], memory_of(owner, 4))
    assert greedy(model, kwargs)[0] == reference(model, row.before, memory_of(owner, 4), row.after)


def test_a_cached_memory_gives_what_the_memory_itself_gives(model: Any, tokenizer: Any, owner: Any) -> None:
    memory = memory_of(owner, 6)
    wanted = greedy(model, memory.generate_kwargs(model, tokenizer, QUESTIONS))
    cached = memory.as_cache(model, tokenizer)
    assert cached.length == 1 + 6
    for _ in range(2):  # the first generation must leave it as it was
        assert greedy(model, cached.generate_kwargs(QUESTIONS)) == wanted
    per_position = 2 * 4 * 2 * 32 * 4  # keys and values, layers, heads, head width, bytes
    assert cached.bytes == 7 * per_position


def test_a_cached_memory_refuses_another_system_message(model: Any, chat: Any, owner: Any) -> None:
    cached = CachedMemory(model, chat, memory_of(owner, 6))
    assert greedy(model, cached.generate_kwargs("x"))
    with pytest.raises(UsageError, match="before the memory"):
        cached.generate_kwargs([{"role": "system", "content": "other"}, {"role": "user", "content": "x"}])


def test_attached_generate_is_generate_kwargs(model: Any, chat: Any, owner: Any) -> None:
    memories = [memory_of(owner, 3, 1), memory_of(owner, 7, 2), memory_of(owner, 1, 3)]
    wanted = greedy(model, generate_kwargs(model, chat, QUESTIONS, memories))
    chat.padding_side, chat.pad_token = "left", "<|end|>"
    talks = [[{"role": "user", "content": question}] for question in QUESTIONS]
    rendered = [chat.apply_chat_template(talk, tokenize=False, add_generation_prompt=True) for talk in talks]
    batch = chat(rendered, return_tensors="pt", padding=True, add_special_tokens=False)
    plain = greedy(model, dict(batch))
    with attached(model, chat, memories):
        assert greedy(model, dict(batch)) == wanted
    assert greedy(model, dict(batch)) == plain != wanted  # as it was


def test_attached_without_a_template_puts_the_memory_behind_bos(model: Any, tokenizer: Any, owner: Any) -> None:
    where = places(tokenizer)
    bos, gap = tokenizer.bos_token_id, where.separator
    assert where.split([bos, 5, 6], True) == Frame((bos,), (*gap, 5, 6))
    assert where.split([5, 6], True) == Frame((bos,), (*gap, 5, 6))
    assert where.split([5, 6], False) == Frame((), (5, 6))
    assert where.split([bos, 5], False) == Frame((bos,), (5,))
    memory = memory_of(owner, 4)
    ids = torch.tensor([[bos, *tokenizer(QUESTIONS[0])["input_ids"]]])
    with attached(model, tokenizer, memory):
        got = greedy(model, {"input_ids": ids})  # no mask given: all of it counts
    assert got == greedy(model, generate_kwargs(model, tokenizer, QUESTIONS[0], memory))


def test_attached_within_attached_is_undone_in_order(model: Any, tokenizer: Any, owner: Any) -> None:
    kwargs = {"input_ids": tokenizer(QUESTIONS[0], return_tensors="pt")["input_ids"]}
    plain = greedy(model, kwargs)
    with attached(model, tokenizer, memory_of(owner, 6, 1)):
        inner = greedy(model, kwargs)
    with attached(model, tokenizer, memory_of(owner, 4)):
        outer = greedy(model, kwargs)
        with attached(model, tokenizer, memory_of(owner, 6, 1)):
            assert greedy(model, kwargs) == inner
        with attached(model, tokenizer, None):
            assert greedy(model, kwargs) == plain
        assert greedy(model, kwargs) == outer != plain
    assert greedy(model, kwargs) == plain and "generate" not in vars(model)


def test_attached_is_undone_after_an_error(model: Any, tokenizer: Any, owner: Any) -> None:
    with pytest.raises(RuntimeError), attached(model, tokenizer, memory_of(owner, 4)):
        raise RuntimeError
    assert "generate" not in vars(model)


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"prefill_chunk_size": 4}, "prefill_chunk_size"),
        ({"prompt_lookup_num_tokens": 2}, "prompt_lookup_num_tokens"),
        ({"cache_implementation": "paged"}, "paged"),
        ({"inputs_embeds": torch.zeros(1, 1, 128)}, "embeddings are made here"),
    ],
)
def test_attached_refuses_what_would_leave_the_memory_out(
    model: Any, tokenizer: Any, owner: Any, options: dict[str, Any], fragment: str
) -> None:
    ids = torch.tensor([[1, 2, 3]])
    with attached(model, tokenizer, memory_of(owner, 4)), pytest.raises(UsageError, match=fragment):
        model.generate(ids, max_new_tokens=2, **options)
    from transformers import GenerationConfig

    if "prefill_chunk_size" in options:
        config = GenerationConfig(**options)
        with attached(model, tokenizer, memory_of(owner, 4)), pytest.raises(UsageError, match=fragment):
            model.generate(ids, generation_config=config)


def test_the_number_of_memories_must_be_one_or_one_for_each_row(model: Any, tokenizer: Any, owner: Any) -> None:
    two = [memory_of(owner, 2), memory_of(owner, 3)]
    with pytest.raises(UsageError, match="2 memories for 3 prompts"):
        generate_kwargs(model, tokenizer, QUESTIONS, two)
    with attached(model, tokenizer, two), pytest.raises(UsageError, match=r"2 memories for 1 row\."):
        model.generate(torch.tensor([[1, 2]]), max_new_tokens=1)


def test_a_static_cache_gives_the_same(model: Any, tokenizer: Any, owner: Any) -> None:
    kwargs = generate_kwargs(model, tokenizer, QUESTIONS, memory_of(owner, 5))
    assert greedy(model, kwargs, cache_implementation="static") == greedy(model, kwargs)


def test_a_compiled_model_gives_the_same(model: Any, tokenizer: Any, owner: Any) -> None:
    kwargs = generate_kwargs(model, tokenizer, QUESTIONS, memory_of(owner, 5))
    plain, forward, graphs = greedy(model, kwargs, cache_implementation="static"), model.forward, []

    def note(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    model.forward = torch.compile(forward, backend=note, dynamic=True)
    try:
        assert greedy(model, kwargs, cache_implementation="static") == plain
    finally:
        del model.forward
        torch.compiler.reset()
    assert graphs  # it was compiled, not passed by


def test_beams_and_sampling_see_the_memory(model: Any, tokenizer: Any, owner: Any) -> None:
    memories = [memory_of(owner, 6, 1), memory_of(owner, 6, 2)]
    for options in (
        {"num_beams": 3},
        {"do_sample": True, "temperature": 0.7},
        {"num_beams": 2, "num_return_sequences": 2},
    ):
        outs = []
        for memory in memories:
            torch.manual_seed(0)
            outs.append(greedy(model, generate_kwargs(model, tokenizer, QUESTIONS[0], memory), new=12, **options))
        assert len(outs[0]) == options.get("num_return_sequences", 1)
        assert outs[0] != outs[1]


def test_a_repetition_penalty_sees_the_prompt_and_not_the_memory(model: Any, tokenizer: Any, owner: Any) -> None:
    kwargs = generate_kwargs(model, tokenizer, QUESTIONS[1], memory_of(owner, 6))
    seen: list[torch.Tensor] = []

    def note(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        seen.append(ids.clone())
        return scores

    greedy(model, kwargs, new=2, logits_processor=[note])
    assert seen[0].tolist() == kwargs["input_ids"].tolist()


def test_streaming_gives_the_new_tokens(model: Any, tokenizer: Any, owner: Any) -> None:
    from transformers import TextStreamer

    class Keep(TextStreamer):
        text = ""

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            self.text += text

    streamer = Keep(tokenizer, skip_prompt=True)
    kwargs = generate_kwargs(model, tokenizer, QUESTIONS[0], memory_of(owner, 6))
    (new,) = greedy(model, kwargs, streamer=streamer)
    assert streamer.text == tokenizer.decode(new)


def test_another_model_is_refused(model: Any, tokenizer: Any, owner: Any) -> None:
    from dataclasses import replace

    stranger = replace(owner, weights="0" * 64)
    memory = Memory(("x",), memory_of(owner, 3).parts, stranger)
    for use in (
        lambda: generate_kwargs(model, tokenizer, "x", memory),
        lambda: CachedMemory(model, tokenizer, memory),
        lambda: attached(model, tokenizer, memory).__enter__(),
        lambda: memory + memory_of(owner, 3),
    ):
        with pytest.raises(FingerprintError, match="weights"):
            use()
    assert generate_kwargs(model, tokenizer, "x", memory, check=False)


def test_a_model_without_files_is_judged_by_its_embedding(model: Any, tokenizer: Any, owner: Any) -> None:
    from transformers import LlamaForCausalLM

    orphan = LlamaForCausalLM(model.config)
    orphan.name_or_path = ""
    with pytest.raises(FingerprintError, match="embedding"):
        generate_kwargs(orphan, tokenizer, "x", memory_of(owner, 3))
    orphan.load_state_dict(model.state_dict())
    orphan.half()  # as its checkpoint has it
    assert generate_kwargs(orphan, tokenizer, "x", memory_of(owner, 3))


@pytest.mark.parametrize("wrong", ["s.memvec", 3, b"x", [None, "a.txt"]])
def test_what_is_no_memory_is_refused(model: Any, tokenizer: Any, wrong: Any) -> None:
    for use in (
        lambda: generate_kwargs(model, tokenizer, ["x"] * 2, wrong),
        lambda: attached(model, tokenizer, wrong),
        lambda: CachedMemory(model, tokenizer, wrong),
    ):
        with pytest.raises(UsageError, match="in place of a memory"):
            use()


def test_without_ids_the_output_is_new_tokens_alone(model: Any, tokenizer: Any, owner: Any) -> None:
    kwargs = generate_kwargs(model, tokenizer, QUESTIONS[0], memory_of(owner, 5))
    wanted = greedy(model, kwargs)[0]
    del kwargs["input_ids"]
    out = model.generate(**kwargs, max_length=8, do_sample=False, eos_token_id=None)
    assert out[0].tolist() == wanted
