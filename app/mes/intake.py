"""How an order comes into the MES: by the Shop's message (B2C), or from a partner (B2B).

A partner has no outbox of ours. So its order is written as it came, into the intake of the order's shard,
and answered; `Drain` places it, as fast as the grant for partners allows.
"""

import asyncio
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from hashlib import sha256
from uuid import uuid4

import structlog
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind
from pydantic import ValidationError

from app import audit_log, instruments
from app.files import ModelStore, Upload, model_name, model_suffix
from app.flow.grants import Allowance
from app.flow.turns import enqueue, sender_of
from app.kit.clock import Clock, utc_now
from app.kit.logs import bind
from app.kit.telemetry import FRESH, cause_of, concerns, traceparent_of, working
from app.mes import repository
from app.mes.errors import IntakeFull
from app.mes.schemas import IntakePlace, MesOrderView, PartnerOrder, PartnerOrderView
from app.messaging import inbox
from app.messaging.backoff import repeat_with_backoff
from app.messaging.consumer import dead_letter_reason
from app.messaging.events import Item, OrderSubmitted
from app.messaging.message import Message
from app.models.mes import Intake, MesOrder, MesOrderItem, PartnerRequest, PricingJob
from app.models.status import Channel
from app.orders import MES, IdempotencyKeyReused, add_order, announce
from app.schemas import summarise
from readreplica.cluster import Cluster
from readreplica.sessions import AnySession, WriteSession
from sharding.ids import IdGenerator
from sharding.sessions import ShardedSessions
from sharding.shard_map import key_of_text

MOST_COUNTED = 1000
"""So many are counted before an order that waits, and no more."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("intake")


async def place(
    session: WriteSession, message: Message, submitted: OrderSubmitted, *, reference: str | None = None
) -> None:
    """Insert a submitted order: its lines, its history and the job that prices it.

    The caller has recorded the message in the inbox, in this transaction: that is what makes it happen once.

    Parameters:
        reference: the partner's own name of the order. It is the MES's alone, and so not in the event.
    """
    order = MesOrder(
        order_id=message.order_id,
        status=submitted.status,
        channel=submitted.channel,
        summary=submitted.summary,
        partner=submitted.partner,
        reference=reference,
    )
    session.add_all(MesOrderItem(order_id=order.order_id, **item.model_dump()) for item in submitted.items)
    await add_order(session, MES, order, actor=submitted.actor, now=message.time)
    if order.channel is Channel.B2B:  # the Shop sends a B2C order to the CRM itself
        await announce(session, MES, order, submitted, now=message.time)
    sender = sender_of(submitted, order.order_id)
    # Last of all: others of the same sender wait from here on.
    await enqueue(session, PricingJob(order_id=order.order_id, sender=sender, traceparent=traceparent_of()))


@dataclass(frozen=True)
class TakenOrder:
    """The order of a partner's idempotency key; `created`: whether this request made it."""

    order: PartnerOrderView
    created: bool


@dataclass
class IntakeState:
    """What a process knows of the intake: how many wait where, how fast they go, and a bell for the drain.

    `placed` is called for each order that the process has placed.
    """

    allowance: Allowance
    waiting: dict[str, int] = field(default_factory=dict)
    arrived: Mapping[str, asyncio.Event] = field(default_factory=dict)
    placed: Callable[[], None] = lambda: None

    def arrive(self, shard: str) -> None:
        """Count one more on a shard, and wake its drain."""
        self.waiting[shard] = self.waiting.get(shard, 0) + 1
        if shard in self.arrived:
            self.arrived[shard].set()

    def expected_seconds(self, place: int) -> int | None:
        """Return in how many seconds an order with so many before it on its shard is likely to be placed."""
        seconds = self.allowance.seconds_for((place + 1) * max(1, len(self.arrived)))
        return None if seconds is None else math.ceil(seconds)


@dataclass(frozen=True, kw_only=True)
class PartnerIntake:
    """Takes partners' orders.

    Parameters:
        sessions: the shards.
        ids: makes order ids.
        models: where uploaded models are kept.
        max_upload_bytes: the largest model that is accepted.
        now: the clock.
        state: of this process' intake.
        most_of_shard: how many orders may wait on a shard.
        most: how many may wait on all shards, about: each process counts now and then.
    """

    sessions: ShardedSessions
    ids: IdGenerator
    models: ModelStore
    max_upload_bytes: int
    now: Clock
    state: IntakeState
    most_of_shard: int = 1000
    most: int = 1500

    async def submit(self, request: PartnerOrder, file: Upload, *, key: str) -> TakenOrder:
        """Take an order in, or find the one that the partner's key has made.

        The key and the order usually lie on different shards. So the key first reserves the order's id and
        a message id, in a transaction of its own; then the order's shard takes it in. A repeated request,
        after a crash anywhere in between or at the same time, finds the same two ids. The intake has an id
        once, and the drain records the message in the inbox: it is placed once.

        Raises:
            UnsupportedModelType, ContentMismatch, ModelTooLarge, IntakeFull: and nothing is stored.
            IdempotencyKeyReused: the key has made an order from another request.
        """
        name, order_id = model_name(file.filename or ""), self.ids.next_id()
        suffix = model_suffix(name)
        await self._check_room(order_id, request.partner, key)
        stored = await self.models.put(file, suffix, self.max_upload_bytes)
        return await self._take_in(request, stored.key, name, key=key, order_id=order_id)

    async def submit_stored(
        self, request: PartnerOrder, model_key: str, name: str, *, key: str
    ) -> TakenOrder:
        """Take an order in whose model is in the store already, as `submit` does.

        Parameters:
            request: the order.
            model_key: of a model that the partner has uploaded.
            name: the model's file name.
            key: the partner's idempotency key.

        Raises:
            IntakeFull, IdempotencyKeyReused: as of `submit`.
        """
        order_id = self.ids.next_id()
        await self._check_room(order_id, request.partner, key)
        return await self._take_in(request, model_key, name, key=key, order_id=order_id)

    async def _take_in(
        self, request: PartnerOrder, model_key: str, name: str, *, key: str, order_id: int
    ) -> TakenOrder:
        digest = _digest(request, model_key)
        reserved = await self._reserve(request.partner, key, digest, order_id=order_id)
        if reserved.request_digest != digest:
            raise IdempotencyKeyReused(key, reserved.order_id)
        bind(order_id=reserved.order_id)
        concerns(reserved.order_id)
        row = Intake(
            order_id=reserved.order_id,
            message_id=reserved.message_id,
            partner=request.partner,
            model_key=model_key,
            received_at=(now := self.now()),
            traceparent=traceparent_of(),
            body=_submitted(request, model_key, name, at=now).model_dump(mode="json"),
            reference=request.reference,
        )
        taken = (await self.sessions.transact(row.order_id, partial(self._take, row))).value
        if taken.created:
            self.state.arrive(self.sessions.shard_of(row.order_id))
        return taken

    async def _check_room(self, order_id: int, partner: str, key: str) -> None:
        """Refuse a new order where too many wait; a repeated request is answered all the same.

        Raises:
            IntakeFull: nothing was stored.
        """
        # Far from full when the drain has counted, half a second ago: a question less for each order.
        known = self.state.waiting.get(self.sessions.shard_of(order_id), self.most_of_shard)
        if known < self.most_of_shard / 2 and sum(self.state.waiting.values()) < self.most:
            return
        count = partial(_count, most=self.most_of_shard)
        waiting = (await self.sessions.transact(order_id, count)).value
        in_all = sum(self.state.waiting.values())
        if waiting < self.most_of_shard and in_all < self.most:
            return
        is_known = partial(_is_known, partner, key)
        if (await self.sessions.transact(_request_key(partner, key), is_known)).value:
            return
        instruments.intake_refused()
        seconds = self.state.expected_seconds(max(1, waiting // 10)) or _PAUSED_RETRY_SECONDS
        raise IntakeFull(max(waiting, in_all), min(max(seconds, 1), _PAUSED_RETRY_SECONDS))

    async def _reserve(self, partner: str, key: str, digest: str, *, order_id: int) -> PartnerRequest:
        request_key = _request_key(partner, key)
        request = PartnerRequest(
            request_key=request_key,
            partner=partner,
            idempotency_key=key,
            request_digest=digest,
            order_id=order_id,
            message_id=uuid4(),
        )
        reserve = partial(repository.reserve, request=request)
        return (await self.sessions.transact(request_key, reserve)).value

    async def _take(self, row: Intake, session: WriteSession) -> TakenOrder:
        created = await repository.keep_in_intake(session, row, inbox=MES.inbox)
        if created:
            facts = {"actor": row.partner, "model_key": row.model_key}
            await audit_log.record(session, MES.audit, "order_taken_in", row.order_id, facts)
        waiting = await session.get(Intake, row.order_id)
        if waiting is None:
            order = await repository.find(session, row.order_id)
            shown = MesOrderView.model_validate(order).model_dump()
            view = PartnerOrderView(**shown, reference=order.reference, state="placed", waiting=None)
            return TakenOrder(view, created)
        return TakenOrder(await shown_waiting(session, waiting, self.state), created)


_PAUSED_RETRY_SECONDS = 30
_MOST_ATTEMPTS = 5


async def _count(session: WriteSession, most: int) -> int:
    return await session.scalar(repository.intake_count(most)) or 0


async def _is_known(partner: str, key: str, session: WriteSession) -> bool:
    return await session.get(PartnerRequest, (_request_key(partner, key), partner, key)) is not None


def _request_key(partner: str, key: str) -> int:
    return key_of_text(f"{partner}\n{key}")


async def shown_waiting(session: AnySession, row: Intake, state: IntakeState) -> PartnerOrderView:
    """Show an order that waits in the intake: as it will be, and where it stands."""
    place = await repository.place_in_intake(session, row, most=MOST_COUNTED)
    submitted = OrderSubmitted.model_validate(row.body)
    return PartnerOrderView(
        order_id=str(row.order_id),
        status=submitted.status,
        channel=submitted.channel,
        summary=submitted.summary,
        price=None,
        reason=None,
        created_at=row.received_at,
        changed_at=row.received_at,
        partner=row.partner,
        operator=None,
        reference=row.reference,
        state="waiting",
        waiting=IntakePlace(
            place=place, expected_seconds=state.expected_seconds(place), since=row.received_at
        ),
    )


class Drain:
    """Places what waits in the intake of one shard: the oldest first, within the grant for partners.

    Several processes may have one: a row that another is placing is left to it. A process that is killed
    before the commit leaves the row where it was.
    """

    def __init__(
        self,
        sessions: ShardedSessions,
        shard: str,
        state: IntakeState,
        *,
        batch: int = 16,
        look_seconds: float = 0.5,
    ) -> None:
        """Make the drain of a shard; `run` starts it.

        Parameters:
            sessions: the shards.
            shard: which of them.
            state: of this process' intake.
            batch: how many are placed at the same time at most.
            look_seconds: how often it looks for what other processes have taken in.
        """
        self._sessions = sessions
        self._shard = shard
        self._state = state
        self._batch = batch
        self._look_seconds = look_seconds
        self._passed_over: set[int] = set()
        self._failures: Counter[int] = Counter()
        self._map_version = sessions.shard_map.version
        self._log = log.bind(database=shard)

    @property
    def _cluster(self) -> Cluster:
        return self._sessions.clusters[self._shard]

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set. Outages of the database are waited out."""

        async def turn() -> None:
            arrived = self._state.arrived[self._shard]
            arrived.clear()
            if not await self.turn():
                await self._rest(stop, arrived)

        await repeat_with_backoff(turn, stop=stop, log=self._log)

    async def _rest(self, stop: asyncio.Event, arrived: asyncio.Event) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in (stop, arrived)]
        try:
            await asyncio.wait(waits, timeout=self._look_seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
        # Of a bell that rings while nothing may be placed, nothing comes.
        seconds = self._state.allowance.seconds_for(1)
        pause = self._look_seconds if seconds is None else min(seconds, self._look_seconds)
        if pause > 0 and not stop.is_set():
            await asyncio.wait([wait := asyncio.ensure_future(stop.wait())], timeout=pause)
            wait.cancel()

    async def turn(self) -> int:
        """Place what may be placed now; return how many were."""
        async with self._cluster.write() as session:
            found = await self._longest(session)
            self._state.waiting[self._shard] = (
                await session.scalar(repository.intake_count(MOST_COUNTED)) or 0
            )
        instruments.intake_waiting(self._shard, self._state.waiting[self._shard])
        allowed = self._state.allowance.take(len(found)) if found else 0
        results = await asyncio.gather(*map(self._place, found[:allowed]), return_exceptions=True)
        placed = sum(each is True for each in results)
        self._state.allowance.give_back(allowed - placed)
        for _ in range(placed):
            self._state.placed()
        for each in results:
            if isinstance(each, BaseException):
                raise each
        return placed

    async def _longest(self, session: WriteSession) -> Sequence[int]:
        """Read which orders have waited longest; the rows of buckets that have moved away are others'."""
        shard_map = self._sessions.shard_map
        if shard_map.version != self._map_version:
            self._map_version = shard_map.version
            self._passed_over.clear()
        while True:
            found = await repository.longest_in_intake(session, count=self._batch, but=self._passed_over)
            moved = [each for each in found if self._sessions.shard_of(each) != self._shard]
            if not moved:
                return found
            self._passed_over.update(moved)

    async def _place(self, order_id: int) -> bool:
        try:
            is_placed = (await self._sessions.transact(order_id, partial(_place_from_intake, order_id))).value
            self._failures.pop(order_id, None)
            return is_placed
        except Exception as error:
            self._failures[order_id] += 1
            reason = str(error) if isinstance(error, ValidationError) else self._reason(order_id, error)
            if reason is None:
                raise
            # Of an older or a newer release, or changed by hand: the others go on, and the audit finds it.
            self._passed_over.add(order_id)
            self._log.error("intake_unreadable", order_id=order_id, error=reason)
            return False

    def _reason(self, order_id: int, error: Exception) -> str | None:
        """Return why an order cannot be placed; None if it is to be tried again, as a message would be."""
        return dead_letter_reason(error, attempt=self._failures[order_id], max_attempts=_MOST_ATTEMPTS)


async def _place_from_intake(order_id: int, session: WriteSession) -> bool:
    row = await repository.lock_in_intake(session, order_id)
    if row is None:
        return False
    submitted = OrderSubmitted.model_validate(row.body)
    context, links = cause_of_placing(row, now=utc_now())
    with working("place", kind=SpanKind.CONSUMER, order_id=str(order_id), context=context, links=links):
        await _place_row(session, row, submitted)
    return True


def cause_of_placing(row: Intake, *, now: datetime) -> tuple[Context, list[Link]]:
    """Return the trace of the partner's request, or a link to it if the order has waited for long."""
    return cause_of(row.traceparent, is_fresh=now - row.received_at <= FRESH)


async def _place_row(session: WriteSession, row: Intake, submitted: OrderSubmitted) -> None:
    message = Message(
        id=row.message_id,
        source="partner",
        subject=str(row.order_id),
        time=submitted.submitted_at,
        data=submitted,
    )
    # A repeated request may have put it in again while it was being placed.
    if await inbox.record(session, MES.inbox, message):
        await place(session, message, submitted, reference=row.reference)
    await session.delete(row)


def _digest(request: PartnerOrder, model_key: str) -> str:
    """Return what is the same for equal requests only; the model counts by its content."""
    # Without what is not there: a release before may have seen the same request.
    asked = request.model_dump(mode="json", exclude_none=True)
    return sha256(json.dumps([asked, model_key]).encode()).hexdigest()


def _submitted(request: PartnerOrder, model_key: str, name: str, *, at: datetime) -> OrderSubmitted:
    item = Item(
        line_no=1,
        material=request.material,
        finish=request.finish,
        quantity=request.quantity,
        model_key=model_key,
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
