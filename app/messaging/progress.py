"""How far a relay has looked: what is behind that mark is read seldom, and what is in front of it each time.

The rows of acknowledged messages stay in the table and its indexes until VACUUM may remove them, and as long
as any transaction is open it may not. A relay that reads from the beginning walks over all of them each time.
So it begins at a mark: the number up to which it had claimed a second ago. Numbers are given before their
transactions commit, so a row may come behind the mark: within the second it is found at once, later by a look
at everything. Such a look takes a small share of the time only, however long it takes.
"""

from collections import deque
from collections.abc import Callable, Collection, Sequence
from time import monotonic

from app.messaging.message import Dispatch
from app.messaging.outbox import Range

_LOOKING_SHARE = 20
"""A look at everything is followed by so many times its own duration without one."""

_MOST_KEPT = 1000
"""So many orders are kept whose next message may go; a look at everything finds those of the others."""


class Progress:
    """The mark of one destination. It holds nothing that a relay which begins anew would miss."""

    def __init__(
        self,
        *,
        look_seconds: float,
        late_seconds: float = 1.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Begin at the first message.

        Parameters:
            look_seconds: from one look at everything to the next, at least; 0: all are.
            late_seconds: how late a row may commit after its number was given, to be found at once.
            clock: a monotonic clock, in seconds.
        """
        self._look_seconds = look_seconds
        self._late_seconds = late_seconds
        self._clock = clock
        self._mark = -1
        self._newest = -1
        self._seen: deque[tuple[float, int]] = deque()
        self._successors_of: set[int] = set()
        self._look_next = clock()
        self._began = clock()

    def begin(self, successors_of: Collection[int]) -> Range:
        """Return what the claim that begins now looks at.

        Parameters:
            successors_of: orders of which a message to this destination was just acknowledged.
        """
        self._began = self._clock()
        self.postpone(successors_of)
        while self._seen and self._seen[0][0] <= self._began - self._late_seconds:
            self._mark = self._seen.popleft()[1]
        return Range(
            after=self._mark,
            successors_of=tuple(self._successors_of),
            is_look=self._began >= self._look_next,
        )

    def postpone(self, successors_of: Collection[int]) -> None:
        """Keep orders of which a message was just acknowledged for the next claim: none is made now."""
        if len(self._successors_of) < _MOST_KEPT:
            self._successors_of.update(successors_of)

    def end(self, looked_at: Range, claimed: Sequence[Dispatch], *, is_cut: bool, is_limited: bool) -> None:
        """Go on from what was claimed.

        Parameters:
            looked_at: what `begin` has said.
            claimed: the messages that were claimed.
            is_cut: there may be more.
            is_limited: no more could have been taken, for want of an allowance.
        """
        now = self._clock()
        new = [each.sequence for each in claimed if each.attempt == 1 and each.sequence > self._mark]
        self._newest = max(self._newest, *(each.sequence for each in claimed), -1)
        if looked_at.is_look:
            spent = now - self._began
            is_look_cut = is_cut and not is_limited and not new
            pause = max(self._look_seconds, (1 if is_look_cut else _LOOKING_SHARE) * spent)
            self._look_next = now + (pause if self._look_seconds else 0.0)
        if is_cut:
            # These were claimed in the order of their numbers.
            self._reach(max(new, default=-1))
        else:
            self._successors_of.clear()
            self._reach(self._newest)

    def _reach(self, sequence: int) -> None:
        """Note that what has a lower number and was there is claimed."""
        if sequence > (self._seen[-1][1] if self._seen else self._mark):
            self._seen.append((self._began, sequence))
