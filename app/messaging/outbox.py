"""The sending side: the messages about a change of an order, written in the transaction of that change."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Literal, NamedTuple
from uuid import UUID, uuid4

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    CompoundSelect,
    Integer,
    Interval,
    Select,
    Text,
    Update,
    all_,
    any_,
    bindparam,
    case,
    cast,
    delete,
    func,
    insert,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.orm import aliased
from sqlalchemy.sql.dml import ReturningDelete
from sqlalchemy.types import UserDefinedType

from app.kit.telemetry import traceparent_of
from app.messaging.events import Event
from app.messaging.message import Ack, Dispatch
from app.messaging.routing import ServiceName
from app.models.base import OutboxRow
from readreplica.sessions import AnySession, WriteSession

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


@dataclass(frozen=True, kw_only=True)
class Range:
    """Which messages to a destination a claim looks at.

    Parameters:
        after: those with a higher sequence number that were never sent; None for all that may be due.
        successors_of: and, of those with a lower one, the ones of these orders, of which another message was
            just acknowledged.
        is_look: and everything else, which comes first.
    """

    after: int | None = None
    successors_of: Collection[int] = ()
    is_look: bool = False


ALL = Range()


async def claim(
    session: WriteSession,
    outbox: type[OutboxRow],
    *,
    destination: str,
    lag: timedelta,
    now: datetime,
    limit: int,
    retry_after_seconds: Callable[[int], float],
    within: Range = ALL,
) -> Sequence[Dispatch]:
    """Take the messages to one destination that are to be sent now, and put off their next sending.

    Parameters:
        session: the transaction of the one relay that is at work.
        outbox: the outbox of its database.
        destination: to whom they are owed.
        lag: how far the destination lags behind in its stream.
        now: by the database's clock, which alone decides what is due: every relay agrees with it.
        limit: how many to take at most.
        retry_after_seconds: how long to wait for an acknowledgement, from the number of sendings so far.
        within: which are looked at.

    Returns:
        the messages, counted up and no longer due once the session commits.
    """
    if limit <= 0:
        return []
    found = await _find(session, outbox, {"destination": destination, "lag": lag}, limit, within)
    rows = {row.sequence: row for row in found}
    attempts = {sequence: min(row.attempts + 1, _MOST_ATTEMPTS) for sequence, row in rows.items()}
    for count in sorted(set(attempts.values())):
        alike = [row for sequence, row in rows.items() if attempts[sequence] == count]
        words = {
            "orders": _array_text(row.order_id for row in alike),
            "sequences": _array_text(row.sequence for row in alike),
            "count": count,
            "again_at": now + timedelta(seconds=retry_after_seconds(count)),
        }
        statement = _count_up(outbox)  # type: ignore[arg-type]  # mypy takes a class for what cannot be hashed
        await session.execute(statement, words)
    return [
        Dispatch(
            row.order_id,
            row.message_id,
            row.destination,
            row.type,
            row.time,
            row.data,
            attempts[sequence],
            row.traceparent,
            sequence,
        )
        for sequence, row in rows.items()
    ]


def _array_text(values: Iterable[object]) -> str:
    """Write numbers or ids as an array of PostgreSQL; psycopg looks at each one, which takes much longer."""
    return f"{{{','.join(map(str, values))}}}"


class _WrittenArray(UserDefinedType[str]):
    """An array as `_array_text` has written it; the parameter itself is one: a cast is done for each row."""

    cache_ok = True
    render_bind_cast = True

    def __init__(self, of: str) -> None:
        self.of = of

    def get_col_spec(self, **_options: Any) -> str:
        """Return its name in PostgreSQL."""
        return f"{self.of}[]"


_NUMBERS, _IDS = _WrittenArray("BIGINT"), _WrittenArray("UUID")


@cache
def _count_up(outbox: type[OutboxRow]) -> Update:
    """Put off the next sending of rows that were sent equally often, in one statement."""
    return (
        update(outbox)
        .where(
            # A number is no key where Citus has the table: the order says on which shard it stands.
            outbox.order_id == any_(bindparam("orders", type_=_NUMBERS)),
            outbox.sequence == any_(bindparam("sequences", type_=_NUMBERS)),
        )
        .values(attempts=bindparam("count"), next_attempt_at=bindparam("again_at"))
        .execution_options(synchronize_session=False)
    )


async def owes(session: AnySession, outbox: type[OutboxRow], after: Mapping[str, int]) -> bool:
    """Return whether a database may owe something, by the cheapest question that finds it out.

    Parameters:
        session: on the primary; it needs no transaction.
        outbox: the outbox of its database.
        after: for each destination, the sequence number from which on there must be none.
    """
    words = {
        f"{name}_{number}": value
        for number, (destination, sequence) in enumerate(sorted(after.items()))
        for name, value in (("destination", destination), ("after", sequence))
    }
    statement = _select_any(outbox, len(after))  # type: ignore[arg-type]  # mypy takes a class for what cannot be hashed
    return (await session.execute(statement, words)).first() is not None


@cache
def _select_any(outbox: type[OutboxRow], destinations: int) -> CompoundSelect[Any]:
    """Select one message to each destination, by the index on its number whatever PostgreSQL believes."""
    return union_all(
        *(
            select(outbox.sequence)
            .where(
                outbox.set_aside_at.is_(None),
                outbox.destination == bindparam(f"destination_{number}", type_=Text),
                outbox.sequence > bindparam(f"after_{number}", type_=BigInteger),
            )
            .order_by(outbox.sequence)
            .limit(1)
            .subquery()
            .select()
            for number in range(destinations)
        )
    )


async def _find(
    session: WriteSession,
    outbox: type[OutboxRow],
    words: Mapping[str, Any],
    limit: int,
    within: Range,
) -> list[Any]:
    """Read what is due; the successors of what was acknowledged, which are older, come first."""

    async def read(which: _Which, **more: Any) -> Sequence[Any]:
        statement = _select_due(outbox, which)  # type: ignore[arg-type]  # mypy takes a class for what cannot be hashed
        found: Sequence[Any] = (await session.execute(statement, {**words, **more})).all()
        return found

    after = within.after
    if after is None:
        return [*await read("all", most=limit)]
    found: list[Any] = []
    if within.is_look:
        found += await read("other", after=after, most=limit)
    elif within.successors_of:
        orders = _array_text(within.successors_of)
        found += await read("following", after=after, most=limit, orders=orders)
    if len(found) < limit:
        found += await read("new", after=after, most=limit - len(found))
    return found


_Which = Literal["all", "other", "following", "new"]


@cache
def _select_due(outbox: type[OutboxRow], which: _Which) -> Select[Any]:
    """Select what is due: a statement takes longer to make than the server takes to read a message."""
    after = outbox.sequence > bindparam("after", type_=BigInteger)
    if which == "following":
        due = _due(outbox, _by_order(outbox)).where(
            outbox.order_id == any_(bindparam("orders", type_=_NUMBERS)),
            # The rest waits for its turn: else it would be sent before what is older.
            ~after,
        )
    else:
        due = _due(outbox, outbox.set_aside_at.is_(None))
    match which:
        case "all":
            due = due.order_by(outbox.next_attempt_at, outbox.sequence)
        case "other":
            # Never what is claimed by its number: of a long backlog that would be all.
            due = due.where(or_(outbox.attempts > 0, ~after))
            due = due.order_by(outbox.next_attempt_at, outbox.sequence)
        case "following":
            due = due.order_by(outbox.sequence)
        case "new":
            due = due.where(outbox.attempts == 0, after).order_by(outbox.sequence)
    return due.limit(bindparam("most", type_=Integer))


def _by_order(outbox: type[OutboxRow]) -> ColumnElement[bool]:
    """Return the condition that a message is no dead letter, so that the index by number is not used for it.

    That index has only those, and by `IS NULL` PostgreSQL knows it. It may then walk over all that has gone.
    """
    return func.num_nulls(outbox.set_aside_at) == 1


def _due(outbox: type[OutboxRow], is_live: ColumnElement[bool]) -> Select[Any]:
    """Select the oldest message of each order, unless it is set aside or was just sent.

    A message that is set aside stays the oldest of its order, and by that alone holds up the messages behind
    it.

    The back-off runs from when a message is received, so the lag is added to it: what was sent less than
    a lag ago is still waiting in the stream. Without this a slow consumer would get ever more copies and
    become ever slower.
    """
    # Whatever the time: this server's clock may stand behind the one that wrote the row (a failover, or a
    # step back), and an order would be stuck until it has caught up.
    is_new = outbox.attempts == 0
    other = aliased(outbox)
    of_order = select(other.sequence).where(
        other.destination == outbox.destination, other.order_id == outbox.order_id
    )
    # No NOT EXISTS: that becomes a join, and of a table that was analyzed while nothing was owed PostgreSQL
    # believes that to walk over all of the index, gone or not, for each row is as good as to look one up.
    is_oldest = outbox.sequence <= all_(of_order.scalar_subquery())
    return select(
        outbox.order_id,
        outbox.sequence,
        outbox.message_id,
        outbox.destination,
        outbox.type,
        func.btrim(cast(func.to_json(outbox.created_at), Text), '"').label("time"),
        cast(outbox.data, Text).label("data"),
        outbox.attempts,
        outbox.traceparent,
    ).where(
        is_live,
        outbox.destination == bindparam("destination", type_=Text),
        is_new | (outbox.next_attempt_at <= func.now() - bindparam("lag", type_=Interval)),
        is_oldest,
    )


def is_behind_dead_letter(outbox: type[OutboxRow]) -> ColumnElement[bool]:
    """Return the condition that a dead letter holds a message up: one of the same order and destination."""
    other = aliased(outbox)
    its_own = other.destination == outbox.destination, other.order_id == outbox.order_id
    return select(other.sequence).where(*its_own, other.set_aside_at.is_not(None)).exists()


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
    return await _unsent(session, outbox, outbox.destination.in_(destinations), limit=limit)


async def misaddressed(
    session: WriteSession, outbox: type[OutboxRow], known: Collection[str], *, limit: int
) -> Sequence[UnsentMessage]:
    """Return messages to services that there are not: a hand may have written one."""
    return await _unsent(session, outbox, outbox.destination.not_in(known), limit=limit)


async def _unsent(
    session: WriteSession, outbox: type[OutboxRow], which: ColumnElement[bool], *, limit: int
) -> Sequence[UnsentMessage]:
    owed = (
        select(outbox.destination, outbox.order_id, outbox.message_id, outbox.type)
        .where(outbox.set_aside_at.is_(None), which)
        .order_by(outbox.sequence)
        .limit(limit)
    )
    return [UnsentMessage._make(row) for row in await session.execute(owed)]


MOST_COUNTED = 1000
"""How many messages in front of one are counted."""


class WaitingMessage(NamedTuple):
    """The oldest message of an order that was never sent to a service yet."""

    place: int
    """Its place among those to that service, from 1; `MOST_COUNTED` + 1 for any beyond."""

    since: datetime


async def find_waiting(
    session: AnySession, outbox: type[OutboxRow], order_id: int, destination: ServiceName
) -> WaitingMessage | None:
    """Return what of an order still waits to be sent to a service; None if nothing does."""
    unsent = outbox.destination == destination.value, outbox.set_aside_at.is_(None), outbox.attempts == 0
    own = select(outbox.sequence, outbox.created_at).where(outbox.order_id == order_id, *unsent)
    first = (await session.execute(own.order_by(outbox.sequence).limit(1))).first()
    if first is None:
        return None
    before = select(outbox.sequence).where(*unsent, outbox.sequence < first.sequence).limit(MOST_COUNTED)
    count = await session.scalar(select(func.count()).select_from(before.subquery()))
    return WaitingMessage((count or 0) + 1, first.created_at)


class DeadLetter(NamedTuple):
    """A message that has just been set aside."""

    order_id: int
    message_id: UUID
    type: str
    reason: str


class AcknowledgedMessage(NamedTuple):
    """A message that was handled, and is deleted; `written_at` is None where Python has no such time."""

    destination: str
    order_id: int
    written_at: datetime | None


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
    handled: dict[tuple[str, bool], list[Ack]] = {}
    dead: list[DeadLetter] = []
    for ack in acks:
        if ack.reason is None:
            handled.setdefault((ack.consumer, ack.order_id is None), []).append(ack)
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
    for (consumer, has_no_order), alike in handled.items():
        words = {
            "consumer": consumer,
            "messages": _array_text(ack.message_id for ack in alike),
            **({} if has_no_order else {"orders": _array_text(ack.order_id for ack in alike)}),
        }
        statement = _delete_handled(outbox, by_order=not has_no_order)  # type: ignore[arg-type]  # mypy takes a class for what cannot be hashed
        rows = (await session.execute(statement, words)).all()
        acknowledged += [AcknowledgedMessage(consumer, order_id, at) for order_id, at in rows]
    return Settled(acknowledged, dead)


@cache
def _delete_handled(outbox: type[OutboxRow], *, by_order: bool) -> ReturningDelete[Any]:
    """Delete the messages that a consumer has handled, in one statement.

    They are looked up by their orders, if all acknowledgements name them (a release before did not). By the
    messages' ids alone PostgreSQL may read the whole table, with all that has gone: where it has not analyzed
    the table since something was owed, it believes that so many ids are most of it.
    """
    gone = delete(outbox).where(
        outbox.message_id == any_(bindparam("messages", type_=_IDS)),
        outbox.destination == bindparam("consumer", type_=Text),
    )
    if by_order:
        gone = gone.where(outbox.order_id == any_(bindparam("orders", type_=_NUMBERS)))
    # A hand may have written a time that Python has not, and it must not stop the relay.
    known = case((outbox.created_at.between(_FIRST, _LAST), outbox.created_at))
    # Without this SQLAlchemy asks for the keys as well, for objects of the session: there are none.
    return gone.returning(outbox.order_id, known).execution_options(synchronize_session=False)
