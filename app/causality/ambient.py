"""The causal token of the request, or the message, that is being worked on.

Tasks that a request starts share what it has: their reads see what it has written, and their commits count
as its own. Another request's task has another context, and so another token.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from readreplica.cluster import Cluster
from readreplica.token import CausalToken


class Causality:
    """What one request must see, and what it has written so far."""

    __slots__ = ("gained", "token")

    def __init__(self, came: CausalToken) -> None:
        self.token = came
        """All that a later read must have seen: what came with the request, and what it has written."""

        self.gained = CausalToken()
        """What of it the request did not bring: what it has written, and learned on the way."""


_HERE: ContextVar[Causality | None] = ContextVar("causality", default=None)


@contextmanager
def causality(came: CausalToken) -> Iterator[Causality]:
    """Have every read of the block see what `came` names, and collect what the block writes."""
    here = Causality(came)
    before = _HERE.set(here)
    try:
        yield here
    finally:
        _HERE.reset(before)


def wanted() -> CausalToken | None:
    """Give what a read must have seen here; None outside of every block."""
    here = _HERE.get()
    return here.token if here is not None else None


def note(token: CausalToken) -> None:
    """Add what was written or learned here; nothing happens outside of every block."""
    here = _HERE.get()
    if here is None or (merged := here.token.merge(token)) == here.token:
        return
    here.token = merged
    here.gained = here.gained.merge(token)


def follow_causality(cluster: Cluster) -> None:
    """Have the sessions of a cluster read after, and add to, the token of whatever they are used in."""
    cluster.carry(wanted=wanted, committed=note)
