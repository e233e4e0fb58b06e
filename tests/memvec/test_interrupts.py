"""Blocks that signals may not interrupt."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from memvec.interrupts import SIGNALS, held_back


@pytest.fixture
def handlers() -> Iterator[None]:
    """The signals raise KeyboardInterrupt, as at the command line."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in before:
        signal.signal(number, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
class TestHeldBack:
    """A block runs to its end before a signal that came in it is handled."""

    @pytest.mark.parametrize("number", SIGNALS)
    def test_signals_wait(self, number: signal.Signals) -> None:
        done = []
        with pytest.raises(KeyboardInterrupt):
            with held_back():
                os.kill(os.getpid(), number)
                os.kill(os.getpid(), number)
                done.append(1)
            done.append(2)
        assert done == [1]
        with pytest.raises(KeyboardInterrupt):  # the handlers are as before
            os.kill(os.getpid(), number)

    def test_nested(self) -> None:
        done = []
        with pytest.raises(KeyboardInterrupt), held_back():
            with held_back():
                os.kill(os.getpid(), signal.SIGINT)
            done.append(1)
        assert done == [1]

    def test_errors_pass(self) -> None:
        with pytest.raises(ValueError, match="own"), held_back():
            raise ValueError("own")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_in_another_thread(self) -> None:
        done: list[int] = []

        def work() -> None:
            with held_back():
                done.append(1)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert done == [1]
