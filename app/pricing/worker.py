"""The pricing worker: takes jobs from all shards in turn, and gives back what it cannot finish."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

import structlog
from opentelemetry.trace import Span, SpanKind, StatusCode

from app.files import FilesUnavailable
from app.flow.turns import ShardTurns
from app.kit.tasks import sleep_unless
from app.kit.telemetry import cause_of, working
from app.messaging.backoff import repeat_with_backoff
from app.pricing import jobs
from app.pricing.cache import DATABASE_AWAY
from app.pricing.errors import BadRate, SandboxUnavailable
from app.pricing.jobs import Lease
from app.pricing.pricer import Pricer
from readreplica.errors import is_unsupported, one_line
from readreplica.sessions import WriteSession
from readreplica.token import CausalToken, Committed
from sharding.sessions import ShardedSessions

T = TypeVar("T")

log: structlog.stdlib.BoundLogger = structlog.get_logger("pricing")

OUTAGES = (*DATABASE_AWAY, FilesUnavailable, SandboxUnavailable, BadRate)
"""The same, for work that reads and measures model files, and the price list, as well."""


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """How the worker works.

    Parameters:
        concurrency: orders at once; one measurement keeps one core busy.
        poll_seconds: how long a new job may lie before it is seen.
        lease_seconds: after how long others take the job of a worker that is dead or frozen. One at work
            renews its lease three times as often.
        watch_seconds: how often it is looked whether the job still stands. When it is seen twice that it does
            not, such as after a cancellation, the work ends.
        answer_seconds: how long a shard may take to say which job is its first; then those of the others are
            done.
        retry_seconds: how long a job rests after an attempt that came to nothing.
        stop_seconds: how long orders in hand may take once the worker is to stop.
    """

    concurrency: int = 2
    poll_seconds: float = 0.2
    lease_seconds: float = 4.0
    watch_seconds: float = 0.3
    answer_seconds: float = 1.0
    retry_seconds: float = 5.0
    stop_seconds: float = 10.0


class Interruption(Enum):
    """Why an attempt ends before its end: the worker stops, or the job is another's or was dropped."""

    STOP = auto()
    NOT_OURS = auto()


class _Interruptible:
    """A block that other tasks may end: what it waits for is cancelled, and a measurement so killed."""

    interruption: Interruption | None = None

    async def __aenter__(self) -> Self:
        self._timeout = asyncio.timeout(None)
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            return self.interruption is not None
        return False

    def interrupt(self, why: Interruption) -> None:
        """End the block at what it waits for; once its end has come, this does nothing."""
        if self.interruption is None:
            self.interruption = why
            self._timeout.reschedule(asyncio.get_running_loop().time())


class Worker:
    """Prices the submitted orders of every shard. Any number of workers may run side by side."""

    def __init__(
        self, sessions: ShardedSessions, pricer: Pricer, *, holder: str, options: WorkerOptions | None = None
    ) -> None:
        """Make a worker; `run` starts it.

        Parameters:
            sessions: the MES shards.
            pricer: prices one order.
            holder: the worker's name on its leases.
            options: how it works.
        """
        self._sessions = sessions
        self._pricer = pricer
        self._holder = holder
        self._options = options or WorkerOptions()
        self._turns = ShardTurns()
        self._shards_away: set[str] = set()
        # By shard and lane.
        self._unanswered: dict[tuple[str, str], asyncio.Task[Committed[float | None] | None]] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, and then give back what cannot be finished in time.

        Raises:
            ExceptionGroup: the server does not support one of our statements. That is no outage: the process
                ends with it, and does not idle unseen.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                for lane in range(self._options.concurrency):
                    step = partial(self._step, f"lane {lane}", stop)
                    tasks.create_task(repeat_with_backoff(step, stop=stop, log=log, ends_on=is_unsupported))
        finally:
            left = list(self._unanswered.values())
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _step(self, lane: str, stop: asyncio.Event) -> None:
        """Price one order, or wait a little if no shard has any."""
        leased = await self._lease(lane)
        if leased is None:
            if not await self._show(stop):
                await sleep_unless(stop, self._options.poll_seconds)
            return
        held = leased.value
        context, links = cause_of(held.traceparent, is_fresh=held.is_fresh)
        with (
            structlog.contextvars.bound_contextvars(order_id=held.order_id),
            working(
                "price order",
                kind=SpanKind.CONSUMER,
                order_id=str(held.order_id),
                context=context,
                links=links,
                attributes={"mes_storage.attempt": held.attempt},
            ) as span,
        ):
            await self._work_on(held, leased.token, stop, span)

    async def _show(self, stop: asyncio.Event) -> bool:
        """Make what is shown of one model, unless there is none, or the worker stops meanwhile."""
        showing, stopping = asyncio.create_task(self._pricer.show_next()), asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({showing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return showing.done() and showing.result()
        except OUTAGES as error:
            log.warning("preview_not_made", error=one_line(error))
            return False
        finally:
            for task in (showing, stopping):
                task.cancel()
            await asyncio.gather(showing, stopping, return_exceptions=True)

    async def _work_on(self, held: Lease, after: CausalToken, stop: asyncio.Event, span: Span) -> None:
        """Price a leased order, and keep the lease meanwhile; give it back where there is no time left."""
        async with _Interruptible() as attempt:
            beside = [
                asyncio.create_task(self._hurry(stop, attempt)),
                asyncio.create_task(self._keep(held, attempt)),
            ]
            try:
                await self._price(held, after, span)
            finally:
                for task in beside:
                    task.cancel()
        if attempt.interruption is Interruption.STOP:
            await self._give_back(held, "the worker stops", rest_seconds=0, counted=False)
        elif attempt.interruption is Interruption.NOT_OURS:
            log.info("pricing_abandoned", attempt=held.attempt)

    async def _hurry(self, stop: asyncio.Event, attempt: "_Interruptible") -> None:
        await stop.wait()
        await asyncio.sleep(self._options.stop_seconds)
        attempt.interrupt(Interruption.STOP)

    async def _keep(self, held: Lease, attempt: "_Interruptible") -> None:
        """Renew a lease while its order is worked on, and end the work once the job is another's or gone.

        It is looked twice: the job of an order that was settled is gone as well, an instant before the answer
        to COMMIT. A lease that is lost unseen settles nothing, which `finish` sees to.
        """
        clock = asyncio.get_running_loop().time
        renew = partial(jobs.renew, held=held, lease_seconds=self._options.lease_seconds)
        look, due, missed, is_away = partial(jobs.is_held, held=held), clock(), 0, False
        while missed < 2:
            # Whether it is gone is asked again at once: the one who cancels waits for its end.
            await asyncio.sleep(self._options.watch_seconds / (4 if missed else 1))
            is_due = clock() >= due
            try:
                stands = (await self._sessions.transact(held.order_id, renew if is_due else look)).value
            except OUTAGES as error:
                if not is_away:  # once for each outage
                    log.error("lease_not_renewed", error=one_line(error))
                is_away = True
                continue
            is_away, missed = False, 0 if stands else missed + 1
            if is_due:
                due = clock() + self._options.lease_seconds / 3
        attempt.interrupt(Interruption.NOT_OURS)

    async def _lease(self, lane: str) -> Committed[Lease] | None:
        """Ask the shards for a job, the one first whose turn it is."""
        shards = list(self._sessions.clusters)
        positions = await asyncio.gather(*(self._first(shard, lane) for shard in shards))
        firsts = {
            shard: found.value
            for shard, found in zip(shards, positions, strict=True)
            if found is not None and found.value is not None
        }
        take = partial(jobs.lease, holder=self._holder, lease_seconds=self._options.lease_seconds)
        for shard in self._turns.order(firsts):
            leased = await self._ask(shard, take)
            if leased is not None and leased.value is not None:
                self._turns.took(shard, firsts[shard])
                return Committed(leased.value, leased.token)
        return None

    async def _first(self, shard: str, lane: str) -> Committed[float | None] | None:
        """Ask a shard for its first position. One that is frozen is not waited for, by no one's order."""
        if (shard, lane) in self._unanswered:
            return None
        asked = asyncio.create_task(self._ask(shard, jobs.first))
        self._unanswered[shard, lane] = asked
        asked.add_done_callback(lambda _: self._unanswered.pop((shard, lane)))
        done, _ = await asyncio.wait({asked}, timeout=self._options.answer_seconds)
        return asked.result() if done else None

    async def _ask(self, shard: str, work: Callable[[WriteSession], Awaitable[T]]) -> Committed[T] | None:
        """Run a unit on one shard. One that is away costs a log line, and not the others' orders."""
        try:
            answer = await self._sessions.clusters[shard].transact(work)
        except OUTAGES as error:
            if is_unsupported(error):
                raise
            if shard not in self._shards_away:
                log.error("shard_away", shard=shard, error=one_line(error))
                self._shards_away.add(shard)
            return None
        if shard in self._shards_away:
            log.info("shard_back", shard=shard)
            self._shards_away.remove(shard)
        return answer

    async def _price(self, held: Lease, after: CausalToken, span: Span) -> None:
        rest_seconds = self._options.retry_seconds
        try:
            if not await self._pricer.price(held, after=after):
                await self._give_back(held, "no answer yet", rest_seconds=rest_seconds, counted=True)
        except OUTAGES as error:
            log.error("pricing_interrupted", attempt=held.attempt, error=one_line(error))
            await self._give_back(held, one_line(error), rest_seconds=rest_seconds, counted=False)
            if is_unsupported(error):
                raise
        except Exception as error:
            span.set_status(StatusCode.ERROR)
            log.exception("pricing_failed", attempt=held.attempt)
            await self._give_back(held, repr(error), rest_seconds=rest_seconds, counted=True)

    async def _give_back(self, held: Lease, why: str, *, rest_seconds: float, counted: bool) -> None:
        """End a lease; should that fail too, it expires by itself."""
        log.warning("job_given_back", attempt=held.attempt, why=why, counted=counted)
        release = partial(jobs.give_back, held=held, rest_seconds=rest_seconds, counted=counted)
        try:
            await self._sessions.transact(held.order_id, release)
        except OUTAGES as error:
            log.error("job_not_given_back", error=one_line(error))
