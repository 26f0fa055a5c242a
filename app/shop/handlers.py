"""The messages that the Shop handles: MES alone says how far an order is."""

from app.following import follow
from app.messaging.message import Message
from app.orders import SHOP
from readreplica.sessions import WriteSession


async def handle(session: WriteSession, message: Message) -> None:
    """Show the customer what MES says."""
    await follow(session, SHOP, message)
