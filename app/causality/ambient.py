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

    __slots__ = ("came", "learned", "token", "written")

    def __init__(self, came: CausalToken) -> None:
        self.came = came
        """What came with the request."""

        self.written = CausalToken()
        """What it has written. All of it comes after what came: a request brings what was acknowledged."""

        self.learned = CausalToken()
        """What others have told on the way."""

        self.token = came
        """All that a later read must have seen."""

    def gained(self) -> CausalToken:
        """Give what of the token did not come with the request."""
        came = self.came.positions
        gained = {name: at for name, at in self.token.positions.items() if came.get(name) != at}
        return CausalToken(gained)

    def put_together(self) -> None:
        """Set the token anew. Tasks of one request commit side by side: those commits are only merged."""
        self.token = self.came.followed_by(self.written).merge(self.learned)


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
    """Add what was written here; nothing happens outside of every block."""
    here = _HERE.get()
    if here is not None:
        here.written = here.written.merge(token)
        here.put_together()


def learn(token: CausalToken) -> None:
    """Add what others have written, before or after; nothing happens outside of every block."""
    here = _HERE.get()
    if here is not None:
        here.learned = here.learned.merge(token)
        here.put_together()


def follow_causality(cluster: Cluster) -> None:
    """Have the sessions of a cluster read after, and add to, the token of whatever they are used in."""
    cluster.carry(wanted=wanted, committed=note)
