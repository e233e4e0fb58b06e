"""The dispatcher: a wrapper of `generate` on the model's class, installed once. All memories enter calls here.

The dispatcher itself holds no memory. It changes a call if the arguments hold embeddings or a cache that memvec made, and
any call in a block of `attached`. Nothing is stored on the model, so copies of it carry no memory, and
calls of other threads and tasks are not changed.
"""

from __future__ import annotations

import dis
import functools
import inspect
import itertools
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from memvec.errors import UsageError
from memvec.guard import Lock
from memvec.lm.compat import CACHE_NAMES

MARK = "_memvec_prompt"  # attribute of embeddings and caches that memvec made: their carrier
MANAGERS = ("contextlib", "_pytest", "pytest_asyncio")  # packages that run generators as context managers and fixtures
READY = object()  # the mark of embeddings that need no more work
AFTER_YIELD = (1, 2)  # the low bits of the argument of RESUME behind `yield` and `yield from`, see `dis`
_LOCK = Lock()
_ORDER = itertools.count()


class Carrier(Protocol):
    """Puts memories into a call of `generate`."""

    def arguments(self, model: Any, given: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments for `generate`, for a call with the arguments `given`. FingerprintError, UsageError."""
        ...


@dataclass(eq=False, slots=True)
class Block:
    """An open `attached` block."""

    model: Any  # the transformers model inside wrappers
    carrier: Carrier
    frame: types.FrameType  # of the code that opened the block
    managed: bool  # is `frame` a generator that runs as a context manager or fixture?
    number: int = field(default_factory=lambda: next(_ORDER))
    open: bool = True

    @property
    def inherited(self) -> bool:
        """Does the block apply to code that has its context, but is not called from its frame?

        Yes in tasks and threads that inherited the context, and after a helper function that opened the block returned.
        No while a generator that opened the block is suspended at a `yield`, because then other code runs.
        """
        return self.open and (self.managed or not _yielded(self.frame))


_BY_FRAME: dict[types.FrameType, list[Block]] = {}
_IN_CONTEXT: ContextVar[tuple[Block, ...]] = ContextVar("memvec_attached", default=())


def open_block(model: Any, carrier: Carrier, frame: types.FrameType) -> Block:
    """Open a block for the code of `frame`."""
    resumer = frame.f_back
    runs = "" if resumer is None else str(resumer.f_globals.get("__name__"))
    block = Block(model, carrier, frame, runs.partition(".")[0] in MANAGERS)
    with _LOCK():
        _BY_FRAME.setdefault(frame, []).append(block)
    _IN_CONTEXT.set((*_IN_CONTEXT.get(), block))
    return block


def close_block(block: Block) -> None:
    """Close a block. Any thread, task or context may do so, also more than once."""
    with _LOCK():
        block.open = False
        rest = [other for other in _BY_FRAME.pop(block.frame, []) if other is not block]
        if rest:
            _BY_FRAME[block.frame] = rest
    _IN_CONTEXT.set(tuple(other for other in _IN_CONTEXT.get() if other.open))


def block_of(model: Any) -> Block | None:
    """Return the innermost block of `attached` for this model that applies to the calling code, or None."""
    if not _BY_FRAME:
        return None
    found: Block | None = None
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and found is None:
        found = next((block for block in reversed(_BY_FRAME.get(frame, [])) if block.model is model), None)
        frame = frame.f_back
    context = (block for block in reversed(_IN_CONTEXT.get()) if block.model is model and block.inherited)
    other = next(context, None)
    return other if other is not None and (found is None or other.number > found.number) else found


def mark(value: Any, carrier: Carrier | object) -> Any:
    """Set the carrier of embeddings or of a cache. Return `value`."""
    setattr(value, MARK, carrier)
    return value


def install(model: Any) -> None:
    """Install the dispatcher on the class of a transformers model, unless it is there. Threads may call this at once."""
    _put_on(type(model))


def install_early() -> None:
    """Install the dispatcher on the base class of all transformers models, if transformers is imported.

    In `model.generate(**memory.generate_kwargs(…))` Python looks up `model.generate` before it makes the arguments, so the
    first call would get a method without the dispatcher.
    """
    mixin = getattr(sys.modules.get("transformers.generation.utils"), "GenerationMixin", None)
    if mixin is not None:
        _put_on(mixin)


def _put_on(cls: Any) -> None:
    if all(isinstance(inspect.getattr_static(cls, name, None), _Entrance) for name in _ENTRANCES):
        return
    with _LOCK():
        for name, dispatched in _ENTRANCES.items():
            original = inspect.getattr_static(cls, name, None)
            if callable(original) and not isinstance(original, _Entrance):
                setattr(cls, name, _Entrance(original, dispatched))


class _Entrance:
    """A wrapped method of a model's class. If it is bound within a block, that block applies to it, also in another thread."""

    def __init__(self, original: Any, dispatched: Callable[..., Any]) -> None:
        functools.update_wrapper(self, original)
        self.original, self.dispatched = original, dispatched
        self._plain = self._of(None)

    def __call__(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the method on a model, as a function of the class."""
        return self._plain(model, *args, **kwargs)

    def __get__(self, model: Any, owner: Any = None) -> Any:
        """Bind the method to a model."""
        if model is None:
            return self
        block = block_of(model)
        return types.MethodType(self._plain if block is None else self._of(block), model)

    def _of(self, bound_in: Block | None) -> Callable[..., Any]:
        @functools.wraps(self.original)
        def call(model: Any, *args: Any, **kwargs: Any) -> Any:
            block = block_of(model) or bound_in
            if block is not None and not block.open:
                raise UsageError(
                    "this method was taken from the model inside a block of memvec.attached that has ended. "
                    "Take it from the model again, or call it inside the block."
                )
            return self.dispatched(self.original, model, block, args, kwargs)

        return call


def _generate(original: Any, model: Any, block: Block | None, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    given = _named(original, model, args, kwargs)
    marks = [getattr(given.get(name), MARK, None) for name in ("inputs_embeds", *CACHE_NAMES)]
    own = next((found for found in marks if found is not None), None)
    if own is READY or (own is None and block is None):
        return original(model, *args, **kwargs)
    if own is not None and block is not None:
        raise UsageError(
            "the call has its own memory, and is inside a block of memvec.attached. Call it outside, or leave its memory out."
        )
    carrier: Any = own if block is None else block.carrier
    return original(model, **carrier.arguments(model, given))


def _ids_only(original: Any, model: Any, block: Block | None, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    if block is not None:
        raise UsageError(
            f"{original.__name__} cannot be used with a memory: continuous batching takes only ids, so the memory would be "
            "left out. Call generate, or leave the block of memvec.attached."
        )
    return original(model, *args, **kwargs)


_ENTRANCES: Mapping[str, Callable[..., Any]] = {
    "generate": _generate,
    "generate_batch": _ids_only,
    "init_continuous_batching": _ids_only,
}


def _named(original: Any, model: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name."""
    if not args:
        return dict(kwargs)
    signature = inspect.signature(original)
    if any(taken.kind is taken.VAR_POSITIONAL for taken in signature.parameters.values()):  # a wrapper of generate
        from transformers import GenerationMixin

        signature = inspect.signature(GenerationMixin.generate)
    bound = signature.bind_partial(model, *args).arguments
    positional = list(bound.items())[1:]  # without the model
    if twice := [name for name, _ in positional if name in kwargs]:
        raise TypeError(f"generate() got multiple values for argument {twice[0]!r}")
    return {**dict(positional), **kwargs}


def _yielded(frame: types.FrameType) -> bool:
    """Is this a generator that is suspended at a `yield`, rather than running or waiting at an `await`?"""
    flags, code, at = frame.f_code.co_flags, frame.f_code.co_code, frame.f_lasti
    if at < 0 or not flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR):
        return False
    here, after = dis.opname[code[at]], dis.opname[code[at + 2]] if at + 2 < len(code) else ""
    if sys.version_info < (3, 11):  # `await` and `yield from` are one there
        return here == "YIELD_VALUE" or (after == "YIELD_FROM" and bool(flags & inspect.CO_GENERATOR))
    if here == "YIELD_VALUE" and after == "RESUME":  # up to 3.12
        return code[at + 3] & 3 in AFTER_YIELD
    return here == "RESUME" and code[at + 1] & 3 in AFTER_YIELD
