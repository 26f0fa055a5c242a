"""Which of the nodes that are fit answers: the least loaded, by turns among equals. Pure."""

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def in_order_of_load(nodes: Sequence[T], *, turn: int, load: Callable[[T], int]) -> Sequence[T]:
    """Order nodes so that the least loaded is first.

    Parameters:
        nodes: those that are fit.
        turn: a number that grows by one with each read; it decides among equals.
        load: how many connections of this process a node serves now.
    """
    if len(nodes) < 2:
        return nodes
    first = turn % len(nodes)
    # Sorting keeps the order of equals.
    return sorted([*nodes[first:], *nodes[:first]], key=load)
