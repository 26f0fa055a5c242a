"""The receiving side: what was handled, written in the handler's own transaction, and pruned later.

A message comes again as long as its outbox has it, and the relay sends the next message of an order only when
the one before is out of the outbox. So the receipt of a later message from the same source, about the same
order, proves that the earlier ones are never sent again; and copies that were under way by then are refused
once they are a day old. The last message of each order and source has no such proof,
and stays: its relay may have been away ever since.
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import structlog
from opentelemetry.metrics import get_meter
from sqlalchemy import delete, func, select, tuple_
from sqlalchemy.dialects.postgresql import insert

from app.kit.tasks import sleep_unless
from app.messaging.backoff import repeat_with_backoff
from app.messaging.errors import NotYet
from app.messaging.message import Message
from app.models.base import InboxRow
from readreplica.cluster import Cluster
from readreplica.sessions import WriteSession

LONGEST_COPY = timedelta(days=1)
"""How old a copy of a message may be when it is handled. `Pruner` counts on it."""

CLOCK_STEP = timedelta(minutes=10)
"""Of two messages that were received within this, it is unknown which was first: a clock may have stepped
back, or a failover brought another one."""

# What Python has in every time zone.
_FIRST, _LAST = datetime(2, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)

_meter = get_meter("app.messaging")
_pruned = _meter.create_counter("app.inbox.pruned", unit="{message}")
_kept = _meter.create_gauge("app.inbox.kept", unit="{message}")


async def record(session: WriteSession, inbox: type[InboxRow], message: Message) -> bool:
    """Note that `message` is handled by this transaction; False if another one has handled it.

    Should another transaction be handling it right now, this waits until that one has ended.

    Raises:
        NotYet: the copy is too old; a process may have slept with it. What is owed still is sent again.
    """
    row = {
        "order_id": message.order_id,
        "message_id": message.id,
        "source": message.source,
        "type": message.type,
    }
    written = await session.execute(
        insert(inbox).values(row).on_conflict_do_nothing().returning(inbox.message_id)
    )
    if written.first() is None:
        return False
    if message.sent is not None and await _now(session) - message.sent > LONGEST_COPY:
        raise NotYet(message.order_id, waits_for="a copy of the message that is not so old")
    return True


async def _now(session: WriteSession) -> datetime:
    """Return the time after the row was written, not of the transaction, which may have begun long before.

    In a statement of its own: Citus has no volatile function in RETURNING.
    """
    now: datetime = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    return now


class HandledMessage(NamedTuple):
    """A message that was handled."""

    order_id: int
    message_id: UUID
    source: str
    received_at: datetime


def prunable(handled: Iterable[HandledMessage], *, before: datetime) -> list[HandledMessage]:
    """Choose those that were followed by another message about their order, from their source. Pure.

    Parameters:
        handled: whole orders.
        before: both messages were received before this.
    """
    old = [message for message in handled if message.received_at < before]
    newest: dict[tuple[int, str], datetime] = {}
    for message in old:
        of = message.order_id, message.source
        newest[of] = max(newest.get(of, message.received_at), message.received_at)
    return [
        message
        for message in old
        if message.received_at <= newest[message.order_id, message.source] - CLOCK_STEP
    ]


class Pruner:
    """Goes through one inbox, slice by slice. Several may run; what is gone for one is gone for all."""

    def __init__(
        self,
        cluster: Cluster,
        inbox: type[InboxRow],
        *,
        database: str,
        keep: timedelta,
        every_seconds: float,
        batch: int = 1000,
        rest_seconds: float = 0.05,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Make a pruner; `run` starts it.

        Parameters:
            cluster: the database.
            inbox: the inbox's model.
            database: its name in the topology.
            keep: how long ago a message, and one that followed it, were received at least.
            every_seconds: from the end of one look to the next.
            batch: the most messages that one transaction reads, and so deletes.
            rest_seconds: between two transactions.
            jitter: gives numbers from 0 to 1; processes that started together do not look together.
        """
        self._cluster = cluster
        self._inbox = inbox
        self._database = database
        self._keep = keep
        self._every_seconds = every_seconds
        self._batch = batch
        self._rest_seconds = rest_seconds
        self._jitter = jitter
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("pruner").bind(database=database)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set. Outages of the database are waited out."""

        async def turn() -> None:
            await self.prune(stop)
            await sleep_unless(stop, self._every_seconds * (1 - self._jitter() / 4))

        await repeat_with_backoff(turn, stop=stop, log=self._log)

    async def prune(self, stop: asyncio.Event) -> int:
        """Look through the inbox once, or until `stop` is set; return how many messages were deleted."""
        pruned = kept = 0
        after: int | None = -1
        while after is not None and not stop.is_set():
            read, deleted, after = await self._slice(after)
            pruned, kept = pruned + deleted, kept + read - deleted
            _pruned.add(deleted, {"database": self._database})
            await sleep_unless(stop, self._rest_seconds)
        if after is None:
            _kept.set(kept, {"database": self._database})
            self._log.info("inbox_pruned", pruned=pruned, kept=kept)
        return pruned

    async def _slice(self, after: int) -> tuple[int, int, int | None]:
        """Prune the orders that follow one; count what was read and deleted, and name the last order."""

        async def work(session: WriteSession) -> tuple[int, int, int | None]:
            handled = await self._read(session, after)
            whole, last = _whole_orders(handled, is_cut=len(handled) == self._batch)
            # The database's clock, by which they were received.
            now: datetime = (await session.execute(select(func.now()))).scalar_one()
            gone = prunable(whole, before=now - self._keep)
            if gone:
                key = tuple_(self._inbox.order_id, self._inbox.message_id)
                named = [(message.order_id, message.message_id) for message in gone]
                await session.execute(delete(self._inbox).where(key.in_(named)))
            return len(whole), len(gone), last

        return (await self._cluster.transact(work)).value

    async def _read(self, session: WriteSession, after: int) -> Sequence[HandledMessage]:
        inbox = self._inbox
        following = (
            select(inbox.order_id, inbox.message_id, inbox.source, inbox.received_at)
            # What was received at a time that Python has not, such as infinity, is kept.
            .where(inbox.order_id > after, inbox.received_at.between(_FIRST, _LAST))
            .order_by(inbox.order_id, inbox.message_id)
            .limit(self._batch)
        )
        return [HandledMessage._make(row) for row in await session.execute(following)]


def _whole_orders(
    handled: Sequence[HandledMessage], *, is_cut: bool
) -> tuple[Sequence[HandledMessage], int | None]:
    """Leave the last order to the next slice, which has all of it; None as the last order at the end."""
    if not is_cut:
        return handled, None
    last = handled[-1].order_id
    whole = [message for message in handled if message.order_id != last]
    # An order that fills a slice alone is judged by what is in it, which proves no less.
    return (whole, whole[-1].order_id) if whole else (handled, last)
