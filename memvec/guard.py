"""What keeps threads apart: one lock around loading and first imports, and process-wide settings with several holders.

transformers does not load models in two threads at once: while one is loading, a global state makes others build theirs
without weights. Its modules import each other on first use, which two threads can meet half done.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

State = TypeVar("State")

_loading = threading.RLock()


@contextmanager
def loading_alone() -> Iterator[None]:
    """Hold the process-wide lock for loading models and tokenizers and for importing torch, transformers and the like."""
    with _loading:
        yield


class Held(Generic[State]):
    """A process-wide setting that several threads hold at once: the first sets it, the last restores it."""

    def __init__(self, enter: Callable[[], State], leave: Callable[[State], None]) -> None:
        """`enter` sets it and returns what `leave` needs to restore it."""
        self._enter, self._leave = enter, leave
        self._lock, self._holders = threading.Lock(), 0
        self._before: State

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Within: the setting is as `enter` makes it."""
        with self._lock:
            if not self._holders:
                self._before = self._enter()
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                if not self._holders:
                    self._leave(self._before)


def _after_fork() -> None:
    """A child has none of the threads that may have held the lock when it was forked."""
    global _loading
    _loading = threading.RLock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)
