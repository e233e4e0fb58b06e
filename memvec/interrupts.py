"""Steps that Ctrl-C, SIGTERM and SIGHUP must not cut in two."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Let signals that have a handler in Python wait until the block ends, so that it runs whole.

    A commit that was cut in two would be made again by whoever cleans up. Only the main thread gets signals; in another
    one this does nothing. What the system does by itself, as it ends a process by SIGKILL, cannot wait.
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
