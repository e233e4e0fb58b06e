"""SIGTERM and SIGHUP do the same as Ctrl-C: finished work stays. A second one ends the program at once."""

from __future__ import annotations

import signal
from types import FrameType

NAMES = ("SIGTERM", "SIGHUP")  # of docker stop and schedulers, of a terminal that is closed

_arrived: list[int] = []


class StoppedError(KeyboardInterrupt):
    """A signal asked the program to stop. Verbs save finished work as on Ctrl-C."""


def listen() -> None:
    """From now on the signals interrupt as Ctrl-C does. One that is ignored, as SIGHUP is under nohup, stays ignored."""
    for number in _numbers():
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _stop)


def exit_code() -> int:
    """The exit code of an interrupted command: 143 after SIGTERM, 129 after SIGHUP, 130 after Ctrl-C."""
    return 128 + (_arrived[-1] if _arrived else int(signal.SIGINT))


def interrupted() -> str:
    """The message of an interrupted command, with the signal that stopped it."""
    return f"interrupted by {signal.Signals(_arrived[-1]).name}" if _arrived else "interrupted"


def _stop(number: int, frame: FrameType | None) -> None:
    for other in _numbers():
        if signal.getsignal(other) == _stop:
            signal.signal(other, signal.SIG_DFL)
    _arrived.append(number)
    raise StoppedError(signal.Signals(number).name)


def _numbers() -> list[signal.Signals]:
    return [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
