"""The receiving side: what was handled, written in the handler's own transaction."""

from sqlalchemy.dialects.postgresql import insert

from app.messaging.message import Message
from app.models.messaging import InboxRow
from readreplica.sessions import WriteSession


async def record(session: WriteSession, inbox: type[InboxRow], message: Message) -> bool:
    """Note that `message` is handled by this transaction; False if another one has handled it.

    Should another transaction be handling it right now, this waits until that one has ended.
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
    return written.first() is not None
