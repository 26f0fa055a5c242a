"""In which order tests are run, and by which worker each begins."""

from collections.abc import Sequence
from itertools import groupby, islice
from typing import TypeVar

T = TypeVar("T")


def spread(long: Sequence[tuple[str, T]], others: Sequence[T], *, workers: int) -> list[T]:
    """Return all tests so that every worker begins with some of the long ones.

    pytest-xdist (`worksteal`) cuts the list into a block for each worker. With the long tests at its head,
    one worker would be at them alone for as long as the others have anything to do.

    Parameters:
        long: tests that take long, each with its file, whose tests stay together: they may share a server.
        others: the others, which stay in their order.
        workers: how many there are.
    """
    files = [[test for _, test in group] for _, group in groupby(long, key=lambda each: each[0])]
    heads = [[test for file in files[place::workers] for test in file] for place in range(workers)]
    rest, left = iter(others), len(long) + len(others)
    ordered: list[T] = []
    for place, head in enumerate(heads):
        size = left // (workers - place)
        left -= size
        ordered += [*head, *islice(rest, max(0, size - len(head)))]
    return [*ordered, *rest]
