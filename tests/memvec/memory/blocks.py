"""Blocks of `memvec.memory.dispatch` without a model, for any Python from 3.10 on: `python tests/memvec/blocks.py`.

Which generator waits at a `yield` is told by the interpreter's instructions, and each version keeps them in another way.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from memvec.memory import dispatch

MODEL = object()


class Attached:
    """A block that carries a name."""

    def __init__(self, name: str) -> None:
        self.name: Any = name

    def __enter__(self) -> None:
        self.block = dispatch.open_block(MODEL, self.name, sys._getframe(1))

    def __exit__(self, *error: object) -> None:
        dispatch.close_block(self.block)


def who() -> Any:
    block = dispatch.block_of(MODEL)
    return block and block.carrier


def answers(name: str) -> Iterator[Any]:
    with Attached(name):
        while True:
            yield who()


def asked() -> Iterator[Any]:
    while True:
        yield who()


def delegated(name: str) -> Iterator[Any]:
    with Attached(name):
        yield from asked()


@contextlib.contextmanager
def managed(name: str) -> Iterator[None]:
    with Attached(name):
        yield


async def streamed(name: str) -> AsyncIterator[Any]:
    with Attached(name):
        while True:
            await asyncio.sleep(0)
            yield await asyncio.create_task(asked_in_a_task())


async def asked_in_a_task() -> Any:
    return who()


async def request(name: str) -> list[Any]:
    with Attached(name):
        await asyncio.sleep(0.01)
        return [who(), await asyncio.create_task(asked_in_a_task()), await asyncio.to_thread(who)]


def in_turns(make: Any) -> None:
    first, second = make("A"), make("B")
    assert [next(first), next(second), next(first), who()] == ["A", "B", "A", None]
    del first
    assert [next(second), who()] == ["B", None]
    second.close()
    assert who() is None


async def tasks() -> None:
    first, second = streamed("A"), streamed("B")
    assert [await anext(first), await anext(second), await anext(first), who()] == ["A", "B", "A", None]
    assert await asyncio.create_task(asked_in_a_task()) is None and await asyncio.to_thread(who) is None
    await first.aclose()  # type: ignore[attr-defined]
    await second.aclose()  # type: ignore[attr-defined]
    assert who() is None
    assert await asyncio.gather(request("A"), request("B")) == [["A"] * 3, ["B"] * 3]


def main() -> None:
    in_turns(answers)
    in_turns(delegated)
    with managed("A"):
        assert who() == "A"
        with Attached("B"):
            assert who() == "B"
        assert who() == "A"
    with contextlib.ExitStack() as stack:
        stack.enter_context(Attached("A"))
        assert who() == "A"
    asyncio.run(tasks())
    assert who() is None and not dispatch._BY_FRAME


if __name__ == "__main__":
    main()
    print("right")
