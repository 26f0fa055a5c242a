"""How a service follows what another one has decided about an order, as a message says it."""

from typing import Any

from app.kit.errors import AppError
from app.messaging.errors import NotYet
from app.messaging.events import PriceRenewed, Quote, StatusChanged
from app.messaging.message import Message
from app.orders import (
    MES,
    AnyOrder,
    OrderModels,
    UnknownOrder,
    apply_event,
    lock_order,
    read_history,
    renew_price,
)
from readreplica.sessions import WriteSession


class UnexpectedEvent(AppError):
    """A message came to a service that has no use for it."""

    def __init__(self, service: str, message: Message) -> None:
        self.service = service
        self.source = message.source
        self.type = message.type
        super().__init__(f"{service} does not handle {message.type} from {message.source}")


async def lock_known(session: WriteSession, models: OrderModels[AnyOrder], message: Message) -> AnyOrder:
    """Lock the order that a message is about.

    Raises:
        NotYet: the order is not here yet, for messages from different services may overtake each other.
    """
    try:
        return await lock_order(session, models, message.order_id)
    except UnknownOrder as error:
        raise NotYet(message.order_id, waits_for="its order.submitted") from error


async def follow(session: WriteSession, models: OrderModels[AnyOrder], message: Message) -> None:
    """Change the order as the message says, at the time that it says.

    Raises:
        NotYet: the order is not here yet.
        UnexpectedEvent: the message changes neither status nor price.
        IllegalTransition: the order cannot become what the message says.
    """
    if isinstance(message.data, PriceRenewed):
        order = await lock_known(session, models, message)
        await renew_price(session, models, order, message.data, now=message.time)
        return
    if not isinstance(message.data, StatusChanged):
        raise UnexpectedEvent(models.service, message)
    order = await lock_known(session, models, message)
    await apply_event(session, models, order, message.data, now=message.time)


async def standing_quote(session: WriteSession, order_id: int, *, actor: str) -> dict[str, Any]:
    """Return the price that an order of the MES has, as its history says it, and who says so again."""
    lines = sorted(await read_history(session, MES, order_id), key=lambda line: line.event_no)
    quotes = [line.detail.get("price_renewed", line.detail) for line in lines]
    found = [quote for quote in quotes if "price" in quote][-1]
    return {"actor": actor, **{name: found[name] for name in Quote.model_fields if name in found}}
