"""What the services say of an order, made into one row: in whatever order it comes, and however often.

A snapshot counts if its service has said nothing newer; the row follows from the newest of each service and
from the histories. So the same snapshots make the same row, late, twice or out of order.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, Text, func, insert, literal, select, update
from sqlalchemy.dialects import postgresql

from app.messaging.events import HistoryEntry, OrderSnapshot
from app.messaging.message import Message
from app.messaging.routing import ServiceName
from app.models.board import BoardHistory, BoardOrder, BoardSource
from app.models.status import Status
from readreplica.sessions import WriteSession

MOST_WORDS = 200
LONGEST_WORD = 100
_WORD = re.compile(r"[^\W_]+")
_LIFE: Mapping[Status, int] = {status: number for number, status in enumerate(Status)}


@dataclass(frozen=True)
class Change:
    """What a snapshot has changed of an order; `before` is None of one that was not known."""

    order_id: int
    before: Status | None
    after: Status


@dataclass(frozen=True)
class Marks:
    """What the row has of the histories: when it was shipped, and when MES last refused to cancel it."""

    shipped_at: datetime | None = None
    cancel_refused_at: datetime | None = None


def words_of(*texts: str | None) -> list[str]:
    """Return the words by which an order is found, in small letters, without what stands between them."""
    found = (word for text in texts if text for word in _WORD.findall(text.casefold()))
    return list(dict.fromkeys(word[:LONGEST_WORD] for word in found))[:MOST_WORDS]


def leading(snapshots: Mapping[ServiceName, OrderSnapshot]) -> OrderSnapshot:
    """Return whose status an order has: the MES's, and before it has the order, whoever is further."""
    if ServiceName.MES in snapshots:
        return snapshots[ServiceName.MES]
    others = [snapshots[each] for each in (ServiceName.CRM, ServiceName.SHOP) if each in snapshots]
    return max(others, key=lambda each: _LIFE[each.status])


def merge(
    order_id: int, snapshots: Mapping[ServiceName, OrderSnapshot], marks: Marks
) -> tuple[dict[str, Any], list[str]]:
    """Return the row of an order, and the words by which it is found.

    Parameters:
        order_id: the order.
        snapshots: the newest of each service that has said anything; at least one.
        marks: of the histories.
    """
    first = leading(snapshots)
    shop, crm, mes = (snapshots.get(each) for each in (ServiceName.SHOP, ServiceName.CRM, ServiceName.MES))
    # Of what several say, the one that decides it comes first.
    said = [each for each in (mes, crm, shop) if each is not None]
    quoted = next((each for each in (crm, shop) if each is not None and each.price is not None), None)
    customer = next((each.customer for each in said if each.customer is not None), None)
    lines = next((each.lines for each in said if each.lines), ())
    row = {
        "order_id": order_id,
        "status": first.status,
        "channel": first.channel,
        "summary": first.summary,
        "created_at": min(each.created_at for each in said),
        "changed_at": first.changed_at,
        "shop_status": shop.status if shop else None,
        "crm_status": crm.status if crm else None,
        "mes_status": mes.status if mes else None,
        "price": _first(each.price for each in said),
        "price_valid_until": quoted.price_valid_until if quoted else None,
        "tariff_version": quoted.tariff_version if quoted else None,
        "reason": _first(each.reason for each in said),
        "customer_name": customer.name if customer else None,
        "customer_email": customer.email if customer else None,
        "partner": _first(each.partner for each in said),
        "reference": mes.reference if mes else None,
        "operator": mes.operator if mes else None,
        "materials": sorted({line.material for line in lines}),
        "quantity": sum(line.quantity for line in lines),
        "cancel_requested_at": crm.cancel_requested_at if crm else None,
        "requote_requested_at": crm.requote_requested_at if crm else None,
        "cancel_refused_at": marks.cancel_refused_at,
        "shipped_at": marks.shipped_at,
    }
    names = (line.model_name for line in lines)
    texts = (row[name] for name in ("customer_name", "customer_email", "partner", "reference", "operator"))
    return row, words_of(str(order_id), *texts, row["summary"], *names)


def _first(values: Iterable[Any]) -> Any:
    return next((value for value in values if value is not None), None)


async def apply_snapshot(
    session: WriteSession,
    order_id: int,
    source: ServiceName,
    snapshot: OrderSnapshot,
    *,
    is_read: bool = False,
) -> Change | None:
    """Make what a service says part of an order's row; return what changed, or None if nothing did.

    Parameters:
        session: of the board's database; this holds the order until its transaction ends.
        order_id: the order.
        source: the service.
        snapshot: what it says.
        is_read: whether it was read of the service's tables just now, and not sent: then it also counts if
            it is as new as what is known, so that a rebuild mends what was changed by hand.
    """
    await session.execute(select(func.pg_advisory_xact_lock(order_id)))
    has_lines = await _append(session, order_id, source, snapshot.history)
    known = await _read_sources(session, order_id)
    before = known.get(source)
    is_newer = before is None or snapshot.version > before.version
    if is_newer or (is_read and before is not None and snapshot.version == before.version):
        known[source] = snapshot
        await _keep(session, order_id, source, snapshot)
    elif not has_lines:
        return None
    return await _write(session, order_id, known)


async def _append(
    session: WriteSession, order_id: int, source: ServiceName, history: Sequence[HistoryEntry]
) -> bool:
    """Append lines to a history; return whether any of them was new."""
    if not history:
        return False
    rows = [
        {"order_id": order_id, "source": source.value, **entry.model_dump(mode="python")} for entry in history
    ]
    written = postgresql.insert(BoardHistory).values(rows).on_conflict_do_nothing()
    return (await session.execute(written.returning(BoardHistory.event_no))).first() is not None


async def _read_sources(session: WriteSession, order_id: int) -> dict[ServiceName, OrderSnapshot]:
    query = select(BoardSource.source, BoardSource.snapshot).where(BoardSource.order_id == order_id)
    rows = await session.execute(query)
    return {ServiceName(source): OrderSnapshot.model_validate(snapshot) for source, snapshot in rows}


async def _keep(session: WriteSession, order_id: int, source: ServiceName, snapshot: OrderSnapshot) -> None:
    kept = snapshot.model_dump(mode="json", exclude={"history"})
    values = {"version": snapshot.version, "snapshot": kept}
    row = {"order_id": order_id, "source": source.value, **values}
    written = postgresql.insert(BoardSource).values(row)
    await session.execute(
        written.on_conflict_do_update(index_elements=[BoardSource.order_id, BoardSource.source], set_=values)
    )


async def _write(session: WriteSession, order_id: int, known: Mapping[ServiceName, OrderSnapshot]) -> Change:
    before, marks = await _read_marks(session, order_id)
    row, words = merge(order_id, known, marks)
    values = {**row, "words": func.array_to_tsvector(literal(words, ARRAY(Text)))}
    if before is None:
        await session.execute(insert(BoardOrder).values(values))
    else:
        # The status that it has stands in the condition: one partition is looked at.
        there = BoardOrder.order_id == order_id, BoardOrder.status == before
        changed = update(BoardOrder).where(*there).values(values)
        await session.execute(changed.execution_options(synchronize_session=False))
    return Change(order_id, before, row["status"])


async def _read_marks(session: WriteSession, order_id: int) -> tuple[Status | None, Marks]:
    """Return the status of an order's row, None if it has none, and what its histories say."""
    line = BoardHistory
    is_shipping = (line.source == ServiceName.MES.value) & (line.status == Status.SHIPPED)
    is_refusal = (line.source == ServiceName.CRM.value) & line.detail.has_key("cancel_refused")
    status = select(BoardOrder.status).where(BoardOrder.order_id == order_id).scalar_subquery()
    query = select(status, func.min(line.at).filter(is_shipping), func.max(line.at).filter(is_refusal)).where(
        line.order_id == order_id
    )
    before, shipped_at, refused_at = (await session.execute(query)).one()
    return before, Marks(shipped_at, refused_at)


@dataclass(frozen=True)
class Projection:
    """Handles the messages to the board.

    Parameters:
        services: whose each database is, by the topology.
        changes: what was changed by messages whose acknowledgement is under way, by order.
    """

    services: Mapping[str, ServiceName]
    changes: dict[int, Change]

    async def handle(self, session: WriteSession, message: Message) -> None:
        """Make a snapshot part of its order's row."""
        assert isinstance(message.data, OrderSnapshot), "the routing table gives the board nothing else"
        # A database that is newer than this process is a shard of the MES: no other service gets more.
        source = self.services.get(message.source, ServiceName.MES)
        change = await apply_snapshot(session, message.order_id, source, message.data)
        if change is not None:
            self.changes[message.order_id] = change
