"""What has ended long ago leaves the board: it is in the services, and in their archives.

A finished order goes with all that was said of it, a batch in a transaction. What a service says of it later
makes a row again, as old as the order, and so that goes as well.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import structlog
from sqlalchemy import delete, literal, select

from app.board.projection import hold_orders
from app.kit.clock import Clock, utc_now
from app.kit.tasks import sleep_unless
from app.messaging.backoff import repeat_with_backoff
from app.models.base import STATUS
from app.models.board import BoardHistory, BoardNotice, BoardOrder, BoardSource
from app.models.status import DONE, Status
from readreplica.cluster import Cluster
from readreplica.sessions import WriteSession
from sharding.ids import first_id_at

EVERY_SECONDS = 3600.0
FIRST_SECONDS = 60.0
"""How long a process that starts leaves the database to those who wait for it."""
BATCH = 500
REST_SECONDS = 0.05

log: structlog.stdlib.BoundLogger = structlog.get_logger("retention")


def has_left(status: Status, changed_at: datetime, *, since: datetime) -> bool:
    """Return whether an order is no longer on a board that keeps what has ended since a moment. Pure."""
    return status in DONE and changed_at < since


@dataclass(frozen=True, kw_only=True)
class OrderPruner:
    """Removes finished orders from the board. Several may run; what is gone for one is gone for all.

    Parameters:
        orders: the board's database.
        keep: for how long after its end an order stays.
        batch: the most orders that one transaction removes.
        now: the clock.
        jitter: gives numbers from 0 to 1; processes that started together do not look together.
    """

    orders: Cluster
    keep: timedelta
    batch: int = BATCH
    now: Clock = utc_now
    jitter: Callable[[], float] = random.random

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set. Outages of the database are waited out."""
        await sleep_unless(stop, FIRST_SECONDS * (1 + self.jitter()))

        async def turn() -> None:
            await self.prune(stop)
            await sleep_unless(stop, EVERY_SECONDS * (1 - self.jitter() / 4))

        await repeat_with_backoff(turn, stop=stop, log=log)

    async def prune(self, stop: asyncio.Event) -> int:
        """Remove what may leave, or until `stop` is set; return how many orders that were."""
        since, removed, after = self.now() - self.keep, 0, -1
        is_more = True
        while is_more and not stop.is_set():
            found = (await self.orders.transact(partial(self._batch, since, after))).value
            removed += found.removed
            after, is_more = found.last, found.is_full
            if is_more:
                await sleep_unless(stop, REST_SECONDS)
        if removed:
            log.info("board_pruned", orders=removed, since=since.isoformat())
        return removed

    async def _batch(self, since: datetime, after: int, session: WriteSession) -> "_Batch":
        ended = [
            BoardOrder.status.in_([literal(each, STATUS, literal_execute=True) for each in sorted(DONE)]),
            BoardOrder.changed_at < since,
        ]
        # What has ended before was made before, and its id says when: the primary key of one partition is
        # read, up to there.
        old = select(BoardOrder.order_id).where(
            *ended, BoardOrder.order_id > after, BoardOrder.order_id < first_id_at(since)
        )
        ids = list(await session.scalars(old.order_by(BoardOrder.order_id).limit(self.batch)))
        if not ids:
            return _Batch(0, after, is_full=False)
        # Who makes a snapshot part of one of them meanwhile is waited for, and then it is looked at again.
        await hold_orders(session, ids)
        gone = delete(BoardOrder).where(*ended, BoardOrder.order_id.in_(ids)).returning(BoardOrder.order_id)
        left = list(await session.scalars(gone))
        for model in (BoardSource, BoardHistory, BoardNotice):
            await session.execute(delete(model).where(model.order_id.in_(left)))
        return _Batch(len(left), ids[-1], is_full=len(ids) == self.batch)


@dataclass(frozen=True)
class _Batch:
    """What a transaction has removed, and where the next one begins."""

    removed: int
    last: int
    is_full: bool
