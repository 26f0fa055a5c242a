"""Webhooks are sent: each event of an order goes to its partner's endpoints until it is taken.

Each event of a partner's order is a row on the order's shard (`app.partner_events`). The dispatcher makes a
delivery of it for each endpoint of the partner, and sends what is due. A delivery is put off before it is
sent, and deleted when it was taken: a process that is killed in between has it sent again, with the same id.
"""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

import structlog
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    ColumnElement,
    Select,
    any_,
    case,
    delete,
    func,
    literal,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import aliased

from app import instruments
from app.kit.tasks import sleep_unless
from app.mes.outgoing import (
    SendingFailed,
    WebhookSender,
    signature_headers,
)
from app.mes.webhook_endpoints import Endpoints, KnownEndpoint
from app.messaging.backoff import delay_seconds, repeat_with_backoff
from app.models.mes import WebhookDelivery, WebhookEvent
from partitions.advisory_lock import try_acquire_sql
from readreplica.errors import Unavailable, one_line
from readreplica.sessions import WriteSession
from sharding.sessions import ShardedSessions

TEST_TYPE = "webhook.test"
_LOCK = 0x776562686F6F6B
_BEGIN = select(literal_column(try_acquire_sql(str(_LOCK), until_commit=True), Boolean))
_GONE = 410
_PRUNE_SECONDS = 60.0
_AWAY = (SQLAlchemyError, Unavailable, OSError)

log: structlog.stdlib.BoundLogger = structlog.get_logger("webhooks")


class DueDelivery(NamedTuple):
    """A delivery that is to be sent now, with what it says."""

    order_id: int
    sequence: int
    endpoint_id: str
    owed_since: datetime
    attempts: int
    event_id: UUID
    type: str
    data: dict[str, object]
    at: datetime

    def body(self) -> bytes:
        """Return what is sent; of an event it is the same each time."""
        return body_of(self.type, self.at, self.data)


def body_of(type_: str, at: datetime, data: object) -> bytes:
    """Return the body of an event, as Standard Webhooks has it."""
    content = {"type": type_, "timestamp": at.isoformat(), "data": data}
    return json.dumps(content, separators=(",", ":")).encode()


@dataclass(frozen=True, kw_only=True)
class WebhookOptions:
    """How webhooks are sent.

    Parameters:
        poll_seconds: how long an event may lie before it is seen.
        first_retry_seconds: how long the first pause after a failure is; each is twice the one before.
        longest_retry_seconds: the longest pause.
        lease_seconds: when what a process was sending is sent again, if that process has died.
        dead_after: a delivery that has come to nothing for so long is a dead letter.
        disable_after: an endpoint to which nothing has come through for so long is disabled.
        keep: how long events are kept, so that they can be sent again.
        lanes: how much is sent to one endpoint at once. While it fails, it is one.
        most: how much is sent at once in all.
    """

    poll_seconds: float = 0.25
    first_retry_seconds: float = 5.0
    longest_retry_seconds: float = 4 * 3600.0
    lease_seconds: float = 60.0
    dead_after: timedelta = timedelta(days=3)
    disable_after: timedelta = timedelta(days=5)
    keep: timedelta = timedelta(days=7)
    lanes: int = 4
    most: int = 200


class Dispatcher:
    """Sends what the shards owe to endpoints. Several processes may; of each shard one claims at a time.

    An endpoint that is slow has its own few lanes: what it holds up is its own.
    """

    def __init__(
        self,
        sessions: ShardedSessions,
        endpoints: Endpoints,
        sender: WebhookSender,
        options: WebhookOptions | None = None,
        *,
        jitter: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a dispatcher; `run` starts it."""
        self._sessions = sessions
        self._endpoints = endpoints
        self._sender = sender
        self._options = options or WebhookOptions()
        self._jitter = jitter
        self._clock = clock
        self._known: dict[str, KnownEndpoint] = {}
        self._known_until = 0.0
        self._prune_next: dict[str, float] = {}
        self._refreshing = asyncio.Lock()
        self._failing: set[str] = set()
        self._running: Counter[str] = Counter()
        self._moved: set[int] = set()
        self._map_version = sessions.shard_map.version

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then finish what is being sent. Outages are waited out by shard."""
        async with asyncio.TaskGroup() as sendings, asyncio.TaskGroup() as shards:
            for shard in self._sessions.clusters:
                turn = partial(self._turn_or_rest, shard, sendings, stop)
                shards.create_task(repeat_with_backoff(turn, stop=stop, log=log.bind(database=shard)))

    async def _turn_or_rest(self, shard: str, sendings: asyncio.TaskGroup, stop: asyncio.Event) -> None:
        await self._refresh()
        claimed = await self.turn(shard)
        for due, endpoint in claimed:
            sendings.create_task(self._deliver(endpoint, due))
        if not claimed:
            await sleep_unless(stop, self._options.poll_seconds)

    async def _refresh(self) -> None:
        """Read the endpoints, about once in a second; while the directory is away, those that were known."""
        async with self._refreshing:
            if self._clock() < self._known_until:
                return
            await self._read_endpoints()
            self._known_until = self._clock() + 1.0

    async def _read_endpoints(self) -> bool:
        try:
            self._known = {each.endpoint_id: each for each in await self._endpoints.list()}
        except _AWAY as error:
            log.warning("webhooks_not_read", error=one_line(error))
            return False
        return True

    async def turn(self, shard: str) -> Sequence[tuple[DueDelivery, KnownEndpoint]]:
        """Make deliveries of the new events of a shard, and take those that are to be sent now."""

        async def work(session: WriteSession) -> list[tuple[DueDelivery, KnownEndpoint]]:
            if not await session.scalar(_BEGIN):
                return []
            await self._fan_out(session, shard)
            known, taken = self._known, list[DueDelivery]()
            while more := await self._claim(session, shard, known, taken):
                taken += more
            return [(each, known[each.endpoint_id]) for each in taken]

        if self._sessions.shard_map.version != self._map_version:
            self._map_version = self._sessions.shard_map.version
            self._moved.clear()
        taken = (await self._sessions.clusters[shard].transact(work)).value
        self._running.update(each.endpoint_id for each, _ in taken)
        await self._prune_at_times(shard)
        return taken

    def _own(self, shard: str, rows: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Leave out rows of buckets that have moved away: their copies are sent from where they are now."""
        own = []
        for order_id, sequence in rows:
            if self._sessions.shard_of(order_id) == shard:
                own.append((order_id, sequence))
            else:
                self._moved.add(sequence)
        return own

    async def _fan_out(self, session: WriteSession, shard: str) -> None:
        new = select(WebhookEvent.order_id, WebhookEvent.sequence).where(WebhookEvent.fanned_out_at.is_(None))
        if self._moved:
            new = new.where(WebhookEvent.sequence.not_in(self._moved))
        rows = (await session.execute(new.order_by(WebhookEvent.sequence).limit(200))).all()
        keys = self._own(shard, [(order_id, sequence) for order_id, sequence in rows])
        # Read behind the events: an endpoint that is older than one of them is among those.
        if not keys or not await self._read_endpoints():
            return
        taken = await session.execute(
            update(WebhookEvent)
            .where(*_these(WebhookEvent, keys), WebhookEvent.fanned_out_at.is_(None))
            .values(fanned_out_at=func.now())
            .returning(WebhookEvent.order_id, WebhookEvent.sequence, WebhookEvent.partner, WebhookEvent.type)
            .execution_options(synchronize_session=False)
        )
        owed = [
            {"order_id": order_id, "sequence": sequence, "endpoint_id": endpoint.endpoint_id}
            for order_id, sequence, partner, type_ in taken
            for endpoint in self._known.values()
            if endpoint.partner == partner and endpoint.wants(type_)
        ]
        if owed:
            await session.execute(insert(WebhookDelivery).values(owed).on_conflict_do_nothing())

    def _free_lanes(self, endpoint: KnownEndpoint, taken: Sequence[DueDelivery]) -> int:
        lanes = 1 if endpoint.endpoint_id in self._failing else self._options.lanes
        own = sum(each.endpoint_id == endpoint.endpoint_id for each in taken)
        return lanes - self._running[endpoint.endpoint_id] - own

    async def _claim(
        self,
        session: WriteSession,
        shard: str,
        known: Mapping[str, KnownEndpoint],
        taken: Sequence[DueDelivery],
    ) -> Sequence[DueDelivery]:
        """Take what is due to endpoints that have a lane free, and put it off: no one else sends it."""
        room = self._options.most - self._running.total() - len(taken)
        free = {
            each.endpoint_id: lanes
            for each in known.values()
            if each.disabled_at is None and (lanes := self._free_lanes(each, taken)) > 0
        }
        if room <= 0 or not free:
            return []
        due = [DueDelivery._make(row) for row in await session.execute(_due(free, self._moved, limit=room))]
        own = set(self._own(shard, [(each.order_id, each.sequence) for each in due]))
        claimed: list[DueDelivery] = []
        for each in due:
            if (each.order_id, each.sequence) in own and free[each.endpoint_id] > 0:
                free[each.endpoint_id] -= 1
                claimed.append(each)
        for endpoint_id in sorted({each.endpoint_id for each in claimed}):
            keys = [(each.order_id, each.sequence) for each in claimed if each.endpoint_id == endpoint_id]
            await session.execute(
                update(WebhookDelivery)
                .where(*_these(WebhookDelivery, keys), WebhookDelivery.endpoint_id == endpoint_id)
                .values(
                    attempts=WebhookDelivery.attempts + 1,
                    next_attempt_at=func.now() + timedelta(seconds=self._options.lease_seconds),
                )
                .execution_options(synchronize_session=False)
            )
        return claimed

    async def _deliver(self, endpoint: KnownEndpoint, due: DueDelivery) -> None:
        """Send one delivery, and write down what came of it. Should that fail, the delivery comes again."""
        said = {"order_id": due.order_id, "endpoint": endpoint.endpoint_id, "attempt": due.attempts + 1}
        try:
            try:
                await send(self._sender, endpoint, event_id=str(due.event_id), body=due.body())
            except SendingFailed as error:
                instruments.webhook_sent("failed")
                log.warning("webhook_not_delivered", **said, error=str(error))
                await self._failed(endpoint, due, error)
            else:
                instruments.webhook_sent("delivered")
                await self._sessions.transact(due.order_id, partial(_settle, due))
                await self._succeeded(endpoint, due)
        except _AWAY as error:
            log.error("webhook_not_settled", **said, error=one_line(error))
        finally:
            self._running[endpoint.endpoint_id] -= 1

    async def _succeeded(self, endpoint: KnownEndpoint, due: DueDelivery) -> None:
        # What was tried before may have failed in another process, a moment ago.
        is_again = due.attempts > 0
        if is_again or endpoint.failing_since is not None or endpoint.endpoint_id in self._failing:
            self._failing.discard(endpoint.endpoint_id)
            await self._endpoints.note_success(endpoint.endpoint_id)

    async def _failed(self, endpoint: KnownEndpoint, due: DueDelivery, error: SendingFailed) -> None:
        self._failing.add(endpoint.endpoint_id)
        options = self._options
        pause = delay_seconds(
            due.attempts + 1,
            base_seconds=options.first_retry_seconds,
            cap_seconds=options.longest_retry_seconds,
            jitter=self._jitter(),
        )
        put_off = partial(_put_off, due, error=str(error), seconds=pause, dead_after=options.dead_after)
        if (await self._sessions.transact(due.order_id, put_off)).value:
            instruments.webhook_dead()
            log.error("webhook_dead", order_id=due.order_id, endpoint=endpoint.endpoint_id, error=str(error))
        # By 410 a receiver says that it wants no more.
        patience = timedelta(0) if error.status == _GONE else options.disable_after
        if await self._endpoints.note_failure(endpoint.endpoint_id, str(error), disable_after=patience):
            instruments.webhook_disabled()
            log.error("webhook_disabled", endpoint=endpoint.endpoint_id, error=str(error))

    async def _prune_at_times(self, shard: str) -> None:
        """Forget old events, in slices: one each time, at intervals once there are no more."""
        if self._clock() >= self._prune_next.get(shard, 0.0):
            prune = partial(prune_events, self._options.keep)
            pruned = (await self._sessions.clusters[shard].transact(prune)).value
            self._prune_next[shard] = 0.0 if pruned else self._clock() + _PRUNE_SECONDS


def _due(free: Iterable[str], moved: Iterable[int], *, limit: int) -> Select[Any]:
    """Select what is due, of each order and endpoint the oldest alone: later ones wait for its end."""
    older = aliased(WebhookDelivery)
    before = select(older.sequence).where(
        older.endpoint_id == WebhookDelivery.endpoint_id,
        older.order_id == WebhookDelivery.order_id,
        older.dead_at.is_(None),
        older.sequence < WebhookDelivery.sequence,
    )
    return (
        select(
            WebhookDelivery.order_id,
            WebhookDelivery.sequence,
            WebhookDelivery.endpoint_id,
            WebhookDelivery.created_at,
            WebhookDelivery.attempts,
            WebhookEvent.event_id,
            WebhookEvent.type,
            WebhookEvent.data,
            WebhookEvent.created_at,
        )
        .join(
            WebhookEvent,
            (WebhookEvent.order_id == WebhookDelivery.order_id)
            & (WebhookEvent.sequence == WebhookDelivery.sequence),
        )
        .where(
            WebhookDelivery.dead_at.is_(None),
            WebhookDelivery.next_attempt_at <= func.now(),
            WebhookDelivery.endpoint_id.in_(list(free)),
            WebhookDelivery.sequence.not_in(list(moved)),
            ~before.exists(),
        )
        .order_by(WebhookDelivery.next_attempt_at)
        .limit(limit)
    )


def _these(
    table: type[WebhookEvent | WebhookDelivery], keys: Sequence[tuple[int, int]]
) -> Sequence[ColumnElement[bool]]:
    """Return the condition that a row is one of these; by its order, Citus knows on which shard it is."""
    return [
        table.order_id == any_(literal([order_id for order_id, _ in keys], ARRAY(BigInteger))),
        table.sequence == any_(literal([sequence for _, sequence in keys], ARRAY(BigInteger))),
    ]


def _delivery(due: DueDelivery) -> Sequence[ColumnElement[bool]]:
    return [
        WebhookDelivery.order_id == due.order_id,
        WebhookDelivery.sequence == due.sequence,
        WebhookDelivery.endpoint_id == due.endpoint_id,
    ]


async def _settle(due: DueDelivery, session: WriteSession) -> None:
    await session.execute(delete(WebhookDelivery).where(*_delivery(due)))


async def _put_off(
    due: DueDelivery, session: WriteSession, *, error: str, seconds: float, dead_after: timedelta
) -> bool:
    """Note a failure, and when it is tried again; return whether it is not: it is a dead letter."""
    is_over = WebhookDelivery.created_at <= func.now() - dead_after
    put_off = (
        update(WebhookDelivery)
        .where(*_delivery(due))
        .values(
            next_attempt_at=func.now() + timedelta(seconds=seconds),
            error=error,
            dead_at=case((is_over, func.now())),
        )
        .returning(WebhookDelivery.dead_at)
        .execution_options(synchronize_session=False)
    )
    return await session.scalar(put_off) is not None


async def prune_events(keep: timedelta, session: WriteSession) -> int:
    """Forget a slice of the events that are older, and what is owed of them; return how many these were."""
    old = WebhookEvent.created_at < func.now() - keep
    keys = [
        (order_id, sequence)
        for order_id, sequence in await session.execute(
            select(WebhookEvent.order_id, WebhookEvent.sequence).where(old).limit(1000)
        )
    ]
    if keys:
        gone = delete(WebhookDelivery).where(*_these(WebhookDelivery, keys))
        await session.execute(gone.execution_options(synchronize_session=False))
        gone = delete(WebhookEvent).where(*_these(WebhookEvent, keys))
        await session.execute(gone.execution_options(synchronize_session=False))
    return len(keys)


async def send(sender: WebhookSender, endpoint: KnownEndpoint, *, event_id: str, body: bytes) -> int:
    """Send a body to an endpoint, signed for it; return the status by which it was taken.

    Raises:
        SendingFailed: it was not taken.
    """
    headers = signature_headers(endpoint.secret, event_id=event_id, timestamp=round(time.time()), body=body)
    return await sender.post(endpoint.url, headers=headers, body=body)
