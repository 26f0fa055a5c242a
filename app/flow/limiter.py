"""How many requests are worked on at once: a limit that finds the capacity by itself.

`next_limit` is pure: a state and what one window has measured give the next state. It compares the latency
with the one that the service has without a queue, as TCP Vegas does. That alone is not enough. At modest
overload the latency grows slowly, a moving baseline grows with it, and the limit climbs without end. So it
asks as well whether more work at once has brought more throughput, or only more latency: the slopes of both
over the last windows, in logarithms. Above the capacity the latency grows as the work does, below it stays.
The same slopes say that the service itself is slower: a lower limit does not make it faster then.

A probe is a little more or a little less of the limit, and never a drop to one. What comes beyond the limit
waits in a bounded queue meanwhile, and so a probe refuses nothing.

Who asks for much at once waits for himself: a free place is given to who holds the fewest, and it is he who
holds the most whose request is refused.
"""

import asyncio
import math
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from statistics import fmean, median

from app.kit.errors import AppError


class Priority(IntEnum):
    """What may be refused before what; a higher one is refused later."""

    HISTORY = 0
    LISTS = 1
    CREATION = 2
    NEVER = 3
    """What is not refused, and does not wait."""


@dataclass(frozen=True, kw_only=True)
class LimitOptions:
    """How a limit moves.

    Parameters:
        floor: the least that it may be.
        most: the most that it may be.
        initial: what it begins with.
        headroom: at most so many times what was really worked on at once: an unused limit says nothing of the
            capacity, and would let a burst in.
        tolerance: how many times the latency without a queue is taken for a queue.
        windows: how many windows the slopes are computed from.
        window_seconds: how long one window is at least.
        window_samples: how many requests it has at least.
    """

    floor: int = 4
    most: int = 200
    initial: int = 4
    headroom: float = 2.0
    tolerance: float = 1.6
    windows: int = 12
    window_seconds: float = 0.5
    window_samples: int = 40


@dataclass(frozen=True, kw_only=True)
class LoadWindow:
    """What was measured for a while.

    Parameters:
        seconds: how long.
        latency_seconds: the median of what has ended.
        completed: how many have ended.
        mean_inflight: how many were worked on, over time.
        most_inflight: how many were at most.
        was_full: whether anything had to wait for a place.
    """

    seconds: float
    latency_seconds: float
    completed: int
    mean_inflight: float
    most_inflight: int
    was_full: bool


@dataclass(frozen=True, kw_only=True)
class LimitState:
    """A limit, and what is remembered for the next one.

    Parameters:
        limit: how many may be worked on at once, with its fraction.
        baseline_seconds: the latency without a queue; None before the first window.
        points: of the last windows: work at once, throughput and latency, each as a logarithm.
        settling: in so many windows it is not lowered again: what it has done is not to be seen yet.
        searching: nothing has lowered it yet, so it grows faster.
        why: what moved it last, in a few words.
    """

    limit: float
    baseline_seconds: float | None = None
    points: tuple[tuple[float, float, float], ...] = ()
    settling: int = 0
    searching: bool = True
    why: str = "the beginning"


_LEAST_SPREAD = 0.08
"""Work at once that has varied less than this, as a logarithm, says nothing about slopes."""

_MUCH = 0.25
"""And so much is needed to know that less work would not make it faster."""

_DOWN, _UP = 0.5, 1 / 60
"""How much of a lower and of a higher latency the baseline takes over in a window."""

_CLEAR = 1.2
"""Up to so many times the baseline a latency is one without a queue."""

_ROOM = 1.1
"""How much more than what the latency without a queue would need is left after a decrease."""

_SATURATED = 0.85
"""A limit that is not used to this share on average bounds bursts, and makes no queue."""

_SETTLE_WINDOWS = 2

_FIRST_UPWARDS, _UPWARDS, _DOWNWARDS, _LEAST = 0.3, 0.05, 0.03, 0.8


def next_limit(state: LimitState, window: LoadWindow, options: LimitOptions) -> LimitState:
    """Return the state after one more window.

    Parameters:
        state: as it is.
        window: what was measured under it.
        options: how the limit moves.
    """
    points = (*state.points, _point(window))[-options.windows :]
    latency = _usual_latency(points)
    baseline = _baseline(state.baseline_seconds, latency, window)
    slopes = _slopes(points)
    if latency > _CLEAR * baseline and slopes is not None and slopes.spread > _MUCH and slopes.latency < 0.2:
        # Less work at once has not made it faster: the service itself takes longer.
        baseline, points = latency, points[-1:]
    growth = _FIRST_UPWARDS if state.searching else _UPWARDS
    limit, why = _moved(
        state.limit, window, latency / baseline, slopes, growth=growth, tolerance=options.tolerance
    )
    searching, settling = state.searching and limit >= state.limit, max(0, state.settling - 1)
    if limit < state.limit and settling:
        limit, why = state.limit, "settling"
    elif limit < state.limit:
        settling = _SETTLE_WINDOWS
    bounded = _bounded(limit, window, options)
    return LimitState(
        limit=bounded,
        baseline_seconds=baseline,
        points=points,
        settling=settling,
        searching=searching,
        why=why,
    )


def _moved(
    limit: float,
    window: LoadWindow,
    stretch: float,
    slopes: "_Slopes | None",
    *,
    growth: float,
    tolerance: float,
) -> tuple[float, str]:
    """Return the new limit before its bounds, and why. `stretch` is the latency over its baseline."""
    if not window.was_full:
        return limit, "not full"
    needed = limit * max(_ROOM / stretch, _LEAST)
    if stretch <= _CLEAR:
        return limit + max(1.0, growth * limit), "full, and no queue"
    if window.mean_inflight < _SATURATED * limit:
        return limit, "full for moments only"
    if stretch > tolerance:
        return needed, "a queue"
    if slopes is not None and slopes.latency > 0.5 > slopes.throughput:
        return min(limit, needed), "more at once brings no more"
    return limit * (1 - _DOWNWARDS), "perhaps a queue"


def _point(window: LoadWindow) -> tuple[float, float, float]:
    throughput = max(window.completed, 1) / window.seconds
    return (
        math.log(max(window.mean_inflight, 1e-3)),
        math.log(throughput),
        math.log(max(window.latency_seconds, 1e-6)),
    )


def _baseline(baseline: float | None, latency: float, window: LoadWindow) -> float:
    if baseline is None:
        return latency
    if latency < baseline:
        return baseline + _DOWN * (latency - baseline)
    # Under a full limit a higher latency may be of our own making.
    return baseline if window.was_full else baseline + _UP * (latency - baseline)


def _bounded(limit: float, window: LoadWindow, options: LimitOptions) -> float:
    most = max(window.most_inflight * options.headroom, options.floor)
    return float(min(max(limit, options.floor), most, options.most))


def _usual_latency(points: Sequence[tuple[float, float, float]]) -> float:
    """Return the middle one of the last three latencies: one slow window is none."""
    return math.exp(median(latency for _, _, latency in points[-3:]))


@dataclass(frozen=True)
class _Slopes:
    spread: float
    throughput: float
    latency: float


def _slopes(points: Sequence[tuple[float, float, float]]) -> _Slopes | None:
    """Compute how throughput and latency go with the work at once; None if that has hardly varied."""
    works = [work for work, _, _ in points]
    spread = max(works) - min(works)
    if len(points) < 4 or spread < _LEAST_SPREAD:
        return None
    middle = fmean(works)
    variance = sum((work - middle) ** 2 for work in works)

    def slope(number: int) -> float:
        return (
            sum((work - middle) * point[number] for work, point in zip(works, points, strict=True)) / variance
        )

    return _Slopes(spread, slope(1), slope(2))


class Shed(AppError):
    """Refused before anything was done, so that what matters more is done in time."""

    def __init__(self, priority: Priority, why: str, retry_after_seconds: float) -> None:
        self.priority = priority.name.lower()
        self.retry_after_seconds = retry_after_seconds
        super().__init__(
            f"{why}: history is refused first, then lists, then new orders; nothing of this was done: "
            f"repeat it, with the same Idempotency-Key if it has one, in {retry_after_seconds:g} seconds"
        )


RETRY_AFTER_SECONDS = 2.0

QUEUE_SHARES = {Priority.HISTORY: 0.25, Priority.LISTS: 0.5, Priority.CREATION: 1.0}
"""How full the queue may be for one more of a priority."""

LEAST_QUEUE = 16
QUEUE_FACTOR = 2
STANDING_SECONDS = 1.0
"""A queue that was not empty for so long is no burst: what has waited as long as it takes is refused. That
empties the queue, so it goes on until nothing was for `REST_SECONDS`, as in CoDel (RFC 8289)."""

PATIENCE = {Priority.HISTORY: 1.0, Priority.LISTS: 1.0, Priority.CREATION: 8.0}
"""How many times as long as it takes a request may wait then, by its priority. One of a caller who holds less
than another waits as long as the most important."""

REST_SECONDS = 1.0
"""What comes at once after so long without a queue is a burst. It finds a limit that was not used, which says
nothing against it: as many of it may wait as under a limit that is `BURST_FACTOR` times as high."""

BURST_FACTOR = 6


@dataclass(eq=False)
class _Waiter:
    priority: Priority
    subject: str
    since: float
    admitted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class AdaptiveLimiter:
    """Lets so many requests be worked on at once as `next_limit` finds; a few wait, the others are refused.

    Of what waits, the highest priority comes first, and of one priority who has the fewest worked on. One
    of a higher priority takes the place of the last one of a lower, and one of a caller who holds less that
    of the last one of who holds the most.
    """

    def __init__(
        self,
        options: LimitOptions | None = None,
        *,
        clock: Callable[[], float],
        max_wait_seconds: float = 1.0,
        changed: Callable[[LimitState], None] = lambda _state: None,
    ) -> None:
        """Make a limiter without any request.

        Parameters:
            options: how the limit moves.
            clock: monotonic seconds.
            max_wait_seconds: how long a request waits at most.
            changed: called with the state after each window.
        """
        self.options = options or LimitOptions()
        self.state = LimitState(limit=float(self.options.initial))
        self.inflight = 0
        self._clock = clock
        self._max_wait_seconds = max_wait_seconds
        self._changed = changed
        self._queues: dict[Priority, deque[_Waiter]] = {each: deque() for each in QUEUE_SHARES}
        self._working: Counter[str] = Counter()
        self._empty_at = self._since = self._counted_at = clock()
        self._waited_at, self._is_burst = -math.inf, False
        self._overstayed_at = -math.inf
        self._latencies: list[float] = []
        self._work, self._most, self._was_full = 0.0, 0, False

    @property
    def limit(self) -> int:
        """How many may be worked on at once."""
        return int(self.state.limit)

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return sum(map(len, self._queues.values()))

    @asynccontextmanager
    async def admitted(self, priority: Priority, subject: str = "") -> AsyncIterator[None]:
        """Wait for a place, and have it for the block.

        Parameters:
            priority: when it is refused.
            subject: who asks; places are shared among those that do.

        Raises:
            Shed: there is none; nothing of the block was done.
        """
        await self._enter(priority, subject)
        begun = self._clock()
        quick_counts = False
        try:
            yield
            quick_counts = True
        finally:
            seconds = self._clock() - begun
            # A refusal is quick, and says nothing of the load.
            is_counted = quick_counts or seconds > (self.state.baseline_seconds or 0)
            self._leave(subject, seconds if is_counted else None)

    async def _enter(self, priority: Priority, subject: str) -> None:
        if priority is not Priority.NEVER and self.inflight >= self.limit:
            await self._wait(priority, subject)  # who leaves has counted this one
        else:
            self._count(1, subject)

    def _count(self, change: int, subject: str) -> None:
        now = self._clock()
        self._working[subject] += change
        if not self._working[subject]:
            del self._working[subject]
        self._work += self.inflight * (now - self._counted_at)
        self._counted_at = now
        self.inflight += change
        self._most = max(self._most, self.inflight)

    async def _wait(self, priority: Priority, subject: str) -> None:
        now, self._was_full = self._clock(), True
        if not self.waiting:
            self._empty_at, self._is_burst = now, now - self._waited_at > REST_SECONDS
        self._waited_at = now
        self._make_room(priority, subject, now)
        waiter = _Waiter(priority, subject, now)
        self._queues[priority].append(waiter)
        try:
            async with asyncio.timeout(min(self._allowed_seconds(waiter, now), self._max_wait_seconds)):
                await waiter.admitted
        except BaseException as error:
            self._give_up(waiter)
            if isinstance(error, TimeoutError):
                self._overstayed_at = self._clock()
                raise self._shed(priority, "no place became free in time") from None
            raise

    def _allowed_seconds(self, waiter: _Waiter, now: float) -> float:
        """Return how long a request may wait: in a queue that does not stand, as long as it likes."""
        is_standing = now - self._empty_at > STANDING_SECONDS or now - self._overstayed_at < REST_SECONDS
        if not is_standing or self.state.baseline_seconds is None:
            return math.inf
        most = max(PATIENCE.values()) if self._has_less(waiter) else PATIENCE[waiter.priority]
        return most * self.state.baseline_seconds

    def _give_up(self, waiter: _Waiter) -> None:
        """Take a waiter out of its queue; a place that it got at this moment is another's."""
        if waiter in self._queues[waiter.priority]:
            self._queues[waiter.priority].remove(waiter)
        elif waiter.admitted.done() and not waiter.admitted.cancelled() and not waiter.admitted.exception():
            self._leave(waiter.subject, None)

    def _make_room(self, priority: Priority, subject: str, now: float) -> None:
        """Refuse the last one of the lowest priority, if the queue is as full as it may be for this one.

        Of the same priority it is the last one of the caller who holds the most, if that is not this one.
        """
        is_burst = self._is_burst and now - self._empty_at <= STANDING_SECONDS
        limit = min(BURST_FACTOR * self.limit, self.options.most) if is_burst else self.limit
        room = max(LEAST_QUEUE, QUEUE_FACTOR * limit)
        if self.waiting < QUEUE_SHARES[priority] * room:
            return
        for lower in Priority:
            if lower < priority and self._queues[lower]:
                self._refuse(self._queues[lower].pop(), "the queue is full")
                return
        queue, held = self._queues[priority], self._held()
        most = max(queue, key=lambda waiter: held[waiter.subject], default=None)
        if most is not None and held[most.subject] > held[subject] + 1:
            last = next(waiter for waiter in reversed(queue) if waiter.subject == most.subject)
            queue.remove(last)
            self._refuse(last, "the queue is full, and most of it is yours")
            return
        raise self._shed(priority, "the queue is full")

    def _held(self) -> Counter[str]:
        """Return how many each caller has worked on and waiting."""
        return self._working + Counter(waiter.subject for queue in self._queues.values() for waiter in queue)

    def _refuse(self, waiter: _Waiter, why: str) -> None:
        if not waiter.admitted.done():
            waiter.admitted.set_exception(self._shed(waiter.priority, why))

    def _shed(self, priority: Priority, why: str) -> Shed:
        return Shed(priority, why, RETRY_AFTER_SECONDS)

    def _leave(self, subject: str, seconds: float | None) -> None:
        self._count(-1, subject)
        if seconds is not None:
            self._latencies.append(seconds)
            self._end_window()
        self._admit()

    def _admit(self) -> None:
        """Hand the free places to those who wait, and refuse who has waited too long in a standing queue."""
        now = self._clock()
        if not self.waiting:
            self._empty_at = now
            return
        for priority in sorted(self._queues, reverse=True):
            queue = self._queues[priority]
            while queue and self.inflight < self.limit:
                waiter = self._next_of(queue)
                queue.remove(waiter)
                if waiter.admitted.done():
                    continue
                is_late = now - waiter.since > self._allowed_seconds(waiter, now)
                if is_late and not self._has_less(waiter):
                    self._overstayed_at = now
                    self._refuse(waiter, "there was a queue for longer than it takes")
                    continue
                self._count(1, waiter.subject)
                waiter.admitted.set_result(None)

    def _next_of(self, queue: deque[_Waiter]) -> _Waiter:
        """Return the first one of who has the fewest worked on; of several, of who waits for the fewest."""
        held = self._held()
        return min(queue, key=lambda each: (self._working[each.subject], held[each.subject]))

    def _has_less(self, waiter: _Waiter) -> bool:
        """Return whether a queue is not of this caller's making: another one holds more."""
        held = self._held()
        return held[waiter.subject] + 1 < max(held.values(), default=0)

    def _end_window(self) -> None:
        now, options = self._clock(), self.options
        seconds = now - self._since
        if seconds < options.window_seconds or len(self._latencies) < options.window_samples:
            return
        self._work += self.inflight * (now - self._counted_at)
        self._counted_at = now
        window = LoadWindow(
            seconds=seconds,
            latency_seconds=median(self._latencies),
            completed=len(self._latencies),
            mean_inflight=self._work / seconds,
            most_inflight=self._most,
            was_full=self._was_full,
        )
        self.state = next_limit(self.state, window, options)
        self._since, self._latencies, self._work = now, [], 0.0
        self._most, self._was_full = self.inflight, self.waiting > 0
        self._changed(self.state)
