"""The causal token of the request, or the message, that is being worked on.

Tasks that a request starts share what it has: their reads see what it has written, and their commits count
as its own. Another request's task has another context, and so another token.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import reduce
from typing import Protocol

from readreplica.token import CausalToken


class TokenHooks(Protocol):
    """What of a cluster, of asyncio or of threads, is needed here."""

    def set_token_hooks(
        self,
        *,
        before_read: Callable[[], CausalToken | None],
        after_commit: Callable[[CausalToken], None],
    ) -> None:
        """Have each read and each commit call these."""


class Causality:
    """What one request must see, and what it has written so far."""

    __slots__ = ("came", "learned", "token", "written")

    def __init__(self, came: CausalToken) -> None:
        self.came = came
        """What came with the request."""

        self.written: dict[object, CausalToken] = {}
        """What each of its tasks has written: all of it after what came, which was acknowledged by then."""

        self.learned = CausalToken()
        """What messages and calls to other services have brought meanwhile."""

        self.token = came
        """All that a later read must have seen."""

    @property
    def gained(self) -> CausalToken:
        """What of the token the request did not bring: what it has written, and learned on the way."""
        came = self.came.positions
        gained = {name: at for name, at in self.token.positions.items() if came.get(name) != at}
        return CausalToken(gained)

    def write(self, token: CausalToken) -> None:
        """Add a commit. A task's own come one after the other, those of several tasks side by side."""
        who = _who()
        self.written[who] = self.written.get(who, CausalToken()).followed_by(token)
        self._put_together()

    def learn(self, token: CausalToken) -> None:
        """Add what may be older than anything here."""
        self.learned = self.learned.merge(token)
        self._put_together()

    def _put_together(self) -> None:
        written = reduce(CausalToken.merge, list(self.written.values()), CausalToken())
        self.token = self.came.followed_by(written).merge(self.learned)


def _who() -> object:
    try:
        return asyncio.current_task()
    except RuntimeError:  # a thread without a loop
        return threading.get_ident()


_HERE: ContextVar[Causality | None] = ContextVar("causality", default=None)


@contextmanager
def causality(came: CausalToken) -> Iterator[Causality]:
    """Make every read of the block see what `came` names, and collect what the block writes."""
    here = Causality(came)
    before = _HERE.set(here)
    try:
        yield here
    finally:
        _HERE.reset(before)


def required_token() -> CausalToken | None:
    """Return what a read must have seen here; None outside of every block."""
    here = _HERE.get()
    return here.token if here is not None else None


def has_written() -> bool:
    """Return whether a commit was made here, or may have been; False outside of every block."""
    here = _HERE.get()
    return here is not None and bool(here.written)


def record_commit(token: CausalToken) -> None:
    """Add what was written or learned here; nothing happens outside of every block."""
    here = _HERE.get()
    if here is not None:
        here.write(token)


def learn(token: CausalToken) -> None:
    """Add what others have written, before or after; nothing happens outside of every block."""
    here = _HERE.get()
    if here is not None:
        here.learn(token)


def follow_causality(*clusters: TokenHooks) -> None:
    """Set clusters' token hooks: their sessions read after the token of their request, and add to it."""
    for cluster in clusters:
        cluster.set_token_hooks(before_read=required_token, after_commit=record_commit)
