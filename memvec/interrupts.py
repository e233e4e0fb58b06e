"""Delay Ctrl-C, SIGTERM and SIGHUP during steps that must not be interrupted."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Delay signals that have a handler in Python until the block ends.

    Otherwise a commit that a signal cut in two would be made a second time by the code that cleans up. Only the main thread
    gets signals, so in any other thread this does nothing. SIGKILL cannot be delayed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    known = [(number, signal.getsignal(number)) for number in SIGNALS]
    handlers = {int(number): handler for number, handler in known if callable(handler)}
    for number in handlers:
        signal.signal(number, lambda *what: came.append(what))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for number, frame in came[:1]:
        handlers[number](number, frame)
