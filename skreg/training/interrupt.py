"""Ctrl-C and SIGTERM between steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Terminated(KeyboardInterrupt):
    """SIGTERM, with which a scheduler or a shutdown ends a program that may still put things in order."""


@contextmanager
def interrupt_between_steps(
    agree: Callable[[int], int] = int, *, patient: bool = False
) -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C and SIGTERM back until the function that this yields is called, which then raises.

    Python raises `KeyboardInterrupt` wherever the signal arrives, and inside a library's callback or a destructor it
    is printed and dropped: the training would go on. A second signal is raised at once, unless `patient`: torchrun
    sends on what the terminal has sent already. Handlers that a program has set itself, and threads other than the
    main one, are left alone.

    `agree` takes the number of the signal that arrived, or 0, and returns the one to act on; where several processes
    train, the same for all.
    """
    defaults: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    held = [number for number, default in defaults.items() if signal.getsignal(number) is default]
    if threading.current_thread() is not threading.main_thread():
        held = []
    arrived: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        arrived.append(number)
        if len(arrived) > 1 and not patient:
            stop(number)

    def stop(number: int) -> None:
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    def check() -> None:
        number = agree(arrived[-1] if arrived else 0)
        if number:
            stop(number)

    for number in held:
        signal.signal(number, handler)
    try:
        yield check
    finally:
        for number in held:
            signal.signal(number, defaults[number])
