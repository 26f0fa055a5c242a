"""Messages that no service could handle: found, sent again, or given up.

A dead letter stays in the outbox of its source and holds up what its destination is owed about that order.
The relay never takes one, and a row lock keeps a late acknowledgement apart from what is done here.
"""

import getpass
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Select, bindparam, func, select, text, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import aliased

from app import audit_log
from app.console.audit.databases import SERVICE_TABLES, OrderDatabases
from app.messaging.routing import ServiceName
from app.orders import CRM, MES, MES_ARCHIVE, SHOP, OrderModels, UnknownOrder, append_event, lock_order
from ops.errors import ExitStatus, OpsError
from ops.fleet import Outcome, attempt, naming
from readreplica.sessions import WriteSession

MODELS: Mapping[ServiceName, tuple[OrderModels[Any], ...]] = {
    ServiceName.SHOP: (SHOP,),
    ServiceName.CRM: (CRM,),
    ServiceName.MES: (MES, MES_ARCHIVE),
}
"""Where a service's orders are, live ones first."""

Check = Callable[[], Awaitable[None]]
"""Raises if something is not to be done after all."""

LOOK_SECONDS = 5
NOT_KEPT = "order.submitted"
"""A message with the customer's address: a history, which every API shows, does not keep it."""


@dataclass(frozen=True, slots=True)
class SetAsideMessage:
    """A message that was set aside; `behind` is how many others of its order wait for it."""

    message_id: UUID
    order_id: int
    source: str
    destination: str
    type: str
    attempts: int
    created_at: datetime
    set_aside_at: datetime
    reason: str
    behind: int

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it: the id is a string, for JavaScript loses integers above 2^53."""
        return {**asdict(self), "order_id": str(self.order_id)}


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Which dead letters are meant; what is None does not matter."""

    source: str | None = None
    destination: str | None = None
    type: str | None = None
    order_id: int | None = None
    before: datetime | None = None
    message_id: UUID | None = None


class NotDeadLetter(OpsError):
    """The message is no dead letter, or no longer: nothing was changed."""

    exit_status = ExitStatus.REFUSED

    def __init__(self, message_id: UUID, meanwhile: str) -> None:
        self.message_id = message_id
        self.meanwhile = meanwhile
        super().__init__(f"message {message_id} is no dead letter: {meanwhile}; nothing was changed")


class NotRestorable(OpsError):
    """No history holds what is needed to write the message again."""

    exit_status = ExitStatus.REFUSED

    def __init__(self, message_id: UUID, order_id: int) -> None:
        super().__init__(
            f"message {message_id} cannot be restored: no history of order {order_id} has its content "
            f"(that of {NOT_KEPT} is never kept)"
        )


def find_letters(
    databases: OrderDatabases, wanted: LetterFilter, *, limit: int = 1_000
) -> list[Outcome[list[SetAsideMessage]]]:
    """Find the dead letters of every database, those that were set aside first in front.

    Parameters:
        databases: the databases; one that does not answer hides nothing of the others.
        wanted: which of them.
        limit: how many of one database at most.
    """

    def read(name: str) -> list[SetAsideMessage]:
        with databases.connect(name) as connection:
            return list(_letters(connection, name, databases.services[name], wanted, limit))

    chosen = [name for name in databases.services if wanted.source in (None, name)]
    return [attempt(databases.topology.database(name), partial(read, name)) for name in chosen]


def _letters(
    connection: Connection, name: str, service: ServiceName, wanted: LetterFilter, limit: int
) -> Iterator[SetAsideMessage]:
    query = _matching(SERVICE_TABLES[service].outbox, wanted).limit(limit)
    for row in connection.execute(query):
        yield SetAsideMessage(source=name, **row._mapping)


def _matching(outbox: Any, wanted: LetterFilter) -> Select[Any]:
    later = aliased(outbox)
    behind = (
        select(func.count())
        .where(
            later.order_id == outbox.order_id,
            later.destination == outbox.destination,
            later.sequence > outbox.sequence,
        )
        .scalar_subquery()
    )
    query = select(
        outbox.message_id,
        outbox.order_id,
        outbox.destination,
        outbox.type,
        outbox.attempts,
        outbox.created_at,
        outbox.set_aside_at,
        func.coalesce(outbox.set_aside_reason, "no reason given").label("reason"),
        behind.label("behind"),
    ).where(outbox.set_aside_at.is_not(None))
    for name in ("destination", "type", "order_id", "message_id"):
        if (value := getattr(wanted, name)) is not None:
            query = query.where(getattr(outbox, name) == value)
    if wanted.before is not None:
        query = query.where(outbox.set_aside_at < wanted.before)
    return query.order_by(outbox.set_aside_at, outbox.sequence)


async def retry_letter(
    databases: OrderDatabases,
    letter: SetAsideMessage,
    *,
    actor: str | None = None,
    check: Check | None = None,
) -> None:
    """Make a dead letter due again, its attempts counted anew; the relay sends it at its next turn.

    Parameters:
        databases: the databases.
        letter: the message.
        actor: who repairs the order, for its history; None leaves no line there.
        check: called when the order and the message are locked; what it raises leaves all as it is.

    Raises:
        NotDeadLetter: it is none any more.
        DatabasesFailed: its database does not answer.
    """
    service = databases.services[letter.source]
    outbox = SERVICE_TABLES[service].outbox

    async def work(session: WriteSession) -> None:
        found = await lock_anywhere(session, service, letter.order_id) if actor else None
        await _lock_letter(session, outbox, letter)
        if check is not None:
            await check()
        if actor and found:
            detail = {"repaired": f"the dead letter {letter.message_id} to {letter.destination}"}
            now, action = datetime.now(UTC), "dead_letter_retried"
            await append_event(session, *found, actor=actor, now=now, detail=detail, action=action)
        else:
            await _record(session, service, "dead_letter_retried", letter)
        fresh = {"attempts": 0, "next_attempt_at": func.now(), "set_aside_at": None, "set_aside_reason": None}
        await session.execute(
            update(outbox)
            .where(outbox.order_id == letter.order_id, outbox.message_id == letter.message_id)
            .values(fresh)
            .execution_options(synchronize_session=False)
        )

    await databases.write(letter.source, work)


async def discard_letter(
    databases: OrderDatabases, letter: SetAsideMessage, *, reason: str, actor: str
) -> bool:
    """Delete a dead letter, and write a line about it into the history of its order.

    Returns:
        False if its database has no such order, so that no history has the line.

    Raises:
        NotDeadLetter: it is none any more.
        DatabasesFailed: its database does not answer.
    """
    service = databases.services[letter.source]
    outbox = SERVICE_TABLES[service].outbox

    async def work(session: WriteSession) -> bool:
        # The order first, as each writer of a message does: no deadlock.
        found = await lock_anywhere(session, service, letter.order_id)
        row = await _lock_letter(session, outbox, letter)
        kept = {"data": row.data} if row.type != NOT_KEPT else {}
        facts = {name: str(getattr(row, name)) for name in ("message_id", "destination", "type", "sequence")}
        said = {"dead_letter": row.set_aside_reason or "", "reason": reason}
        await session.delete(row)
        if found is None:
            await _record(session, service, "dead_letter_discarded", letter, reason=reason, actor=actor)
            return False
        models, order = found
        facts |= {"created_at": row.created_at.isoformat()}
        facts |= {"traceparent": row.traceparent} if row.traceparent else {}
        detail = {"discarded": {**facts, **kept}, **said}
        now, action = datetime.now(UTC), "dead_letter_discarded"
        await append_event(session, models, order, actor=actor, now=now, detail=detail, action=action)
        return True

    return await databases.write(letter.source, work)


async def _record(
    session: WriteSession, service: ServiceName, action: str, letter: SetAsideMessage, **facts: str
) -> None:
    """Write a line of the audit log where the order's history gets none."""
    facts |= {"message_id": str(letter.message_id), "destination": letter.destination, "type": letter.type}
    await audit_log.record(session, MODELS[service][0].audit, action, letter.order_id, facts)


async def restore_letter(databases: OrderDatabases, message_id: UUID, order_id: int, *, actor: str) -> str:
    """Write a message again that was discarded, in its old place among those of its order; return its source.

    Raises:
        NotRestorable: no history of the order has it.
        DatabasesFailed: a database does not answer.
    """

    async def work(session: WriteSession, *, service: ServiceName) -> bool:
        found = await lock_anywhere(session, service, order_id)
        if found is None:
            return False
        models, order = found
        events, outbox = models.event, models.outbox
        known = events.detail["discarded"]["message_id"].astext == str(message_id)
        discards = select(events).where(events.order_id == order_id, known)
        line = await session.scalar(discards.order_by(events.event_no.desc()).limit(1))
        if line is None or "data" not in line.detail["discarded"]:
            return False
        again = events.detail["restored"].astext == str(message_id)
        since = events.order_id == order_id, events.event_no > line.event_no
        if await session.scalar(select(events.event_no).where(*since, again).limit(1)) is not None:
            raise NotDeadLetter(message_id, "it was restored already")
        was = line.detail["discarded"]
        there = outbox.order_id == order_id, outbox.destination == was["destination"], outbox.attempts > 0
        later = select(outbox.message_id).where(*there, outbox.sequence > int(was["sequence"]))
        if await session.scalar(later.limit(1)) is not None:
            raise NotDeadLetter(message_id, "what was written after it is under way")
        await session.execute(_RESTORE, _restored(order_id, was))
        detail = {"restored": str(message_id)}
        now, action = datetime.now(UTC), "dead_letter_restored"
        await append_event(session, models, order, actor=actor, now=now, detail=detail, action=action)
        return True

    for name, service in databases.services.items():
        if await databases.write(name, partial(work, service=service)):
            return name
    raise NotRestorable(message_id, order_id)


# With its old number, by which it comes before what was written after it.
_RESTORE = text("""
    INSERT INTO outbox (order_id, sequence, message_id, destination, type, data, created_at, traceparent)
    OVERRIDING SYSTEM VALUE
    VALUES (:order_id, :sequence, :message_id, :destination, :type, :data, :created_at, :traceparent)
""").bindparams(bindparam("data", type_=JSONB))


def _restored(order_id: int, was: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: was[name] for name in ("destination", "type", "data")},
        "order_id": order_id,
        "sequence": int(was["sequence"]),
        "message_id": UUID(was["message_id"]),
        "created_at": datetime.fromisoformat(was["created_at"]),
        "traceparent": was.get("traceparent"),
    }


async def lock_anywhere(
    session: WriteSession, service: ServiceName, order_id: int
) -> tuple[OrderModels[Any], Any] | None:
    """Lock an order of a service, live or archived; None if it has none of this id."""
    for models in MODELS[service]:
        try:
            return models, await lock_order(session, models, order_id)
        except UnknownOrder:
            continue
    return None


async def _lock_letter(session: WriteSession, outbox: Any, letter: SetAsideMessage) -> Any:
    row = await session.scalar(
        select(outbox)
        .where(outbox.order_id == letter.order_id, outbox.message_id == letter.message_id)
        .with_for_update()
    )
    if row is None:
        raise NotDeadLetter(letter.message_id, "it was handled or discarded meanwhile")
    if row.set_aside_at is None:
        raise NotDeadLetter(letter.message_id, _due(row.attempts, row.next_attempt_at))
    return row


def _due(attempts: int, next_at: datetime) -> str:
    return f"it is under way, sent {attempts} times, next at {next_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def what_happened(databases: OrderDatabases, message_id: UUID) -> str:
    """Return where a message is that is no dead letter: under way, handled, or unknown."""
    for name, service in databases.services.items():
        tables = SERVICE_TABLES[service]
        inbox = MODELS[service][0].inbox
        with naming(databases.topology.database(name)), databases.connect(name) as connection:
            connection.execute(text(f"SET LOCAL statement_timeout = '{LOOK_SECONDS}s'"))
            due = select(tables.outbox.attempts, tables.outbox.next_attempt_at)
            row = connection.execute(due.where(tables.outbox.message_id == message_id)).first()
            if row is not None:
                return _due(row.attempts, row.next_attempt_at)
            seen = select(inbox.received_at).where(inbox.message_id == message_id).limit(1)
            at = connection.scalar(seen)
            if at is not None:
                return f"{service} has handled it at {at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return "no outbox and no inbox has it: it was discarded, handled long ago, or never there"


def person() -> str:
    """Return who types here, for the history."""
    return f"mesctl: {getpass.getuser()}"
