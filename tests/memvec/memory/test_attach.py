"""`attached`: whose memory a call sees, and whose it never sees."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import io
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from isolation import WAYS, Setting, made_up, run

from memvec.errors import FingerprintError, UsageError
from memvec.identity.fingerprint import fingerprint
from memvec.memory.attach import attached
from memvec.memory.dispatch import _BY_FRAME, block_of
from memvec.memory.memory import Memory


@pytest.fixture(scope="module")
def of(tiny: str) -> Setting:
    """The tiny LM with memories A and B."""
    return made_up(tiny)


@pytest.fixture(autouse=True)
def nothing_stays(of: Setting) -> Iterator[None]:
    yield
    assert not _BY_FRAME and block_of(of.model) is None
    assert "generate" not in vars(of.model)
    assert of.say() == of.wanted["none"]


def test_many_threads_and_tasks_each_get_their_own(of: Setting) -> None:
    tally = run(of, seconds=6)
    assert not tally.wrong, tally.wrong[:5]
    kinds = {way.__name__ for way in WAYS} | {"task", "to_thread", "nested task", "task afterwards", "at the end"}
    assert set(tally.right) == kinds


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_each_way_alone(of: Setting, way: Any) -> None:
    answers = list(way(of, "A", "B"))
    assert [answer for _, answer in answers] == [of.wanted[asked] for asked, _ in answers] != []


def test_a_copy_made_inside_takes_nothing_along(of: Setting) -> None:
    with of.attach("A"):
        copies = [copy.deepcopy(of.model), copy.copy(of.model), pickle.loads(pickle.dumps(of.model))]  # noqa: S301
        kept = io.BytesIO()
        torch.save(of.model, kept)
        assert [of.say(one) for one in copies] == [of.wanted["none"]] * 3
    kept.seek(0)
    loaded = torch.load(kept, weights_only=False)
    assert of.say(loaded) == of.wanted["none"]
    with attached(copies[0], of.tokenizer, of.memories["B"]):
        assert of.say(copies[0]) == of.wanted["B"] and of.say() == of.wanted["none"]


def test_a_bare_thread_inherits_nothing(of: Setting) -> None:
    with of.attach("A"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(of.say).result() == of.wanted["none"]
        assert pool.submit(contextvars.copy_context().run, of.say).result() == of.wanted["A"]


def test_a_method_taken_inside_does_not_outlive_the_block(of: Setting) -> None:
    before = of.model.generate
    with of.attach("A"):
        inside = of.model.generate
        assert inside(of.ids, max_new_tokens=4, do_sample=False)[0, -4:].tolist() == list(of.wanted["A"])
        assert before(of.ids, max_new_tokens=4, do_sample=False)[0, -4:].tolist() == list(of.wanted["A"])
        with of.attach("B"):  # where it is called counts before where it was taken
            assert inside(of.ids, max_new_tokens=4, do_sample=False)[0, -4:].tolist() == list(of.wanted["B"])
    with pytest.raises(UsageError, match="has ended"):
        inside(of.ids, max_new_tokens=4)
    assert before(of.ids, max_new_tokens=4, do_sample=False, pad_token_id=0)[0, -4:].tolist() == list(of.wanted["none"])


def test_a_block_left_in_another_task_is_left(of: Setting) -> None:
    async def stream() -> Any:
        with of.attach("A"):
            yield of.say()
            yield of.say()

    async def main() -> None:
        answers = stream()
        assert await anext(answers) == of.wanted["A"]
        assert of.say() == of.wanted["none"]  # suspended inside its block, and this is not its block
        assert await asyncio.create_task(_next(answers)) == of.wanted["A"]  # also when another task resumes it
        await asyncio.create_task(answers.aclose())
        assert of.say() == of.wanted["none"] and not _BY_FRAME

    async def _next(answers: Any) -> Any:
        return await anext(answers)

    asyncio.run(main())


def test_code_between_the_items_of_a_generator_is_not_in_its_block(of: Setting) -> None:
    async def say() -> Any:
        return of.say()

    async def stream() -> Any:
        with of.attach("A"):
            yield await asyncio.to_thread(of.say)
            yield await asyncio.create_task(say())

    async def main() -> None:
        answers = stream()
        for _ in range(2):
            assert await anext(answers) == of.wanted["A"]  # by threads and tasks of the generator itself
            assert await asyncio.to_thread(of.say) == of.wanted["none"]
            assert await asyncio.create_task(say()) == of.wanted["none"]
        await answers.aclose()

    def items() -> Iterator[Any]:
        with of.attach("A"), ThreadPoolExecutor(1) as pool:
            yield pool.submit(contextvars.copy_context().run, of.say).result()
            yield from iter([0])

    asyncio.run(main())
    plain = items()
    assert next(plain) == of.wanted["A"]
    with ThreadPoolExecutor(1) as pool:
        for _ in range(2):
            assert pool.submit(contextvars.copy_context().run, of.say).result() == of.wanted["none"]
            next(plain, None)
    plain.close()


@pytest.fixture
def in_a_block(of: Setting) -> Iterator[Any]:
    with of.attach("A") as model:
        yield model
    assert of.say() == of.wanted["none"]


def test_a_block_in_a_fixture_counts_for_its_test(of: Setting, in_a_block: Any) -> None:
    assert of.say(in_a_block) == of.wanted["A"]


def test_a_model_whose_own_generate_passes_everything_on(of: Setting, tiny: str) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()

    class Own(type(model)):  # type: ignore[misc]
        def generate(self, *args: Any, **kwargs: Any) -> Any:
            return super().generate(*args, **kwargs)

    model.__class__ = Own
    model.generation_config.eos_token_id = None
    with attached(model, of.tokenizer, of.memories["A"]):
        assert of.say(model) == of.wanted["A"]


def test_an_abandoned_block_ends_with_its_object(of: Setting) -> None:
    def abandon() -> None:
        of.attach("A").__enter__()

    abandon()
    assert of.say() == of.wanted["none"]


def test_as_a_decorator_and_again(of: Setting) -> None:
    ask = of.attach("A")(of.say)
    assert [ask(), of.say(), ask()] == [of.wanted["A"], of.wanted["none"], of.wanted["A"]]
    block = of.attach("B")
    for _ in range(2):
        with block as model:
            assert model is of.model and of.say() == of.wanted["B"]
            with pytest.raises(UsageError, match="already open"):
                block.__enter__()


def test_as_a_decorator_of_coroutines_but_not_of_generators(of: Setting) -> None:
    @of.attach("A")
    async def ask() -> Any:
        await asyncio.sleep(0)
        return of.say()

    assert asyncio.run(ask()) == of.wanted["A"]

    def items() -> Iterator[Any]:
        yield of.say()

    with pytest.raises(UsageError, match="items is a generator function"):
        of.attach("A")(items)


def test_threads_that_share_a_block_do_not_open_it_twice(of: Setting) -> None:
    block, start = of.attach("A"), threading.Barrier(8)

    def enter() -> int:
        start.wait()
        try:
            with block:
                start.wait()
        except UsageError:
            start.wait()
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        assert sum(one.result() for one in [pool.submit(enter) for _ in range(8)]) == 1


def test_the_model_is_compared_at_each_call(of: Setting, tiny: str) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()
    with attached(model, of.tokenizer, of.memories["A"]):
        of.say(model)
        with torch.no_grad():
            model.model.norm.weight.mul_(1.5)
        with pytest.raises(FingerprintError, match="changed in memory"):
            of.say(model)


@pytest.mark.parametrize("wrong", ["a.txt", {"a": 1}, 3, ["a.txt"], torch.zeros(2, 3)])
def test_what_is_no_memory_is_refused(of: Setting, wrong: Any) -> None:
    with pytest.raises(UsageError, match="in place of a memory"):
        attached(of.model, of.tokenizer, wrong)


def test_batches_by_continuous_batching_are_refused_inside(of: Setting) -> None:
    with of.attach("A"):
        with pytest.raises(UsageError, match="generate_batch cannot be used with a memory"):
            of.model.generate_batch([of.ids[0].tolist()])
        with pytest.raises(UsageError, match="init_continuous_batching cannot"):
            of.model.init_continuous_batching()


def test_a_memory_of_its_own_inside_a_block_is_refused(of: Setting) -> None:
    memory = of.memories["B"]
    assert memory is not None
    kwargs = memory.generate_kwargs(of.model, of.tokenizer, "wife")
    cached = memory.as_cache(of.model, of.tokenizer).generate_kwargs("wife")
    for given in (kwargs, cached):
        with of.attach("A"), pytest.raises(UsageError, match="has its own memory"):
            of.model.generate(**given, max_new_tokens=2)


def test_a_replaced_generate_is_refused(of: Setting) -> None:
    of.model.generate = lambda *args, **kwargs: None
    try:
        with pytest.raises(UsageError, match="not a method of its class"):
            of.attach("A")
    finally:
        del of.model.generate


def test_the_method_looks_as_it_did(of: Setting) -> None:
    import inspect

    from transformers import GenerationMixin

    of.attach("A").__enter__()
    wanted = list(inspect.signature(GenerationMixin.generate).parameters)
    assert ["self", *inspect.signature(of.model.generate).parameters] == wanted
    assert of.model.generate.__name__ == "generate" and "generation_config" in (of.model.generate.__doc__ or "")
    assert type(of.model).generate(of.model, of.ids, max_new_tokens=1, pad_token_id=0).shape[1] == of.ids.shape[1] + 1


def test_installing_from_many_threads_puts_one_dispatcher_there(tiny_lm: Any) -> None:
    from memvec.memory.dispatch import _Entrance, install

    class Other(type(tiny_lm.model)):  # type: ignore[misc]
        def generate(self) -> None:
            pass

    model = object.__new__(Other)
    threads = [threading.Thread(target=install, args=(model,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entrance = vars(Other)["generate"]
    install(model)
    assert isinstance(entrance, _Entrance) and vars(Other)["generate"] is entrance


def test_ids_and_masks_that_are_none_are_refused(of: Setting) -> None:
    with of.attach("A"):
        with pytest.raises(UsageError, match="at least one row"):
            of.model.generate(of.ids[:0])
        with pytest.raises(UsageError, match="the attention mask is a list"):
            of.model.generate(of.ids, attention_mask=of.mask.tolist())
    with attached(of.model, of.tokenizer, []), pytest.raises(UsageError, match="0 memories"):
        of.say()


def test_arguments_can_be_copied_sent_and_cut(of: Setting) -> None:
    memory = of.memories["A"]
    assert memory is not None
    prompts = ["wife", "The feelings or views of such a man"]
    plain = memory.generate_kwargs(of.model, of.tokenizer, prompts[0])
    cached = memory.as_cache(of.model, of.tokenizer)
    both = cached.generate_kwargs(prompts)
    wanted = of.told(plain)
    assert of.told(copy.deepcopy(plain)) == wanted
    assert of.told(pickle.loads(pickle.dumps(plain))) == wanted  # noqa: S301
    first = {name: value[:1] if isinstance(value, torch.Tensor) else value for name, value in both.items()}
    assert [of.told(first) for _ in range(2)] == [wanted] * 2


def test_a_cache_of_a_changed_model_or_tokenizer_is_refused(of: Setting, tiny: str) -> None:
    from transformers import AutoModelForCausalLM

    memory = of.memories["A"]
    assert memory is not None
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()
    tokenizer = copy.deepcopy(of.tokenizer)
    cached = memory.as_cache(model, tokenizer)
    kwargs = cached.generate_kwargs("wife")
    with pytest.raises(UsageError, match="the cache is in torch"):
        model.to(torch.bfloat16).generate(**kwargs, max_new_tokens=2)
    tokenizer.add_tokens(["feelings"])
    with pytest.raises(FingerprintError, match="vocabulary"):
        cached.generate_kwargs("The feelings")


def test_a_memory_without_vectors_behind_nothing_is_no_cache(of: Setting, tiny: str) -> None:
    from transformers import AutoTokenizer

    with pytest.raises(UsageError, match="raw has no vectors"):
        Memory(("raw",), (), fingerprint(tiny)).as_cache(of.model, AutoTokenizer.from_pretrained(tiny))


FIRST = """
import sys
import numpy as np, torch, transformers
import memvec
from memvec.memory.memory import Memory

folder = sys.argv[1]
model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
model.generation_config.eos_token_id = None
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
owner = memvec.fingerprint(folder)
memory = Memory(("x",), (np.ones((6, owner.width), np.float16),), owner)
print(model.generate(**memory.generate_kwargs(model, tokenizer, "wife and the"), do_sample=False, max_length=30).shape[1])
"""


def test_the_first_call_of_a_process_is_as_all_others(tiny: str) -> None:
    # Python takes model.generate before memory.generate_kwargs runs.
    done = subprocess.run([sys.executable, "-c", FIRST, tiny], capture_output=True, text=True, check=False)
    assert done.stdout.split()[-1:] == ["30"], done.stderr


@pytest.mark.parametrize("version", ["", "3.10", "3.11", "3.12", "3.13", "3.14"])
def test_blocks_on_every_python_that_is_there(version: str) -> None:
    """Generators that wait are told by instructions, which each version keeps in another way."""
    python = shutil.which(f"python{version}") if version else sys.executable
    found = python and subprocess.run([python, "-c", "1"], capture_output=True, check=False).returncode == 0
    if not found:
        pytest.skip(f"no Python {version} here")
    script = Path(__file__).with_name("blocks.py")
    done = subprocess.run([str(python), str(script)], capture_output=True, text=True, check=False)
    assert done.stdout == "right\n", done.stderr
