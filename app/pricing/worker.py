"""The pricing worker: takes jobs from all shards in turn, and gives back what it cannot finish."""

import asyncio
from dataclasses import dataclass
from functools import partial

import structlog
from opentelemetry.trace import Span, SpanKind, StatusCode

from app.files import FilesUnavailable
from app.kit.tasks import sleep_unless
from app.kit.telemetry import cause_of, working
from app.messaging.backoff import repeat_with_backoff
from app.pricing import jobs
from app.pricing.cache import DATABASE_AWAY
from app.pricing.errors import BadRate, SandboxUnavailable
from app.pricing.jobs import Lease
from app.pricing.pricer import Pricer
from readreplica.errors import is_unsupported, one_line
from readreplica.token import CausalToken, Committed
from sharding.sessions import ShardedSessions

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
        retry_seconds: how long a job rests after an attempt that came to nothing.
        stop_seconds: how long orders in hand may take once the worker is to stop.
    """

    concurrency: int = 2
    poll_seconds: float = 0.2
    lease_seconds: float = 15.0
    retry_seconds: float = 5.0
    stop_seconds: float = 10.0


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
        self._turn = 0
        self._shards_away: set[str] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, and then give back what cannot be finished in time.

        Raises:
            ExceptionGroup: the server does not support one of our statements. That is no outage: the process
                ends with it, and does not idle unseen.
        """
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._options.concurrency):
                tasks.create_task(
                    repeat_with_backoff(partial(self._step, stop), stop=stop, log=log, ends_on=is_unsupported)
                )

    async def _step(self, stop: asyncio.Event) -> None:
        """Price one order, or wait a little if no shard has any."""
        leased = await self._lease()
        if leased is None:
            await sleep_unless(stop, self._options.poll_seconds)
            return
        with structlog.contextvars.bound_contextvars(order_id=leased.value.order_id):
            await self._work_on(leased.value, leased.token, stop)

    async def _work_on(self, held: Lease, after: CausalToken, stop: asyncio.Event) -> None:
        """Price a leased order, and renew the lease meanwhile; give it back where there is no time left."""
        try:
            async with asyncio.timeout(None) as patience:
                beside = [
                    asyncio.create_task(self._hurry(stop, patience)),
                    asyncio.create_task(self._keep(held)),
                ]
                try:
                    await self._attempt(held, after)
                finally:
                    for task in beside:
                        task.cancel()
        except TimeoutError:
            await self._give_back(held, "the worker stops", rest_seconds=0, counted=False)

    async def _hurry(self, stop: asyncio.Event, patience: asyncio.Timeout) -> None:
        await stop.wait()
        patience.reschedule(asyncio.get_running_loop().time() + self._options.stop_seconds)

    async def _keep(self, held: Lease) -> None:
        """Renew a lease while its order is worked on. One that is lost all the same settles nothing."""
        renew = partial(jobs.renew, held=held, lease_seconds=self._options.lease_seconds)
        while True:
            await asyncio.sleep(self._options.lease_seconds / 3)
            try:
                if not (await self._sessions.transact(held.order_id, renew)).value:
                    return  # it is settled, or another worker has it, which `finish` finds out
            except OUTAGES as error:
                log.error("lease_not_renewed", error=one_line(error))

    async def _lease(self) -> Committed[Lease] | None:
        """Ask the shards for a job, each time beginning with the next one."""
        shards = sorted(self._sessions.clusters)
        self._turn += 1
        for offset in range(len(shards)):
            leased = await self._lease_on(shards[(self._turn + offset) % len(shards)])
            if leased is not None:
                return leased
        return None

    async def _lease_on(self, shard: str) -> Committed[Lease] | None:
        """Take a job from one shard. One that is away costs a log line, and not the others' orders."""
        take = partial(jobs.lease, holder=self._holder, lease_seconds=self._options.lease_seconds)
        try:
            leased = await self._sessions.clusters[shard].transact(take)
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
        return None if leased.value is None else Committed(leased.value, leased.token)

    async def _attempt(self, held: Lease, after: CausalToken) -> None:
        """Price a leased order; in the end it is settled, given back, or its lease expires."""
        context, links = cause_of(held.traceparent, is_fresh=held.is_fresh)
        with working(
            "price order",
            kind=SpanKind.CONSUMER,
            order_id=str(held.order_id),
            context=context,
            links=links,
            attributes={"mes_storage.attempt": held.attempt},
        ) as span:
            await self._price(held, after, span)

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
