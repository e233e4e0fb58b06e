"""`attached`: memories for calls of `model.generate` in code that you cannot change."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from memvec.errors import UsageError, counted
from memvec.lm.adapters import unwrapped
from memvec.memory import options
from memvec.memory.dispatch import READY, Block, close_block, install, mark, open_block
from memvec.memory.prompt import Memories, Owners, as_memories, behind, embed, front_of, pad_id
from memvec.templates.template import Frame, Places, places

_OPENING = threading.Lock()


class attached(contextlib.ContextDecorator):
    """Put memories in front of every prompt that `model.generate` gets within a with block.

    The memory goes to the start of the user's turn if the ids begin with the tokenizer's chat template, else behind BOS.

    The block applies to code that is called from it, and to tasks and threads that inherit its context
    (`asyncio.create_task`, `asyncio.to_thread`). A plain thread does not inherit it: run it in
    `contextvars.copy_context()`, or pass it `model.generate`, taken inside the block. Blocks may be nested and may overlap;
    the innermost one applies. An `attached` object is also a decorator of functions.

    Args:
        model: A transformers model, also inside PEFT, torch.compile or DataParallel.
        tokenizer: The tokenizer that makes the ids.
        memories: One memory for all rows, None for none, or one (or None) for each row.
        check: Compare the model, as it is in memory, with the one the memories belong to.
        allow_adapters: Accept a model with active adapters, such as a LoRA. The weights below them are still compared.

    Raises:
        FingerprintError: The model is not the one the memories belong to, or has active adapters.
        UsageError: The model has no `generate` of transformers. In the block: an option of `generate` cannot be used
            with a memory, or the number of memories is not the number of rows.

    Example:
        >>> from transformers import AutoModelForCausalLM, AutoTokenizer
        >>> lm, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
        >>> memory = memvec.load_memory(store, "harbour.txt")
        >>> with memvec.attached(lm, tokenizer, memory):
        ...     out = lm.generate(**tokenizer("When does the ferry leave?", return_tensors="pt"), max_new_tokens=4)
    """

    def __init__(
        self, model: Any, tokenizer: Any, memories: Memories, check: bool = True, *, allow_adapters: bool = False
    ) -> None:
        given = as_memories(memories)
        owners = Owners.of(tokenizer, given if check else [], allow_adapters)
        owners.check(model)
        inner = unwrapped(model)
        if not callable(getattr(type(inner), "generate", None)) or "generate" in vars(inner):
            raise UsageError(
                "the model's generate is not a method of its class, so attached cannot change its calls. Use "
                "memory.generate_kwargs instead."
            )
        self._model, self._inner = model, inner
        self._rows = _Rows(places(tokenizer), pad_id(tokenizer), given, functools.partial(owners.check, model))
        self._block: Block | None = None

    def __enter__(self) -> Any:
        """Open the block. UsageError when it is open already."""
        install(self._inner)
        with _OPENING:  # threads may share this object by mistake
            if self._block is not None and self._block.open:
                raise UsageError(
                    "this block of memvec.attached is already open. Make another one with memvec.attached(…)."
                )
            self._block = open_block(self._inner, self._rows, sys._getframe(1))
        weakref.finalize(self, close_block, self._block).atexit = False
        return self._model

    def __exit__(self, *error: object) -> None:
        """Close the block."""
        if self._block is not None:
            close_block(self._block)

    def __call__(self, function: Any) -> Any:
        """Decorate a function, or a coroutine function: each call is a block. UsageError for a generator function."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise UsageError(
                f"{function.__name__} is a generator function, whose code runs after the call. Open the block inside it: "
                "with memvec.attached(…)."
            )
        if not inspect.iscoroutinefunction(function):
            return super().__call__(function)

        @functools.wraps(function)
        async def call(*args: Any, **kwargs: Any) -> Any:
            with self._recreate_cm():
                return await function(*args, **kwargs)

        return call

    def _recreate_cm(self) -> attached:
        made = copy.copy(self)  # as a decorator: a block for each call of the function
        made._block = None
        return made


class _Rows:
    """A carrier for rows of ids that other code made."""

    def __init__(self, where: Places, pad: int, memories: Sequence[Any], check: Callable[[], None]) -> None:
        self.where, self.pad, self.memories, self.check = where, pad, memories, check

    def arguments(self, model: Any, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments of the call with the memories in it. FingerprintError, UsageError."""
        if self.memories and all(memory is None for memory in self.memories):
            return given
        self.check()  # since the block was opened, an adapter may be active or weights may have changed
        asked = {name: value for name, value in given.items() if name not in ("inputs", "input_ids", "attention_mask")}
        options.check(model, asked)
        ids = _ids(given)
        each = list(self.memories) * len(ids) if len(self.memories) == 1 else self.memories
        if len(each) != len(ids):
            raise UsageError(
                f"{counted(len(each), 'memory', 'memories')} for {counted(len(ids), 'row')}. Pass one, or one for each row."
            )
        fronts = {id(memory): front_of(memory) for memory in self.memories}
        rows = zip(own_ids(ids, mask_of(model, given, ids)), each, strict=True)
        made = embed(
            model,
            [
                (Frame((), own) if memory is None else self.where.split(own, True), fronts[id(memory)])
                for own, memory in rows
            ],
            self.pad,
        )
        return {
            **options.settle(model, asked, ids.shape[1], self.pad),
            "input_ids": ids,  # unchanged: callers cut the output at the length of their ids
            "inputs_embeds": mark(made.inputs_embeds, READY),
            "attention_mask": made.attention_mask,
            **({} if made.cached is None else behind(model, asked, made.cached.cache)),
        }


def own_ids(ids: Tensor, mask: Tensor) -> list[tuple[int, ...]]:
    """Return the ids of each row where its mask is 1; both (B, T)."""
    return [tuple(row[seen.bool()].tolist()) for row, seen in zip(ids, mask, strict=True)]


def mask_of(model: Any, given: dict[str, Any], ids: Tensor) -> Tensor:
    """Return the attention mask (B, T) of a call: the given one, else the one transformers would make. UsageError.

    transformers masks padding tokens, unless the padding token is also an end token.
    """
    mask: Tensor | None = given.get("attention_mask")
    if mask is not None:
        shape = tuple(mask.shape) if isinstance(mask, Tensor) else f"a {type(mask).__name__}"
        if shape != tuple(ids.shape):
            raise UsageError(
                f"the attention mask is {shape}, expected {tuple(ids.shape)} like the ids: memvec adds the "
                "mask of the memory. Pass the tokenizer's mask, or none."
            )
        return mask
    pad, end = (options.resolve(model, given, name) for name in ("pad_token_id", "eos_token_id"))
    ends = [] if end is None else torch.as_tensor(end).flatten().tolist()
    if pad is None or int(pad) in ends:
        return torch.ones_like(ids)
    return ids.ne(int(pad)).long()


def _ids(given: dict[str, Any]) -> Tensor:
    named = [value for name in ("inputs", "input_ids") if (value := given.get(name)) is not None]
    ids = named[0] if len(named) == 1 else None
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.is_floating_point() or not len(ids):
        raise UsageError(
            "expected input_ids (rows, tokens), at least one row, while a memory is attached. Pass the tokenizer's output with "
            "return_tensors='pt'."
        )
    return ids
