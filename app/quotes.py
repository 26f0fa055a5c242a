"""What partners ask the price of without an order: one row for what is asked, and a pricing job of its own.

A quote is known by what it is about: the partner, the model's content, the material, the finish and the
quantity. Who asks the same again, however often and at whatever moment, finds the same quote until it
ends. Its id is a negative number, and those of orders are positive: so its job stands among theirs, has the
same turns and is taken by the same workers. An order that is priced while a quote of the same is good gets
its price.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from sqlalchemy import delete, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert

from app.flow.turns import enqueue
from app.kit.errors import AppError
from app.kit.telemetry import traceparent_of
from app.models.mes import PartnerQuote, PricingJob
from readreplica.sessions import AnySession, WriteSession
from sharding.shard_map import key_of_text

MOST_WAITING = 100
"""How many quotes of a partner may wait for their price on a shard."""
WAITS = timedelta(days=1)
"""For how long one is asked for without an answer, and a refusal is remembered."""
DEFAULT_VALID = timedelta(days=30)
"""How long a quote is good where prices have no end."""
_SWEPT_AT_ONCE = 10
_QUOTE_ID = "q_{:016x}"


class TooManyQuotes(AppError):
    """As many quotes of a partner wait for their price as may."""

    retry_after_seconds = 10

    def __init__(self, waiting: int) -> None:
        self.waiting = waiting
        self.retry_after_seconds = TooManyQuotes.retry_after_seconds
        super().__init__(f"{waiting} of your quotes wait for their price, and no more may: ask again later")


class UnknownQuote(AppError):
    """No quote has this id, or it has ended."""

    def __init__(self, quote: str) -> None:
        self.quote = quote
        super().__init__(f"there is no quote {quote!r}: ask for it anew")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a quote is about: one line of an order."""

    partner: str
    model_key: str
    material: str
    finish: str
    quantity: int

    @property
    def quote_id(self) -> int:
        """The id of its quote, which no order has."""
        # Each with its length in front, so that no two read alike.
        parts = "".join(f"{len(str(part))}:{part}" for part in asdict(self).values())
        return -(key_of_text(f"quote {parts}") & (2**63 - 1)) - 1


def is_quote(key: int) -> bool:
    """Return whether a pricing job is a quote's and not an order's."""
    return key < 0


def quote_name(quote_id: int) -> str:
    """Return an id as it is shown."""
    return _QUOTE_ID.format(-quote_id - 1)


def quote_id_of(name: str) -> int:
    """Return the id that is shown so; the name is one that `quote_name` gives."""
    return -int(name.removeprefix("q_"), 16) - 1


async def find_quote(session: AnySession, quote_id: int, *, now: datetime) -> PartnerQuote | None:
    """Return a quote that has not ended; None if there is none."""
    found = await session.get(PartnerQuote, quote_id)
    return found if found is not None and found.ends_at > now else None


async def ask_for_quote(
    session: WriteSession, asked: Asked, *, model_name: str, now: datetime
) -> PartnerQuote:
    """Find the quote of what is asked, or have the workers make it.

    Raises:
        TooManyQuotes: nothing was stored.
    """
    quote, job = PartnerQuote, PricingJob
    quote_id = asked.quote_id
    await _sweep(session, quote_id, now)
    row = {"quote_id": quote_id, **asdict(asked), "model_name": model_name, "asked_at": now}
    made = insert(quote).values({**row, "ends_at": now + WAITS}).on_conflict_do_nothing()
    is_new = await session.scalar(made.returning(quote.quote_id)) is not None
    if is_new:
        await _check_room(session, asked.partner)
    found = await session.get_one(quote, quote_id, populate_existing=True)
    if found.answered_at is None:
        # Also where a worker of a release before has dropped it, to whom it is an order that is none.
        queued = select(job.order_id).where(job.order_id == quote_id)
        if await session.scalar(queued) is None:
            sender = f"partner {asked.partner}"
            await enqueue(session, PricingJob(order_id=quote_id, sender=sender, traceparent=traceparent_of()))
    return found


async def _check_room(session: WriteSession, partner: str) -> None:
    waiting = select(literal(1)).where(PartnerQuote.partner == partner, PartnerQuote.answered_at.is_(None))
    some = waiting.limit(MOST_WAITING + 1).subquery()
    count = await session.scalar(select(func.count()).select_from(some)) or 0
    if count > MOST_WAITING:
        raise TooManyQuotes(count - 1)


async def _sweep(session: WriteSession, quote_id: int, now: datetime) -> None:
    """Delete the quote if it has ended, and a few others that have, each by its key: so Citus has it."""
    quote = PartnerQuote
    ended = select(quote.quote_id).where(quote.ends_at <= now).order_by(quote.ends_at).limit(_SWEPT_AT_ONCE)
    for each in {quote_id, *(await session.scalars(ended)).all()}:
        of_it = delete(quote).where(quote.quote_id == each, quote.ends_at <= now)
        await session.execute(of_it, execution_options={"synchronize_session": False})


async def answer_quote(
    session: WriteSession,
    quote_id: int,
    *,
    now: datetime,
    ends_at: datetime,
    unit_price: Decimal | None = None,
    price: Decimal | None = None,
    tariff_version: str | None = None,
    reason: str | None = None,
) -> None:
    """Write down the price of a quote, or why it has none."""
    of_it = update(PartnerQuote).where(PartnerQuote.quote_id == quote_id, PartnerQuote.answered_at.is_(None))
    await session.execute(
        of_it.values(
            answered_at=now,
            ends_at=ends_at,
            unit_price=unit_price,
            price=price,
            tariff_version=tariff_version,
            reason=reason,
        ),
        execution_options={"synchronize_session": False},
    )


def asked_by(partner: str, lines: Sequence[tuple[str, str, str, int]]) -> Asked | None:
    """Return what an order would have been quoted by; None if it has several lines.

    Parameters:
        partner: who has ordered.
        lines: model, material, finish and quantity of each.
    """
    if len(lines) != 1:
        return None
    [(model_key, material, finish, quantity)] = lines
    return Asked(partner=partner, model_key=model_key, material=material, finish=finish, quantity=quantity)
