"""Locks for threads: one around loading and first imports, and one around each process-wide setting.

transformers cannot load models in two threads at once: while one loads, a global state makes the others build theirs
without weights. Its modules import each other at first use, and a second thread may see one half imported.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

State = TypeVar("State")


class Lock:
    """A re-entrant lock of the process: `with lock():`. A forked child gets it unlocked, because other threads do not survive."""

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):  # not on Windows
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.RLock()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Hold the lock."""
        with self._lock:
            yield


loading_alone = Lock()  # for loading models and tokenizers, and for importing torch, transformers and the like


class Held(Generic[State]):
    """A process-wide setting that several threads hold at once: the first sets it, the last restores it."""

    def __init__(self, enter: Callable[[], State], leave: Callable[[State], None]) -> None:
        """`enter` sets it and returns what `leave` needs to restore it."""
        self._enter, self._leave = enter, leave
        self._lock, self._holders = Lock(), 0
        self._before: State

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Hold the setting for the block."""
        with self._lock():
            if not self._holders:
                self._before = self._enter()
            self._holders += 1
        try:
            yield
        finally:
            with self._lock():
                self._holders -= 1
                if not self._holders:
                    self._leave(self._before)
