"""Check that every request gets its own memory: 16 threads and 16 asyncio tasks ask one model at once, in every way there is.

Each request draws a memory (A, B or none) and a way: `attached` alone, nested, overlapping, in a generator that is
abandoned or that alternates with another, left by an exception, or with a copy of the model made inside; `generate_kwargs`;
`as_cache`; and `generate` alone. Its answer must equal the one that a single thread got for that memory.

    python benchmarks/isolation.py --seconds 60 --json benchmarks/results/isolation.json
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import copy
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memvec.memory.attach import attached
from memvec.memory.memory import Memory

PROMPT = "The feelings or views of such a man may be on"
Answer = tuple[int, ...]


@dataclass
class Setting:
    """A model, two memories, and the right answer for each."""

    model: Any
    tokenizer: Any
    memories: dict[str, Memory | None]
    copies: bool = True  # is the model small enough to be copied within a block?
    new: int = 4
    wanted: dict[str, Answer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Get the answers one after another."""
        self.ids = torch.tensor([self.tokenizer(PROMPT)["input_ids"]])
        self.mask = torch.ones_like(self.ids)
        self.cached = {name: made and made.as_cache(self.model, self.tokenizer) for name, made in self.memories.items()}
        for name, memory in self.memories.items():
            with attached(self.model, self.tokenizer, memory):
                self.wanted[name] = self.say()
            if memory is not None:
                self.wanted[f"prompt {name}"] = self.told(memory.generate_kwargs(self.model, self.tokenizer, PROMPT))
                self.wanted[f"cache {name}"] = self.wanted[f"prompt {name}"]
        plain = {self.wanted[name] for name in self.memories}
        assert len(plain) == len(self.memories), "the memories must differ in what they answer"

    def say(self, model: Any = None) -> Answer:
        """A plain call of `generate`, as in code without memvec."""
        out = (model or self.model).generate(
            self.ids, attention_mask=self.mask, do_sample=False, max_new_tokens=self.new, pad_token_id=0
        )
        return tuple(out[0, self.ids.shape[1] :].tolist())

    def told(self, kwargs: dict[str, Any]) -> Answer:
        """A call of `generate` with arguments that carry the memory."""
        out = self.model.generate(**kwargs, do_sample=False, max_new_tokens=self.new)
        return tuple(out[0, kwargs["input_ids"].shape[1] :].tolist())

    def attach(self, name: str) -> attached:
        """A block for the memory of that name."""
        return attached(self.model, self.tokenizer, self.memories[name])


Pairs = Iterator[tuple[str, Answer]]  # (memory asked for, answer)
Way = Callable[[Setting, str, str], Pairs]


def plain(of: Setting, name: str, other: str) -> Pairs:
    """No memory at all."""
    yield "none", of.say()


def in_block(of: Setting, name: str, other: str) -> Pairs:
    """One block, and a call after it."""
    with of.attach(name):
        yield name, of.say()
    yield "none", of.say()


def nested(of: Setting, name: str, other: str) -> Pairs:
    """A block in a block."""
    with of.attach(name):
        with of.attach(other):
            yield other, of.say()
        yield name, of.say()


def overlapping(of: Setting, name: str, other: str) -> Pairs:
    """Two blocks, of which the first ends first."""
    first, second = of.attach(name), of.attach(other)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    yield other, of.say()
    second.__exit__(None, None, None)
    yield "none", of.say()


def by_stack(of: Setting, name: str, other: str) -> Pairs:
    """A helper opens the block and returns."""

    def open_in(stack: ExitStack) -> None:
        stack.enter_context(of.attach(name))

    with ExitStack() as stack:
        open_in(stack)
        yield name, of.say()
    yield "none", of.say()


def by_manager(of: Setting, name: str, other: str) -> Pairs:
    """A context manager of the caller's own."""

    @contextlib.contextmanager
    def manager() -> Iterator[None]:
        with of.attach(name):
            yield

    with manager():
        yield name, of.say()
    yield "none", of.say()


def generators(of: Setting, name: str, other: str) -> Pairs:
    """Two generators that alternate: one is abandoned, the other is kept."""

    def answers(which: str) -> Iterator[Answer]:
        with of.attach(which):
            while True:
                yield of.say()

    one, two = answers(name), answers(other)
    yield name, next(one)
    yield other, next(two)
    yield name, next(one)
    yield "none", of.say()  # both are suspended inside their blocks
    del one
    yield other, next(two)
    two.close()
    yield "none", of.say()


def raising(of: Setting, name: str, other: str) -> Pairs:
    """An exception ends the block."""
    with contextlib.suppress(LookupError), of.attach(name):
        raise LookupError
    yield "none", of.say()


def copied(of: Setting, name: str, other: str) -> Pairs:
    """A copy made inside the block is another model."""
    if not of.copies:
        return
    with of.attach(name):
        made = copy.deepcopy(of.model)
        yield "none", of.say(made)
        yield name, of.say()


def keywords(of: Setting, name: str, other: str) -> Pairs:
    """Keyword arguments from `generate_kwargs` of a memory."""
    memory = of.memories[name]
    if memory is not None:
        yield f"prompt {name}", of.told(memory.generate_kwargs(of.model, of.tokenizer, PROMPT))


def from_cache(of: Setting, name: str, other: str) -> Pairs:
    """`as_cache` of a memory that all requests share."""
    if (cached := of.cached[name]) is not None:
        kwargs = cached.generate_kwargs(PROMPT)
        for _ in range(2):
            yield f"cache {name}", of.told(kwargs)


def threaded(of: Setting, name: str, other: str) -> Pairs:
    """`model.generate` taken in the block runs in a bare thread, as with a streamer."""
    kept: list[Any] = []
    with of.attach(name):
        options = {"attention_mask": of.mask, "do_sample": False, "max_new_tokens": of.new, "pad_token_id": 0}
        method = of.model.generate
        thread = threading.Thread(target=lambda: kept.append(method(of.ids, **options)))
        thread.start()
        thread.join()
    yield name, tuple(kept[0][0, of.ids.shape[1] :].tolist())


WAYS: tuple[Way, ...] = (
    plain, in_block, nested, overlapping, by_stack, by_manager, generators, raising, copied, keywords, from_cache, threaded,
)  # fmt: skip


@dataclass
class Tally:
    """The counts of all requests."""

    right: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)

    def note(self, of: Setting, way: str, asked: str, answer: Answer) -> None:
        """Count one answer."""
        with self.lock:
            if of.wanted[asked] == answer:
                self.right[way] += 1
            else:
                said = next((name for name, known in of.wanted.items() if known == answer), "something else")
                self.wrong.append(f"{way}: asked with {asked}, answered as with {said}")


def ask(of: Setting, tally: Tally, rng: random.Random, way: Way) -> None:
    """Make one request of a thread."""
    name, other = rng.sample(list(of.memories), 2)
    try:
        for asked, answer in way(of, name, other):
            tally.note(of, way.__name__, asked, answer)
    except Exception as error:  # noqa: BLE001 - any failure of a request counts
        tally.wrong.append(f"{way.__name__}: {type(error).__name__}: {error}")


async def ask_in_task(of: Setting, tally: Tally, rng: random.Random) -> None:
    """One request of a task: others run while it waits inside its block, and `generate` runs here or in a thread."""
    name, other = rng.sample(list(of.memories), 2)
    try:
        with of.attach(name):
            await asyncio.sleep(rng.random() / 50)
            if rng.random() < 0.5:
                tally.note(of, "task", name, of.say())
            else:
                tally.note(of, "to_thread", name, await asyncio.to_thread(of.say))
            with of.attach(other):
                await asyncio.sleep(rng.random() / 50)
                tally.note(of, "nested task", other, await asyncio.create_task(_say(of)))
        await asyncio.sleep(0)
        tally.note(of, "task afterwards", "none", of.say())
    except Exception as error:  # noqa: BLE001 - any failure of a request counts
        tally.wrong.append(f"task: {type(error).__name__}: {error}")


async def _say(of: Setting) -> Answer:
    return of.say()


def run(of: Setting, seconds: float, threads: int = 16, tasks: int = 16) -> Tally:
    """Ask for some seconds."""
    tally, end = Tally(), time.monotonic() + seconds

    def thread(seed: int) -> None:
        rng = random.Random(seed)
        ask(of, tally, rng, WAYS[seed % len(WAYS)])  # so that each way is asked, however slow the machine
        while time.monotonic() < end:
            ask(of, tally, rng, rng.choice(WAYS))

    async def task(seed: int) -> None:
        rng = random.Random(seed)
        while time.monotonic() < end:
            await ask_in_task(of, tally, rng)

    async def all_tasks() -> None:
        await asyncio.gather(*(task(1000 + seed) for seed in range(tasks)))

    running = [threading.Thread(target=thread, args=(seed,)) for seed in range(threads)]
    for one in running:
        one.start()
    asyncio.run(all_tasks())
    for one in running:
        one.join()
    tally.note(of, "at the end", "none", of.say())
    return tally


def noise(owner: Any, size: int, seed: int, scale: float = 0.3) -> Memory:
    """A memory of made-up vectors."""
    drawn = np.random.default_rng(seed).standard_normal((size, owner.width)) * scale
    return Memory((f"{seed}",), (drawn.astype(np.float16),), owner)


def made_up(folder: str) -> Setting:
    """The small model in a folder, which gives no end token, with two memories of noise."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import memvec

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    tokenizer, owner = AutoTokenizer.from_pretrained(folder), memvec.fingerprint(folder)
    tokenizer.bos_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return Setting(model, tokenizer, {"A": noise(owner, 6, 1), "B": noise(owner, 6, 2), "none": None})


def embedded(model: Any, tokenizer: Any, owner: Any, text: str) -> Memory:
    """A memory of the embeddings of a text."""
    with torch.inference_mode():
        vectors = model.get_input_embeddings()(torch.tensor(tokenizer(text)["input_ids"]))
    return Memory((text,), (vectors.numpy().astype(np.float16),), owner)


def main() -> None:
    """Ask the default model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import memvec
    from memvec.checkpoints.resolve import DEFAULT_MODEL, resolve

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    folder = resolve(given.model)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer, owner = AutoTokenizer.from_pretrained(folder), memvec.fingerprint(given.model)
    texts = {"A": f"{PROMPT} fire tonight. " * 2, "B": f"{PROMPT} sale in London. " * 2}
    memories = {name: embedded(model, tokenizer, owner, text) for name, text in texts.items()} | {"none": None}
    small = sum(weight.numel() for weight in model.parameters()) < 10_000_000
    tally = run(Setting(model, tokenizer, memories, copies=small), given.seconds)
    result = {
        "model": given.model,
        "seconds": given.seconds,
        "answers": tally.right.total(),
        "by_way": dict(sorted(tally.right.items())),
        "wrong": tally.wrong[:20],
    }
    print(json.dumps(result, indent=1))
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")
    if tally.wrong:
        raise SystemExit(f"{len(tally.wrong)} wrong answers")


if __name__ == "__main__":
    main()
