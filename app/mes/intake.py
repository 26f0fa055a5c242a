"""How an order comes into the MES: by the Shop's message (B2C), or from a partner (B2B)."""

import json
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from hashlib import sha256
from uuid import uuid4

from app.files import ModelStore, StoredModel, Upload, model_name, model_suffix
from app.flow.turns import enqueue, sender_of
from app.kit.clock import Clock
from app.kit.logs import bind
from app.kit.telemetry import traceparent_of
from app.mes import repository
from app.mes.schemas import MesOrderView, PartnerOrder
from app.messaging import inbox
from app.messaging.events import Item, OrderSubmitted
from app.messaging.message import Message
from app.models.mes import MesOrder, MesOrderItem, PartnerRequest, PricingJob
from app.models.status import Channel
from app.orders import MES, IdempotencyKeyReused, add_order, announce
from app.schemas import summarise
from readreplica.sessions import WriteSession
from sharding.ids import IdGenerator
from sharding.sessions import ShardedSessions
from sharding.shard_map import key_of_text


async def place(session: WriteSession, message: Message, submitted: OrderSubmitted) -> None:
    """Insert a submitted order: its lines, its history and the job that prices it.

    The caller has recorded the message in the inbox, in this transaction: that is what makes it happen once.
    """
    order = MesOrder(
        order_id=message.order_id,
        status=submitted.status,
        channel=submitted.channel,
        summary=submitted.summary,
        partner=submitted.partner,
    )
    await add_order(session, MES, order, actor=submitted.actor, now=message.time)
    session.add_all(MesOrderItem(order_id=order.order_id, **item.model_dump()) for item in submitted.items)
    if order.channel is Channel.B2B:  # the Shop sends a B2C order to the CRM itself
        await announce(session, MES, order, submitted, now=message.time)
    sender = sender_of(submitted, order.order_id)
    # Last of all: others of the same sender wait from here on.
    await enqueue(session, PricingJob(order_id=order.order_id, sender=sender, traceparent=traceparent_of()))


@dataclass(frozen=True)
class PlacedOrder:
    """The order of a partner's idempotency key; `created`: whether this request made it."""

    order: MesOrderView
    created: bool


@dataclass(frozen=True, kw_only=True)
class PartnerIntake:
    """Takes partners' orders.

    Parameters:
        sessions: the shards.
        ids: makes order ids.
        models: where uploaded models are kept.
        max_upload_bytes: the largest model that is accepted.
        now: the clock.
    """

    sessions: ShardedSessions
    ids: IdGenerator
    models: ModelStore
    max_upload_bytes: int
    now: Clock

    async def submit(self, request: PartnerOrder, file: Upload, *, key: str) -> PlacedOrder:
        """Make an order, or find the one that the partner's key has made.

        The key and the order usually lie on different shards. So the key first reserves the order's id and
        a message id, in a transaction of its own; then the order's shard makes the order together with an
        inbox row of that message id. A repeated request, after a crash anywhere in between or at the
        same time, finds the same two ids, and the inbox lets one of them make the order.

        Raises:
            UnsupportedModelType, ModelTooLarge: and nothing is stored.
            IdempotencyKeyReused: the key has made an order from another request.
        """
        name = model_name(file.filename or "")
        stored = await self.models.put(file, model_suffix(name), self.max_upload_bytes)
        digest = _digest(request, stored)
        reserved = await self._reserve(request.partner, key, digest)
        if reserved.request_digest != digest:
            raise IdempotencyKeyReused(key, reserved.order_id)
        bind(order_id=reserved.order_id)
        submitted = _submitted(request, stored, name, at=self.now())
        message = Message(
            id=reserved.message_id,
            source="partner",
            subject=str(reserved.order_id),
            time=submitted.submitted_at,
            data=submitted,
        )
        place_once = partial(_place_once, message=message, submitted=submitted)
        return (await self.sessions.transact(reserved.order_id, place_once)).value

    async def _reserve(self, partner: str, key: str, digest: str) -> PartnerRequest:
        request_key = key_of_text(f"{partner}\n{key}")
        request = PartnerRequest(
            request_key=request_key,
            partner=partner,
            idempotency_key=key,
            request_digest=digest,
            order_id=self.ids.next_id(),
            message_id=uuid4(),
        )
        reserve = partial(repository.reserve, request=request)
        return (await self.sessions.transact(request_key, reserve)).value


async def _place_once(session: WriteSession, message: Message, submitted: OrderSubmitted) -> PlacedOrder:
    created = await inbox.record(session, MES.inbox, message)
    if created:
        await place(session, message, submitted)
    return PlacedOrder(MesOrderView.model_validate(await repository.find(session, message.order_id)), created)


def _digest(request: PartnerOrder, stored: StoredModel) -> str:
    """Return what is the same for equal requests only; the model counts by its content."""
    return sha256(json.dumps([request.model_dump(mode="json"), stored.key]).encode()).hexdigest()


def _submitted(request: PartnerOrder, stored: StoredModel, name: str, *, at: datetime) -> OrderSubmitted:
    item = Item(
        line_no=1,
        material=request.material,
        finish=request.finish,
        quantity=request.quantity,
        model_key=stored.key,
        model_name=name,
    )
    summary = summarise(
        quantity=request.quantity, model_name=name, material=request.material, finish=request.finish
    )
    return OrderSubmitted(
        actor=request.partner,
        channel=Channel.B2B,
        summary=summary,
        partner=request.partner,
        items=(item,),
        submitted_at=at,
    )
