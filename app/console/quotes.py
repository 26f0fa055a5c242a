"""`mesctl orders quotes`: the prices that wait for approval, and which have ended or have other rates by now.

A price that was given stays until its end, whatever becomes of the price list. To renew the prices that a
change of the list touches is a decision: `renew --touched`.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from functools import partial
from typing import Annotated, Any

import typer
from sqlalchemy import select

from app.crm.service import request_quote
from app.database import open_shards
from app.kit.caller import calling, shell_user
from app.kit.clock import utc_now
from app.models.crm import CrmOrder
from app.models.mes import MesOrderItem
from app.models.status import IllegalTransition, Status
from app.orders import UnknownOrder
from app.pricing.errors import UnknownChoice
from app.pricing.tariff import Tariff, read_tariff, tariff_version
from ops.options import options_of
from ops.output import note, show_rows
from readreplica.cluster import Cluster
from sharding.engines import open_cluster
from sharding.ids import MAX_ID
from sharding.sessions import ShardedSessions
from sharding.topology import Topology

app = typer.Typer(help="Find prices that have ended or have other rates by now.", no_args_is_help=True)

PAGE_ORDERS = 500


class QuoteState(StrEnum):
    """How a price that waits for approval stands."""

    VALID = "valid"
    ASKED = "a new one is asked for"
    EXPIRED = "expired"
    TOUCHED = "other rates"


@dataclass(frozen=True, kw_only=True)
class OpenQuote:
    """A price that waits for approval."""

    order_id: int
    price: Decimal | None
    valid_until: datetime | None
    state: QuoteState

    def as_json(self) -> dict[str, Any]:
        """Return it as a row."""
        ends = None if self.valid_until is None else self.valid_until.isoformat(timespec="seconds")
        price = None if self.price is None else str(self.price)
        return {"order_id": str(self.order_id), "price": price, "valid_until": ends, "state": self.state}


def state_of(
    order: CrmOrder, items: Collection[MesOrderItem], tariff: Tariff, *, now: datetime
) -> QuoteState:
    """Decide how the price of an order stands.

    Parameters:
        order: one that waits for approval.
        items: its lines.
        tariff: the price list in force.
        now: the moment.
    """
    if order.requote_requested_at is not None:
        return QuoteState.ASKED
    if order.price_valid_until is not None and order.price_valid_until <= now:
        return QuoteState.EXPIRED
    if order.tariff_version is None or order.tariff_version == _version(items, tariff):
        return QuoteState.VALID
    return QuoteState.TOUCHED


def _version(items: Collection[MesOrderItem], tariff: Tariff) -> str | None:
    try:
        return tariff_version(
            tariff, materials={item.material for item in items}, finishes={item.finish for item in items}
        )
    except UnknownChoice:
        return None


@dataclass(frozen=True)
class Quotes:
    """The prices that wait for approval: those of the CRM, beside the lines and the price list of the MES."""

    crm: Cluster
    shards: ShardedSessions

    async def find(self, *, now: datetime) -> AsyncIterator[OpenQuote]:
        """Yield them in the order of their ids, read a page at a time."""
        last = -1
        while orders := await self._page(after=last):
            last = orders[-1].order_id
            by_shard: dict[str, list[CrmOrder]] = defaultdict(list)
            for order in orders:
                by_shard[self.shards.shard_of(order.order_id)].append(order)
            found = [
                quote for shard, some in by_shard.items() for quote in await self._judge(shard, some, now)
            ]
            for quote in sorted(found, key=lambda quote: quote.order_id):
                yield quote

    async def _page(self, *, after: int) -> Sequence[CrmOrder]:
        waiting = select(CrmOrder).where(
            CrmOrder.status == Status.PRICE_CALCULATED, CrmOrder.order_id > after
        )
        async with self.crm.write() as session:
            return (await session.scalars(waiting.order_by(CrmOrder.order_id).limit(PAGE_ORDERS))).all()

    async def _judge(self, shard: str, orders: Sequence[CrmOrder], now: datetime) -> list[OpenQuote]:
        lines: dict[int, list[MesOrderItem]] = defaultdict(list)
        async with self.shards.clusters[shard].write() as session:
            wanted = MesOrderItem.order_id.in_([order.order_id for order in orders])
            for item in await session.scalars(select(MesOrderItem).where(wanted)):
                lines[item.order_id].append(item)
            tariff = await read_tariff(session)
        return [
            OpenQuote(
                order_id=order.order_id,
                price=order.price,
                valid_until=order.price_valid_until,
                state=state_of(order, lines[order.order_id], tariff, now=now),
            )
            for order in orders
        ]

    async def renew(self, quotes: Iterable[OpenQuote], *, actor: str) -> list[OpenQuote]:
        """Ask MES for new prices, as a seller does; what is approved or has ended meanwhile is left out."""
        asked = []
        for quote in quotes:
            try:
                ask = partial(request_quote, quote.order_id, actor=actor, now=utc_now())
                with calling(shell_user()):
                    await self.crm.transact(ask)
            except (UnknownOrder, IllegalTransition) as error:
                note(f"left alone: {error}")
            else:
                asked.append(quote)
        return asked


@asynccontextmanager
async def open_quotes(topology: Topology) -> AsyncIterator[Quotes]:
    """Connect to the CRM and to the shards of the MES."""
    async with AsyncExitStack() as opened:
        crm = open_cluster(topology, "crm", role="crm", application_name="mesctl")
        shards = open_shards(topology, application_name="mesctl")
        quotes = Quotes(await opened.enter_async_context(crm), await opened.enter_async_context(shards))
        yield quotes


@app.command("list")
def list_(
    context: typer.Context,
    *,
    all_: Annotated[bool, typer.Option("--all", help="The valid ones too.")] = False,
) -> None:
    """List the prices that wait for approval and have ended, or have other rates in the price list by now."""
    options = options_of(context)
    states = set(QuoteState) if all_ else set(QuoteState) - {QuoteState.VALID}
    found = asyncio.run(_found(options.topology(), states, order=None))
    show_rows(options, [each.as_json() for each in found], empty="every price that waits is valid")


@app.command("renew")
def renew(
    context: typer.Context,
    *,
    expired: Annotated[bool, typer.Option("--expired", help="Those that have ended.")] = False,
    touched: Annotated[
        bool, typer.Option("--touched", help="Those whose rates are others in the price list by now.")
    ] = False,
    order: Annotated[int | None, typer.Option("--order", min=0, max=MAX_ID, help="This one.")] = None,
    actor: Annotated[str, typer.Option("--actor", help="Who decides it; the history keeps it.")] = "mesctl",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be asked for.")] = False,
) -> None:
    """Ask for new prices by the price list of now. Nothing is measured that was measured before.

    Until its new price is there, an order cannot be approved. A price that was renewed stays: there is no way
    back to the former one.
    """
    options = options_of(context)
    if not (expired or touched or order is not None):
        raise typer.BadParameter("give --expired, --touched or --order")
    states = {QuoteState.EXPIRED} if expired else set()
    states |= {QuoteState.TOUCHED} if touched else set()
    if order is not None:
        states = states or set(QuoteState) - {QuoteState.ASKED}
    done = asyncio.run(_renewed(options.topology(), states, order=order, actor=actor, dry_run=dry_run))
    show_rows(options, [each.as_json() for each in done], empty="no price is to be renewed")


async def _found(topology: Topology, states: set[QuoteState], *, order: int | None) -> list[OpenQuote]:
    async with open_quotes(topology) as quotes:
        return await _chosen(quotes, states, order=order)


async def _renewed(
    topology: Topology, states: set[QuoteState], *, order: int | None, actor: str, dry_run: bool
) -> list[OpenQuote]:
    async with open_quotes(topology) as quotes:
        chosen = await _chosen(quotes, states, order=order)
        return chosen if dry_run else await quotes.renew(chosen, actor=actor)


async def _chosen(quotes: Quotes, states: set[QuoteState], *, order: int | None) -> list[OpenQuote]:
    found = [each async for each in quotes.find(now=utc_now())]
    return [each for each in found if each.state in states and order in {None, each.order_id}]
