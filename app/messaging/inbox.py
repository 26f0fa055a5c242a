"""The receiving side: what was handled, written in the handler's own transaction."""

from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert

from app.messaging.errors import NotYet
from app.messaging.message import Message
from app.models.messaging import InboxRow
from readreplica.sessions import WriteSession

LONGEST_COPY = timedelta(days=1)
"""How old a copy of a message may be when it is handled. `app.messaging.pruner` counts on it."""


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
    """Tell the time after the row was written, and not of the transaction, which may have begun long before.

    In a statement of its own: Citus has no volatile function in RETURNING.
    """
    now: datetime = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    return now
