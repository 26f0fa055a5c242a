"""The sending side: the messages about a change of an order, written in the transaction of that change."""

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Select, Text, case, cast, delete, func, insert, select, update
from sqlalchemy.orm import aliased

from app.kit.telemetry import traceparent_of
from app.messaging.events import Event
from app.messaging.message import Ack, Dispatch
from app.messaging.routing import ServiceName
from app.messaging.streams import Destinations
from app.models.base import OutboxRow
from readreplica.sessions import WriteSession

# What Python has in every time zone.
_FIRST, _LAST = datetime(2, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
_MOST_ATTEMPTS = 2**31 - 1
"""What the column holds. A hand may have written it, and one row must not stop the others."""


async def publish(
    session: WriteSession,
    outbox: type[OutboxRow],
    *,
    order_id: int,
    event: Event,
    destinations: Collection[ServiceName],
    at: datetime,
) -> None:
    """Insert `event` into the outbox for each destination; it is sent when, and only if, the session commits.

    The caller holds the row lock of the order (it inserted, changed or locked the row). Pending changes
    are flushed first (SQLAlchemy's autoflush), so that the lock is taken before the sequence number: of
    two transactions on one order, the later one then gets the higher number.

    Parameters:
        session: the transaction that changes the order.
        outbox: the outbox of the database in which the order lies.
        order_id: the order.
        event: what happened.
        destinations: who gets it, see `app.messaging.routing.route`; may be empty.
        at: when it happened, with a time zone.
    """
    traceparent = traceparent_of()
    rows = [
        {
            "order_id": order_id,
            "message_id": uuid4(),
            "destination": destination.value,
            "type": event.type,
            "data": event.model_dump(mode="json"),
            "created_at": at,
            "traceparent": traceparent,
        }
        for destination in destinations
    ]
    if rows:
        await session.execute(insert(outbox), rows)


async def claim(
    session: WriteSession,
    outbox: type[OutboxRow],
    *,
    destinations: Destinations,
    limit: int,
    retry_after_seconds: Callable[[int], float],
) -> Sequence[Dispatch]:
    """Take the messages that are to be sent now, and put off their next sending.

    Parameters:
        session: the transaction of the one relay that is at work.
        outbox: the outbox of its database.
        destinations: how the streams stand; nothing is taken for one that is unusable.
        limit: how many to take at most.
        retry_after_seconds: how long to wait for an acknowledgement, from the number of sendings so far.

    Returns:
        the messages, counted up and no longer due once the session commits.
    """
    # The database's clock alone decides what is due: every relay agrees with it.
    now = (await session.execute(select(func.now()))).scalar_one()
    rows = (await session.execute(_due(outbox, destinations, limit))).all()
    attempts = {row.sequence: min(row.attempts + 1, _MOST_ATTEMPTS) for row in rows}
    counted = [
        {
            "order_id": row.order_id,
            "sequence": row.sequence,
            "attempts": attempts[row.sequence],
            "next_attempt_at": now + timedelta(seconds=retry_after_seconds(attempts[row.sequence])),
        }
        for row in rows
    ]
    if counted:
        await session.execute(update(outbox), counted)
    return [
        Dispatch(
            order_id=row.order_id,
            message_id=row.message_id,
            destination=row.destination,
            type=row.type,
            time=row.time,
            data=row.data,
            attempt=attempts[row.sequence],
            traceparent=row.traceparent,
        )
        for row in rows
    ]


def _due(outbox: type[OutboxRow], destinations: Destinations, limit: int) -> Select[Any]:
    """Select the oldest message of each order and destination, unless it is set aside or was just sent.

    No cursor remembers what was sent, so a row that commits late is found later. A message that is set
    aside stays the oldest of its order, and by that alone holds up the messages behind it.

    The back-off runs from when a message is received, so the lag is added to it: what was sent less than
    a lag ago is still waiting in the stream. Without this a slow consumer would get ever more copies and
    become ever slower.
    """
    lags, none = destinations.lags, timedelta(0)
    lag = case(lags, value=outbox.destination, else_=none) if lags else none
    # Whatever the time: this server's clock may stand behind the one that wrote the row (a failover, or a
    # step back), and an order would be stuck until it has caught up.
    is_new = outbox.attempts == 0
    is_behind = has_another(outbox, lambda other: other.sequence < outbox.sequence)
    return (
        select(
            outbox.order_id,
            outbox.sequence,
            outbox.message_id,
            outbox.destination,
            outbox.type,
            func.btrim(cast(func.to_json(outbox.created_at), Text), '"').label("time"),
            cast(outbox.data, Text).label("data"),
            outbox.attempts,
            outbox.traceparent,
        )
        .where(
            outbox.set_aside_at.is_(None),
            outbox.destination.not_in(destinations.unusable),
            is_new | (outbox.next_attempt_at <= func.now() - lag),
            ~is_behind,
        )
        .order_by(outbox.next_attempt_at, outbox.sequence)
        .limit(limit)
    )


def has_another(
    outbox: type[OutboxRow], which: Callable[[type[OutboxRow]], ColumnElement[bool]]
) -> ColumnElement[bool]:
    """Return the condition that the same order and destination have another message of some kind.

    Parameters:
        outbox: the table in the query around it.
        which: says of the other message whether it is meant.
    """
    other = aliased(outbox)
    its_own = other.destination == outbox.destination, other.order_id == outbox.order_id
    return select(other.sequence).where(*its_own, which(other)).exists()


def is_behind_dead_letter(outbox: type[OutboxRow]) -> ColumnElement[bool]:
    """Return the condition that a dead letter holds a message up: one of the same order and destination."""
    return has_another(outbox, lambda other: other.set_aside_at.is_not(None))


class UnsentMessage(NamedTuple):
    """A message that waits to be sent."""

    destination: str
    order_id: int
    message_id: UUID
    type: str


async def waiting_for(
    session: WriteSession, outbox: type[OutboxRow], destinations: Collection[str], *, limit: int
) -> Sequence[UnsentMessage]:
    """Return the oldest messages that are owed to some services, and are no dead letters."""
    owed = (
        select(outbox.destination, outbox.order_id, outbox.message_id, outbox.type)
        .where(outbox.set_aside_at.is_(None), outbox.destination.in_(destinations))
        .order_by(outbox.sequence)
        .limit(limit)
    )
    return [UnsentMessage._make(row) for row in await session.execute(owed)]


class DeadLetter(NamedTuple):
    """A message that has just been set aside."""

    order_id: int
    message_id: UUID
    type: str
    reason: str


class AcknowledgedMessage(NamedTuple):
    """A message that was handled, and is deleted."""

    destination: str
    written_at: datetime


class Settled(NamedTuple):
    """What came of the messages that were answered."""

    acknowledged: Sequence[AcknowledgedMessage]
    dead: Sequence[DeadLetter]


async def settle(session: WriteSession, outbox: type[OutboxRow], acks: Collection[Ack]) -> Settled:
    """Delete the messages that were handled, and mark those that cannot be as dead letters; return both.

    An acknowledgement may come twice, or after the row has gone: both change nothing. Nor does one of a
    service to which the message is not owed.
    """
    acknowledged: list[AcknowledgedMessage] = []
    handled: dict[str, list[UUID]] = {}
    dead: list[DeadLetter] = []
    for ack in acks:
        if ack.reason is None:
            handled.setdefault(ack.consumer, []).append(ack.message_id)
            continue
        marked = await session.execute(
            update(outbox)
            .where(
                outbox.message_id == ack.message_id,
                outbox.destination == ack.consumer,
                outbox.set_aside_at.is_(None),
            )
            .values(set_aside_at=func.now(), set_aside_reason=ack.reason)
            .returning(outbox.order_id, outbox.message_id, outbox.type)
        )
        dead += [DeadLetter(*row, ack.reason) for row in marked]
    for consumer, ids in handled.items():
        gone = delete(outbox).where(outbox.message_id.in_(ids), outbox.destination == consumer)
        # A hand may have written a time that Python has not, and it must not stop the relay.
        known = case((outbox.created_at.between(_FIRST, _LAST), outbox.created_at))
        times = await session.execute(gone.returning(known))
        acknowledged += [AcknowledgedMessage(consumer, at) for (at,) in times if at is not None]
    return Settled(acknowledged, dead)
