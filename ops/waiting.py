"""Waiting for what other processes and servers bring about: until it holds, or for all of their answers."""

import threading
import time
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from typing import TypeVar

from ops.errors import OpsError

T = TypeVar("T")


class NothingInTime(OpsError):
    """What was asked has not answered before its deadline."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"nothing within {seconds:g} s")


def wait_until(condition: Callable[[], bool], *, timeout_seconds: float, every_seconds: float = 0.02) -> bool:
    """Poll `condition` until it holds; return False when it does not hold in time."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_seconds)
    return True


def answers_of(
    sources: Mapping[str, Callable[[], T]], *, deadline_seconds: float
) -> Mapping[str, T | Exception]:
    """Ask all sources at once, each in a thread; return their answers by name, in the order of the sources.

    The answer of one that fails is its error, of one that is late `NothingInTime`; the others are returned
    all the same.

    Parameters:
        sources: what is asked, by name.
        deadline_seconds: how long they have together.
    """
    arrived: SimpleQueue[tuple[str, T | Exception]] = SimpleQueue()

    def ask(name: str, source: Callable[[], T]) -> None:
        try:
            arrived.put((name, source()))
        except Exception as error:  # whatever it is: it must not hide what the others answer
            arrived.put((name, error))

    for name, source in sources.items():
        # Daemons: one that hangs must not keep the process.
        threading.Thread(target=ask, args=(name, source), name=f"asks {name}", daemon=True).start()
    answers: dict[str, T | Exception] = dict.fromkeys(sources, NothingInTime(deadline_seconds))
    until = time.monotonic() + deadline_seconds
    for _ in sources:
        try:
            name, answer = arrived.get(timeout=max(0.0, until - time.monotonic()))
        except Empty:
            break
        answers[name] = answer
    return answers
