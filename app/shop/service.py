"""What the Shop does: a customer starts an order, uploads its model and submits it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from app import instruments
from app.files import ModelStore, StoredModel, Upload, model_name, model_suffix
from app.flow.grants import Allowance
from app.flow.places import Places
from app.following import follow
from app.kit.clock import Clock
from app.kit.logs import bind
from app.kit.telemetry import concerns
from app.messaging.events import Customer, Item, OrderSubmitted
from app.messaging.message import Message
from app.messaging.outbox import find_waiting
from app.messaging.routing import ServiceName
from app.models.reference import Finish, Material
from app.models.shop import ShopOrder
from app.models.status import Channel, IllegalTransition, Status, check_transition
from app.orders import (
    SHOP,
    IdempotencyKeyReused,
    advance_order,
    append_event,
    get_order,
    is_repeated,
    lock_order,
    log_change,
    read_history,
    record_event,
)
from app.schemas import WaitingView, summarise
from app.shop import repository
from app.shop.schemas import CustomerInput, ShopOrderDetail, ShopOrderView, StartOrder
from app.stored import StoredOrderView, find_stored
from readreplica.cluster import Cluster
from readreplica.sessions import WriteSession
from sharding.ids import IdGenerator


@dataclass(frozen=True)
class StartedOrder:
    """The order of an idempotency key; `created`: whether this request made it."""

    order: ShopOrderView
    created: bool


@dataclass(frozen=True, kw_only=True)
class ShopService:
    """The Shop, with everything that it works with.

    Parameters:
        orders: the Shop's database.
        places: where orders stand that wait for a price.
        ids: makes order ids.
        models: where uploaded models are kept.
        max_upload_bytes: the largest model that is accepted.
        now: the clock.
        to_mes: how fast messages go to the MES.
    """

    orders: Cluster
    places: Places
    ids: IdGenerator
    models: ModelStore
    max_upload_bytes: int
    now: Clock
    to_mes: Allowance

    async def start(self, request: StartOrder, *, key: str) -> StartedOrder:
        """Make an order, or find the one that this key has made.

        Raises:
            IdempotencyKeyReused: the key has made an order from another request.
        """
        order_id = self.ids.next_id()

        async def work(session: WriteSession) -> StartedOrder:
            now = self.now()
            created = await repository.insert_once(session, request, order_id=order_id, key=key, now=now)
            order = await repository.get_by_key(session, key)
            concerns(order.order_id)
            if created:
                instruments.order_created(session.sync_session, channel=order.channel.value)
                action = "order_created"
                await append_event(session, SHOP, order, actor=request.customer.name, now=now, action=action)
                log_change(session, "order_created", order)
            elif not _asked_for(order, request):
                raise IdempotencyKeyReused(key, order.order_id)
            bind(order_id=order.order_id)
            return StartedOrder(ShopOrderView.of(order), created)

        return (await self.orders.transact(work)).value

    async def again(self, order_id: int) -> StartedOrder:
        """Start what was rejected once more, as a new order of the same customer: for another file.

        Each says in its history which the other is. Asked again, this finds the order that it has made.

        Raises:
            UnknownOrder, IllegalTransition: it was not rejected, and nothing is changed.
        """
        new_id = self.ids.next_id()

        async def work(session: WriteSession) -> StartedOrder:
            now = self.now()
            rejected = await lock_order(session, SHOP, order_id)
            if rejected.status is not Status.REJECTED:
                raise IllegalTransition(order_id, rejected.status, Status.FILE_UPLOADED)
            key, asked = f"again {order_id}", _same_as(rejected)
            created = await repository.insert_once(session, asked, order_id=new_id, key=key, now=now)
            order = await repository.get_by_key(session, key)
            if created:
                await self._note_replaced(session, rejected, order, now)
            return StartedOrder(ShopOrderView.of(order), created)

        return (await self.orders.transact(work)).value

    async def _note_replaced(
        self, session: WriteSession, rejected: ShopOrder, order: ShopOrder, now: datetime
    ) -> None:
        actor = rejected.customer_name
        instruments.order_created(session.sync_session, channel=order.channel.value)

        async def note(each: ShopOrder, action: str, detail: Mapping[str, str]) -> None:
            await append_event(session, SHOP, each, actor=actor, now=now, detail=detail, action=action)

        await note(order, "order_created", {"again_for": str(rejected.order_id)})
        log_change(session, "order_created", order)
        await note(rejected, "order_ordered_again", {"replaced_by": str(order.order_id)})
        log_change(session, "order_ordered_again", rejected)

    async def upload(self, order_id: int, file: Upload) -> ShopOrderView:
        """Store the 3D model of an order; until the order is submitted, a new upload replaces the old.

        Raises:
            UnsupportedModelType, ContentMismatch, ModelTooLarge: and nothing is changed.
            UnknownOrder, IllegalTransition: and nothing is changed.
        """
        name = model_name(file.filename or "")
        suffix = model_suffix(name)
        # Before the file is stored, so that a hopeless request costs no space; and again under the lock.
        async with self.orders.write() as session:
            _check_open(await get_order(session, SHOP, order_id))
        stored = await self.models.put(file, suffix, self.max_upload_bytes)

        async def work(session: WriteSession) -> ShopOrderView:
            order = await lock_order(session, SHOP, order_id)
            _check_open(order)
            await self._attach(session, order, stored, name)
            return ShopOrderView.of(order)

        return (await self.orders.transact(work)).value

    async def _attach(self, session: WriteSession, order: ShopOrder, stored: StoredModel, name: str) -> None:
        now, actor, detail = self.now(), order.customer_name, {"model": name, "digest": stored.digest}
        order.model_key, order.model_name = stored.key, name
        order.summary = summarise(
            quantity=order.quantity, model_name=name, material=order.material, finish=order.finish
        )
        if order.status is Status.FILE_UPLOADED:
            order.changed_at = now
            action = "order_file_uploaded"
            await append_event(session, SHOP, order, actor=actor, now=now, detail=detail, action=action)
            log_change(session, "order_file_uploaded", order)
        else:
            await advance_order(
                session, SHOP, order, to=Status.FILE_UPLOADED, actor=actor, now=now, detail=detail
            )

    async def submit(self, order_id: int) -> ShopOrderView:
        """Order what was started and uploaded; MES and CRM get a message. Asked again, this changes nothing.

        Raises:
            UnknownOrder, IllegalTransition: and nothing is changed.
        """

        async def work(session: WriteSession) -> ShopOrderView:
            order = await lock_order(session, SHOP, order_id)
            actor = order.customer_name
            if await is_repeated(session, SHOP, order, wanted=Status.SUBMITTED, actor=actor):
                return ShopOrderView.of(order)
            now = self.now()
            event = submission_of(order, at=now)
            await record_event(session, SHOP, order, event, now=now)
            return ShopOrderView.of(order)

        return (await self.orders.transact(work)).value

    async def stored(self, order_id: int) -> StoredOrderView:
        """Return where an order is kept, and the messages of it that are not acknowledged.

        Raises:
            UnknownOrder: there is none.
        """
        async with self.orders.read() as session:
            return await find_stored(session, SHOP, order_id)

    async def show(self, order_id: int) -> ShopOrderDetail:
        """Read an order with its history.

        Raises:
            UnknownOrder: there is none.
        """
        async with self.orders.read() as session:
            order = await get_order(session, SHOP, order_id)
            history = await read_history(session, SHOP, order_id)
            unsent = await find_waiting(session, SHOP.outbox, order_id, ServiceName.MES)
        waiting = WaitingView.of(unsent, per_second=self.to_mes.per_second)
        pricing = await self.places.of(order)
        return ShopOrderDetail.with_history(order, history, pricing=pricing, waiting=waiting)


def _same_as(order: ShopOrder) -> StartOrder:
    """Return what an order was started with: it was good then, whatever the rules are now."""
    customer = CustomerInput.model_construct(name=order.customer_name, email=order.customer_email)
    return StartOrder.model_construct(
        customer=customer,
        material=Material(order.material),
        finish=Finish(order.finish),
        quantity=order.quantity,
    )


def _asked_for(order: ShopOrder, request: StartOrder) -> bool:
    """Return whether an order is what a request asks for."""
    made = (order.customer_name, order.customer_email, order.material, order.finish, order.quantity)
    customer = request.customer
    return made == (customer.name, customer.email, request.material, request.finish, request.quantity)


def _check_open(order: ShopOrder) -> None:
    """Refuse a new model once the order is submitted."""
    if order.status is not Status.FILE_UPLOADED:
        check_transition(order.order_id, order.status, Status.FILE_UPLOADED)


def submission_of(order: ShopOrder, *, at: datetime) -> OrderSubmitted:
    """Return the event by which an order with a model is submitted."""
    # The status says so: only an order with a model can be submitted.
    assert order.model_key is not None
    assert order.model_name is not None
    item = Item(
        line_no=1,
        material=order.material,
        finish=order.finish,
        quantity=order.quantity,
        model_key=order.model_key,
        model_name=order.model_name,
    )
    return OrderSubmitted(
        actor=order.customer_name,
        channel=Channel.B2C,
        summary=order.summary,
        customer=Customer(name=order.customer_name, email=order.customer_email),
        items=(item,),
        submitted_at=at,
    )


async def handle(session: WriteSession, message: Message) -> None:
    """Show the customer what MES says: it alone knows how far an order is."""
    await follow(session, SHOP, message)
