"""Price one order that was leased: measure its models, decide, and settle it in one transaction."""

from base64 import b64decode
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import timedelta
from enum import Enum, auto
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import structlog
from sqlalchemy import select, update

from app import instruments
from app.files import ModelMissing, ModelStore
from app.following import standing_quote
from app.instruments import PricingAttempt
from app.kit.clock import Clock
from app.messaging.events import OrderRejected, PriceCalculated, PriceRenewed
from app.models.mes import MesOrder, MesOrderItem, PartnerQuote
from app.models.status import Status
from app.orders import (
    MES,
    UnknownOrder,
    announce,
    lock_order,
    record_event,
    renew_price,
)
from app.pricing import jobs
from app.pricing.cache import MeasurementCache, ShapeIndex
from app.pricing.decision import ACTOR, Outcomes, decide, explained, rejected
from app.pricing.errors import AttemptsExhausted, ModelLost
from app.pricing.jobs import Lease
from app.pricing.measurement import Outcome, Unmeasurable
from app.pricing.sandbox import Sandbox
from app.pricing.tariff import Tariff, read_tariff
from app.quotes import DEFAULT_VALID, WAITS, answer_quote, asked_by, find_quote, is_quote
from readreplica.sessions import WriteSession
from readreplica.token import CausalToken
from sharding.sessions import ShardedSessions

Verdict = PriceCalculated | OrderRejected
"""What becomes of an order that has no price yet."""


class Considered(NamedTuple):
    """A verdict, and what the order's history says of how it came about."""

    verdict: Verdict
    how: Mapping[str, Any]


log: structlog.stdlib.BoundLogger = structlog.get_logger("pricing")

MOST_EXPIRED = 10
"""After how many expired leases an order is rejected: one that kills its workers must not do so for ever.
They are more than the attempts, for a database that was away for seconds looks the same."""


_MOST_UNSHOWN = 200


class Settlement(Enum):
    """What became of a job: it was done, another worker had it by then, or its order was cancelled."""

    DONE = auto()
    LEASE_LOST = auto()
    JOB_DROPPED = auto()


class Pricer:
    """Turns a leased job into a price or a rejection."""

    def __init__(
        self,
        sessions: ShardedSessions,
        models: ModelStore,
        sandbox: Sandbox,
        *,
        now: Clock,
        max_attempts: int,
        price_valid_for: timedelta | None = None,
    ) -> None:
        """Make a pricer.

        Parameters:
            sessions: the MES shards.
            models: where the model files are.
            sandbox: measures them.
            now: the clock for the orders' histories.
            max_attempts: attempts after which an order is rejected, of those that had an end.
            price_valid_for: how long a price may be approved; None for ever.
        """
        self._sessions = sessions
        self._models = models
        self._sandbox = sandbox
        self._now = now
        self._max_attempts = max_attempts
        self._price_valid_for = price_valid_for
        self._cache = MeasurementCache(sessions)
        self._unshown: deque[str] = deque(maxlen=_MOST_UNSHOWN)

    async def price(self, held: Lease, *, after: CausalToken) -> bool:
        """Price an order and settle it.

        Parameters:
            held: the lease on its job.
            after: the token of the lease, so that a replica is read that has the order.

        Returns:
            False if there is no answer yet, and another attempt may find one: the job is still leased.
        """
        with instruments.pricing_attempt() as attempt:
            if self._is_exhausted(held):
                found: Considered | None = Considered(rejected(str(AttemptsExhausted(held.attempt - 1))), {})
            else:
                found = await self._consider(held, after, attempt)
            if found is None:
                return False
            await self._end(held, found)
            attempt.outcome = "priced" if isinstance(found.verdict, PriceCalculated) else "rejected"
        return True

    def _is_exhausted(self, held: Lease) -> bool:
        return held.tries > self._max_attempts or held.expired >= MOST_EXPIRED

    async def _end(self, held: Lease, found: Considered) -> None:
        settled = await self._sessions.transact(held.order_id, partial(self._settle, held, found))
        if settled.value is Settlement.LEASE_LOST:
            log.info("lease_lost", attempt=held.attempt)
        elif settled.value is Settlement.JOB_DROPPED:
            log.info("job_dropped", attempt=held.attempt)
        else:
            log.info("order_settled", attempt=held.attempt, verdict=found.verdict.model_dump(mode="json"))

    async def _consider(self, held: Lease, after: CausalToken, attempt: PricingAttempt) -> Considered | None:
        items, tariff, partner = await self._read(held.order_id, after)
        attempt.reused = True  # until one is measured
        keys = {item.model_key for item in items}
        outcomes: Outcomes = {key: await self._measured(key, attempt) for key in keys}
        unclear = any(isinstance(found, Unmeasurable) and not found.final for found in outcomes.values())
        if unclear and held.tries < self._max_attempts:
            return None
        valid_for = self._price_valid_for
        if valid_for is None and is_quote(held.order_id):
            valid_for = DEFAULT_VALID
        valid_until = None if valid_for is None else self._now() + valid_for
        decided = decide(items, outcomes, tariff, valid_until=valid_until)
        if not isinstance(decided, PriceCalculated):
            return Considered(decided, {})
        quoted = decided if partner is None else await self._as_quoted(partner, items, decided)
        # A price that was quoted may be by another price list.
        how = explained(items, outcomes, tariff, with_prices=quoted.items == decided.items)
        return Considered(quoted, how)

    async def _read(
        self, order_id: int, after: CausalToken
    ) -> tuple[Sequence[MesOrderItem], Tariff, str | None]:
        """Return the lines, the price list, and the partner whose quotes count: none if there is a price."""
        async with self._sessions.read(order_id, after=after) as session:
            tariff = await read_tariff(session)
            if is_quote(order_id):
                quote = await find_quote(session, order_id, now=self._now())
                return [_line_of(quote)] if quote is not None else [], tariff, None
            line = MesOrderItem
            lines = select(line).where(line.order_id == order_id).order_by(line.line_no)
            order = await session.get(MesOrder, order_id)
            is_first = order is not None and order.status is Status.SUBMITTED
            partner = order.partner if order is not None and is_first else None
            return (await session.scalars(lines)).all(), tariff, partner

    async def _as_quoted(
        self, partner: str, items: Sequence[MesOrderItem], decided: PriceCalculated
    ) -> PriceCalculated:
        """Return the price that the partner was quoted for the same, if that is good; else the one of now."""
        lines = [(item.model_key, item.material, item.finish, item.quantity) for item in items]
        asked = asked_by(partner, lines)
        if asked is None:
            return decided
        # Of the primary: it may have been quoted a moment ago.
        find = partial(find_quote, quote_id=asked.quote_id, now=self._now())
        quote = (await self._sessions.transact(asked.quote_id, find)).value
        if quote is None or quote.price is None or quote.unit_price is None or quote.partner != partner:
            return decided
        [line] = decided.items
        return decided.model_copy(
            update={
                "price": quote.price,
                "items": (line.model_copy(update={"unit_price": quote.unit_price}),),
                "price_valid_until": quote.ends_at,
                "tariff_version": quote.tariff_version,
            }
        )

    async def _measured(self, model_key: str, attempt: PricingAttempt) -> Outcome:
        digest = PurePosixPath(model_key).name
        return await self._cache.get_or_measure(digest, partial(self._fetch_and_measure, model_key, attempt))

    async def _fetch_and_measure(self, model_key: str, attempt: PricingAttempt) -> Outcome:
        name = PurePosixPath(model_key)
        with TemporaryDirectory(prefix="pricing-") as folder:
            path = Path(folder) / name.name
            try:
                await self._models.fetch(model_key, path)
            except ModelMissing:
                attempt.reused = False
                # A store that copies with a delay may have it later.
                return Unmeasurable(reason=str(ModelLost(name.name)), final=False)
            shapes = ShapeIndex(self._sessions)
            suffix = name.suffix.removeprefix(".")
            outcome = await self._sandbox.measure(path, suffix=suffix, shapes=shapes)
        self._unshown.append(model_key)
        if shapes.recognised:
            log.info("piece_recognised", model=name.name)
        attempt.reused = attempt.reused and shapes.recognised
        return outcome

    async def show_next(self) -> bool:
        """Make what is shown of a model that was measured here; False if there is none left.

        It is no part of a price: a worker does it when it has no order, and forgets it when it ends.

        Raises:
            FilesUnavailable, SandboxUnavailable: it was not made.
        """
        if not self._unshown:
            return False
        await show_model(self._models, self._sandbox, self._unshown.pop())
        return True

    async def _settle(self, held: Lease, found: Considered, session: WriteSession) -> Settlement:
        """Write the verdict, owe it to the others and delete the job: all or nothing; name what happened."""
        verdict, how = found
        if is_quote(held.order_id):
            return await self._answer(held, verdict, session)
        try:
            order = await lock_order(session, MES, held.order_id)
        except UnknownOrder:
            order = None
        if not await jobs.finish(session, held):
            return Settlement.LEASE_LOST
        if order is None or order.status not in {Status.SUBMITTED, Status.PRICE_CALCULATED}:
            return Settlement.JOB_DROPPED  # it was cancelled meanwhile
        if isinstance(verdict, PriceCalculated):
            await _write_prices(session, held.order_id, verdict)
        now = self._now()
        if order.status is Status.PRICE_CALCULATED and (
            isinstance(verdict, PriceCalculated) or self._is_exhausted(held)
        ):
            # It has a price. Where no new one was found, that one stays, and the CRM hears so.
            new = dict(verdict) if isinstance(verdict, PriceCalculated) else None
            renewed = PriceRenewed(**(new or await standing_quote(session, held.order_id, actor=ACTOR)))
            await renew_price(session, MES, order, renewed, now=now, how=how)
            await announce(session, MES, order, renewed, now=now)
        else:
            await record_event(session, MES, order, verdict, now=now, how=how)
        return Settlement.DONE

    async def _answer(self, held: Lease, verdict: Verdict, session: WriteSession) -> Settlement:
        """Write the price of a quote, or why it has none."""
        if not await jobs.finish(session, held):
            return Settlement.LEASE_LOST
        now = self._now()
        if isinstance(verdict, PriceCalculated):
            [line] = verdict.items
            assert verdict.price_valid_until is not None
            await answer_quote(
                session,
                held.order_id,
                now=now,
                ends_at=verdict.price_valid_until,
                unit_price=line.unit_price,
                price=verdict.price,
                tariff_version=verdict.tariff_version,
            )
        else:
            await answer_quote(session, held.order_id, now=now, ends_at=now + WAITS, reason=verdict.reason)
        return Settlement.DONE


def _line_of(quote: PartnerQuote) -> MesOrderItem:
    """Return what a quote asks for, as the line of an order that is none."""
    return MesOrderItem(
        order_id=quote.quote_id,
        line_no=1,
        material=quote.material,
        finish=quote.finish,
        quantity=quote.quantity,
        model_key=quote.model_key,
        model_name=quote.model_name,
    )


async def show_model(models: ModelStore, sandbox: Sandbox, model_key: str) -> bool:
    """Make what is shown of a model, and store it; False if the model is gone, or cannot be shown.

    Raises:
        FilesUnavailable, SandboxUnavailable: it was not made.
    """
    name = PurePosixPath(model_key)
    with TemporaryDirectory(prefix="preview-") as folder:
        path = Path(folder) / name.name
        try:
            await models.fetch(model_key, path)
        except ModelMissing:
            return False
        shown = await sandbox.preview(path, suffix=name.suffix.removeprefix("."))
    if shown is None:
        return False
    await models.put_preview(model_key, "glb", b64decode(shown.glb))
    # It is looked for by its picture, which therefore comes last.
    await models.put_preview(model_key, "png", b64decode(shown.png))
    return True


async def _write_prices(session: WriteSession, order_id: int, verdict: PriceCalculated) -> None:
    for item in verdict.items:
        await session.execute(
            update(MesOrderItem)
            .where(MesOrderItem.order_id == order_id, MesOrderItem.line_no == item.line_no)
            .values(unit_price=item.unit_price)
        )
