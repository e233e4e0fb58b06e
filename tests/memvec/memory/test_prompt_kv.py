"""Keys and values in front of prompts, against the text itself in front, and one test for each fault of kept caches."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import isolation
import numpy as np
import pytest
import torch
from greedy import greedy
from isolation import Setting
from kv_memory import kv_memory
from loaded import load_model

from memvec.errors import FingerprintError, UsageError
from memvec.identity.fingerprint import fingerprint
from memvec.kv.fronts import FrontCache
from memvec.memory.attach import attached
from memvec.memory.memory import Memory
from memvec.memory.prompt import generate_kwargs, prompts_with, tensor
from memvec.templates.template import frame

TEXT = "It is a truth universally acknowledged, that a single man"
OTHER = "The ladies of the house were at supper when the carriage came"
QUESTIONS = ["However little", "The feelings or views of such a man may be on", "wife"]
NEAR = 3e-3  # of logits of about 10, because keys and values are rounded to 16 bits
HOW: list[dict[str, Any]] = [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}, {"do_sample": True}]


@pytest.fixture(scope="module")
def model(tiny: str) -> Any:
    """As a user loads it, with the attention "sdpa"."""
    return load_model(tiny)


@pytest.fixture(scope="module")
def kv(tiny: str, tiny_lm: Any) -> Callable[..., Memory]:
    """Make a memory of a text."""
    owner, tokenizer = fingerprint(tiny), copy.deepcopy(tiny_lm.tokenizer)
    tokenizer.bos_token = "<|end|>"
    return lambda text=TEXT, *how, **more: kv_memory(tiny_lm.model, tokenizer, owner, text, *how, **more)


@pytest.fixture(scope="module")
def head(kv: Callable[..., Memory]) -> Memory:
    return kv(TEXT, 4)


def vectors_of(memory: Memory, size: int) -> Memory:
    noise = np.random.default_rng(0).standard_normal((size, memory.fingerprint.width)) * 0.3
    return Memory(("noise",), (noise.astype(np.float16),), memory.fingerprint)


def run(model: Any, kwargs: dict[str, Any], seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    fixed = {"max_new_tokens": 6, "eos_token_id": None, "output_logits": True, "return_dict_in_generate": True}
    return model.generate(**{"do_sample": False, **kwargs}, **fixed, **options)


def new(model: Any, kwargs: dict[str, Any], **options: Any) -> list[list[int]]:
    """Only the new ids."""
    torch.manual_seed(0)
    return greedy(model, kwargs, 6, **options)


def of_text(model: Any, tokenizer: Any, question: str, text: str = TEXT) -> dict[str, torch.Tensor]:
    """The arguments for a prompt with the text itself in front."""
    row, ids = frame(tokenizer, question), tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = torch.tensor([[*row.before, *ids, *row.after]])
    return {"input_ids": whole, "attention_mask": torch.ones_like(whole)}


class TestWhole:
    """A memory that keeps everything is the text."""

    @pytest.mark.parametrize("how", HOW, ids=str)
    def test_kwargs(self, model: Any, tokenizer: Any, kv: Any, how: dict[str, Any]) -> None:
        kwargs = kv().generate_kwargs(model, tokenizer, QUESTIONS[0])
        assert new(model, kwargs, **how) == new(model, of_text(model, tokenizer, QUESTIONS[0]), **how)

    @pytest.mark.parametrize("how", HOW[:3], ids=str)
    def test_a_front(self, model: Any, tokenizer: Any, kv: Any, head: Memory, how: dict[str, Any]) -> None:
        kwargs = generate_kwargs(model, tokenizer, QUESTIONS[:2], [kv(), head])
        assert isinstance(kwargs["past_key_values"], FrontCache)
        wanted = new(model, of_text(model, tokenizer, QUESTIONS[0]), **how)
        assert new(model, kwargs, **how)[: len(wanted)] == wanted

    def test_logits(self, model: Any, tokenizer: Any, kv: Any) -> None:
        found = run(model, kv().generate_kwargs(model, tokenizer, QUESTIONS))
        for row, question in enumerate(QUESTIONS):
            wanted = run(model, of_text(model, tokenizer, question))
            for mine, its in zip(found.logits, wanted.logits, strict=True):
                torch.testing.assert_close(mine[row], its[0], atol=NEAR, rtol=0)

    def test_attached(self, model: Any, tokenizer: Any, kv: Any) -> None:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(QUESTIONS[0])["input_ids"]]])
        with attached(model, tokenizer, kv()):
            found = new(model, {"input_ids": ids}, num_beams=2)
        assert found == new(model, of_text(model, tokenizer, QUESTIONS[0]), num_beams=2)

    def test_cached(self, model: Any, tokenizer: Any, kv: Any) -> None:
        cached = kv().as_cache(model, tokenizer)
        for questions in (QUESTIONS[:1], QUESTIONS):
            for how in HOW[:3]:
                found = new(model, cached.generate_kwargs(questions), **how)
                wanted = [new(model, of_text(model, tokenizer, question), **how) for question in questions]
                assert found == [row for rows in wanted for row in rows]
        assert cached.bytes > 0


class TestBatches:
    """Rows of one batch do not see each other's memories."""

    @pytest.mark.parametrize("how", HOW[:3], ids=str)
    def test_mixed(self, model: Any, tokenizer: Any, kv: Any, head: Memory, how: dict[str, Any]) -> None:
        memories = [head, None, vectors_of(head, 5), kv(OTHER, 3) + head, kv(OTHER, 2, "even")]
        questions = [QUESTIONS[row % 3] for row in range(len(memories))]
        made = prompts_with(model, tokenizer, questions, memories)
        assert made.attention_mask.sum(1).unique().numel() == len(memories)  # otherwise nothing would be padded
        found = new(model, made.generate_kwargs(), **how)
        alone = [
            new(model, generate_kwargs(model, tokenizer, question, memory), **how)
            for question, memory in zip(questions, memories, strict=True)
        ]
        assert found == [row for rows in alone for row in rows]

    @pytest.mark.parametrize("budget", ["head", "even"])
    def test_a_row_without_a_memory_is_the_same_to_the_bit(
        self, model: Any, tokenizer: Any, kv: Any, budget: str
    ) -> None:
        memory, questions = kv(TEXT, 4, budget), [QUESTIONS[1], QUESTIONS[0]]  # the first is not padded in both batches
        beside = run(model, generate_kwargs(model, tokenizer, questions, [None, memory]))
        without = run(model, generate_kwargs(model, tokenizer, questions, None))
        for mine, its in zip(beside.logits, without.logits, strict=True):
            assert torch.equal(mine[0], its[0]) and not torch.equal(mine[1], its[1])

    def test_attached_rows(self, model: Any, tokenizer: Any, head: Memory) -> None:
        ids = torch.tensor([[tokenizer.bos_token_id, 70, 71, 72]] * 3)
        rows = []
        for memory in (head, None, vectors_of(head, 5)):
            with attached(model, tokenizer, memory):
                rows += new(model, {"input_ids": ids[:1]})
        with attached(model, tokenizer, [head, None, vectors_of(head, 5)]):
            assert new(model, {"input_ids": ids}) == rows
        assert rows[0] != rows[1]

    def test_threads(self, model: Any, tokenizer: Any, kv: Any, head: Memory) -> None:
        made = [memory.generate_kwargs(model, tokenizer, QUESTIONS) for memory in (head, kv(OTHER, 3))]
        wanted = [new(model, kwargs) for kwargs in made]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda number: greedy(model, made[number % 2], 6), range(12)))
        assert found == wanted * 6


def test_many_threads_and_tasks(model: Any, tokenizer: Any, kv: Any, head: Memory) -> None:
    """Each call gets its own memory, in every way to attach one."""
    of = Setting(model, tokenizer, {"A": head, "B": kv(OTHER, 3, "even"), "none": None})
    tally = isolation.run(of, seconds=3)
    assert not tally.wrong, tally.wrong[:5]
    assert len(tally.right) > len(isolation.WAYS)


class TestAgain:
    """The same arguments, and the same bytes, give the same answers."""

    @pytest.mark.parametrize("ratio", [4, 1], ids=["front", "plain"])
    def test_kwargs_serve_again(self, model: Any, tokenizer: Any, kv: Any, ratio: float) -> None:
        kwargs = kv(TEXT, ratio).generate_kwargs(model, tokenizer, QUESTIONS)
        copied = copy.deepcopy(kwargs)
        wanted = run(model, kwargs)
        changed = kwargs | {"inputs_embeds": kwargs["inputs_embeds"].clone()}  # without the mark of memvec
        for given in (kwargs, copied, changed):
            found = run(model, given)
            assert torch.equal(found.sequences, wanted.sequences)
            assert all(map(torch.equal, found.logits, wanted.logits))

    def test_equal_bytes(self, model: Any, tokenizer: Any, kv: Any) -> None:
        first, second = (run(model, kv(TEXT, 4).generate_kwargs(model, tokenizer, QUESTIONS)) for _ in range(2))
        assert all(map(torch.equal, first.logits, second.logits))

    def test_the_memory_is_not_copied(self, model: Any, tokenizer: Any, head: Memory) -> None:
        cached = head.as_cache(model, tokenizer)
        mine, its = (cache.layers[0].front.groups[0].keys for cache in (cached._cache, cached.copy()))
        assert mine.data_ptr() == its.data_ptr()
        out = run(model, cached.generate_kwargs(QUESTIONS[0]))
        its = out.past_key_values.layers[0].front.groups[0].keys
        assert mine.data_ptr() == its.data_ptr()
        assert cached._cache.get_seq_length() == cached.length  # nothing was added to it


class TestPositions:
    """Where a prompt goes on is stored, and is not the number of rows that were kept."""

    def test_a_question_stands_behind_the_memory(self, model: Any, tokenizer: Any, head: Memory) -> None:
        assert int(head.kv[0][0].stored.counts.max()) > len(head)
        seen: list[torch.Tensor] = []
        hook = model.model.register_forward_pre_hook(
            lambda module, given, named: seen.append(named["position_ids"]), with_kwargs=True
        )
        try:
            run(model, generate_kwargs(model, tokenizer, QUESTIONS[:2], [head, None]))
        finally:
            hook.remove()
        begin, after = 1 + len(head), frame(tokenizer, QUESTIONS[0]).after  # BOS and the memory
        prefill, *steps = seen[-6:]
        assert prefill[0, -len(after) :].tolist() == list(range(begin, begin + len(after)))
        assert [step[0].tolist() for step in steps] == [[begin + len(after) + n] for n in range(5)]

    def test_memories_together(self, model: Any, tokenizer: Any, kv: Any, head: Memory) -> None:
        both = kv(OTHER, 1) + head
        assert len(both) == len(kv(OTHER, 1)) + len(head)
        found = run(model, both.generate_kwargs(model, tokenizer, QUESTIONS[:1]))
        alone = run(model, head.generate_kwargs(model, tokenizer, QUESTIONS[:1]))
        assert not torch.allclose(found.logits[0], alone.logits[0], atol=0.1)


class TestRefused:
    """Nothing is answered from a cache that would be misread."""

    def test_another_model(self, model: Any, tokenizer: Any, head: Memory) -> None:
        from transformers import LlamaForCausalLM

        other = LlamaForCausalLM(model.config).eval()
        kwargs = head.generate_kwargs(model, tokenizer, "wife")
        for made in (kwargs, head.as_cache(model, tokenizer).generate_kwargs("wife")):
            with pytest.raises(FingerprintError):
                other.generate(**made, max_new_tokens=1)
        with pytest.raises(FingerprintError):
            head.generate_kwargs(other, tokenizer, "wife")

    def test_an_attention_that_sees_no_front(self, tiny: str, tokenizer: Any, kv: Any, head: Memory) -> None:
        from transformers import AutoModelForCausalLM

        eager = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32, attn_implementation="eager").eval()
        for make in (head.generate_kwargs, lambda *given: head.as_cache(*given[:2])):
            with pytest.raises(UsageError, match="attn_implementation='sdpa', or pack it with an even budget"):
                make(eager, tokenizer, "wife")
        even, sdpa = kv(TEXT, 4, "even"), load_model(tiny)
        wanted = new(sdpa, even.generate_kwargs(sdpa, tokenizer, QUESTIONS))
        assert new(eager, even.generate_kwargs(eager, tokenizer, QUESTIONS)) == wanted

    @pytest.mark.parametrize("change", ["scaling", "adapter"])
    def test_a_model_that_was_changed(self, tiny: str, tokenizer: Any, head: Memory, change: str) -> None:
        """Keys were kept with its rotation and its weights. A refusal leaves other calls as they were."""
        from peft import LoraConfig

        model = load_model(tiny)
        made = [head.generate_kwargs(model, tokenizer, "wife"), head.as_cache(model, tokenizer).generate_kwargs("wife")]
        ids = {"input_ids": torch.tensor([[5, 6, 7]])}
        wanted = [new(model, kwargs) for kwargs in (*made, ids)]
        before = copy.deepcopy(model.config.rope_parameters)
        if change == "scaling":
            model.config.rope_parameters["rope_theta"] *= 2
        else:
            model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
        for kwargs in made:
            with pytest.raises(FingerprintError):
                new(model, kwargs)
        if change == "scaling":
            model.config.rope_parameters = before
        else:
            model.disable_adapters()
        assert [new(model, kwargs) for kwargs in (*made, ids)] == wanted

    def test_an_attention_that_was_changed(self, tiny: str, tokenizer: Any, kv: Any, head: Memory) -> None:
        model = load_model(tiny)
        made = [memory.generate_kwargs(model, tokenizer, "wife") for memory in (head, kv(TEXT, 4, "even"))]
        wanted = [new(model, kwargs) for kwargs in made]
        model.set_attn_implementation("eager")
        with pytest.raises(UsageError, match="attn_implementation='sdpa'"):
            new(model, made[0])
        assert new(model, made[1]) == wanted[1]
        model.set_attn_implementation("sdpa")
        assert [new(model, kwargs) for kwargs in made] == wanted

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda model: setattr(model, "hf_device_map", {"model": 0, "lm_head": 1}), "several devices"),
            (lambda model: setattr(model.config, "layer_types", ["chunked_attention"] * 4), "within chunks"),
        ],
        ids=["devices", "chunks"],
    )
    def test_models_that_cannot_take_them(
        self, tiny: str, tokenizer: Any, kv: Any, change: Callable[[Any], None], said: str
    ) -> None:
        model = load_model(tiny)
        change(model)
        for ratio in (1, 4):
            made = functools.partial(generate_kwargs, model, tokenizer, "wife", kv(TEXT, ratio), check=False)
            with pytest.raises(UsageError, match=f"{said}.*kind='context'"):
                made()

    def test_a_mask_of_another_length(self, model: Any, tokenizer: Any, head: Memory) -> None:
        kwargs = head.generate_kwargs(model, tokenizer, QUESTIONS[:2])
        for mask in (torch.ones_like(kwargs["input_ids"]), kwargs["attention_mask"][:, 1:], None):
            with pytest.raises(UsageError, match="Pass its arguments unchanged"):
                new(model, kwargs | {"attention_mask": mask})
        with pytest.raises(UsageError, match="Pass its arguments unchanged"):
            new(model, {n: v[:1] if isinstance(v, torch.Tensor) else v for n, v in kwargs.items()})

    @pytest.mark.parametrize(
        "option", [{"cache_implementation": "static"}, {"prefill_chunk_size": 4}, {"prompt_lookup_num_tokens": 2}]
    )
    def test_options(self, model: Any, tokenizer: Any, head: Memory, option: dict[str, Any]) -> None:
        for kwargs in (
            head.generate_kwargs(model, tokenizer, "wife"),
            head.as_cache(model, tokenizer).generate_kwargs("wife"),
        ):
            with pytest.raises(UsageError, match=next(iter(option))):
                new(model, kwargs, **option)
        with attached(model, tokenizer, head), pytest.raises(UsageError, match=next(iter(option))):
            new(model, {"input_ids": torch.tensor([[1, 2]])}, **option)

    def test_a_model_that_changed_its_numbers(self, tiny: str, tokenizer: Any, head: Memory) -> None:
        model = load_model(tiny)
        kwargs = prompts_with(model, tokenizer, "wife", head, check=False).generate_kwargs()
        with pytest.raises(UsageError, match="the model in torch"):
            new(model.to(torch.bfloat16), kwargs)

    def test_vectors_beside_keys_and_values(self, head: Memory) -> None:
        with pytest.raises(UsageError, match="either vectors or keys and values"):
            head + vectors_of(head, 3)
        with pytest.raises(UsageError, match="kind='context'"):
            tensor(head)
        assert replace(head, kv=()).vectors.shape == head.vectors.shape == (0, head.fingerprint.width)
