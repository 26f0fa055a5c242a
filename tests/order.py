"""In which order tests are run, and by which worker each begins."""

from collections.abc import Sequence
from itertools import groupby, islice
from typing import TypeVar

T = TypeVar("T")

PLATFORMS_AT_ONCE = 2
"""How many workers begin with tests of whole platforms: of more at once, none would answer in time."""


def spread(long: Sequence[tuple[str, T]], others: Sequence[T], *, workers: int) -> list[T]:
    """Return all tests so that every worker begins with some of the long ones.

    pytest-xdist (`worksteal`) cuts the list into a block for each worker. With the long tests at its head,
    one worker would be at them alone for as long as the others have anything to do. Those of whole platforms
    go to a few workers; where more had some, these would wait for each other (tests/conftest.py).

    Parameters:
        long: tests that take long, each with its file, whose tests stay together: they may share a server.
        others: the others, which stay in their order.
        workers: how many there are.
    """
    files = [(file, [test for _, test in group]) for file, group in groupby(long, key=lambda each: each[0])]
    platforms = [tests for file, tests in files if "/acceptance/" in file]
    rest_of_long = [tests for file, tests in files if "/acceptance/" not in file]
    heads: list[list[T]] = [[] for _ in range(workers)]
    for number, tests in enumerate(platforms):
        heads[number % min(workers, PLATFORMS_AT_ONCE)] += tests
    # From the other end: the workers without platforms have the first of these.
    for number, tests in enumerate(rest_of_long):
        heads[-1 - number % workers] += tests
    rest, left = iter(others), len(long) + len(others)
    ordered: list[T] = []
    for place, head in enumerate(heads):
        size = left // (workers - place)
        left -= size
        ordered += [*head, *islice(rest, max(0, size - len(head)))]
    return [*ordered, *rest]
