"""What the services say of an order, made into one row: in whatever order it comes, and however often.

A snapshot counts if its service has said nothing newer; the row follows from the newest of each service and
from the histories. So the same snapshots make the same row, late, twice or out of order.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, BigInteger, Table, Text, bindparam, cast, func, insert, select, text, update
from sqlalchemy.dialects import postgresql

from app.messaging.events import OrderSnapshot, SnapshotEntry
from app.messaging.message import Message
from app.messaging.routing import ServiceName
from app.models.board import BoardHistory, BoardNotice, BoardOrder, BoardSource
from app.models.status import Channel, Status
from partitions.advisory_lock import wait_until_commit_sql
from readreplica.sessions import WriteSession

MOST_WORDS = 200
LONGEST_WORD = 100
_WORD = re.compile(r"[^\W_]+")
_ORDERS: Table = BoardOrder.__table__  # type: ignore[assignment]  # it is one
ROW = tuple(each.name for each in _ORDERS.columns if each.name not in {"order_id", "words"})
"""The columns that `merge` makes."""
_HOLD = text(f"{wait_until_commit_sql('order_id')} FROM unnest(CAST(:ids AS bigint[])) AS order_id")
_LIFE: Mapping[Status, int] = {status: number for number, status in enumerate(Status)}


@dataclass(frozen=True)
class BoardChange:
    """What a snapshot has changed of an order; `before` is None of one that was not known.

    `at` is when that happened in its service, where it was sent.
    """

    order_id: int
    before: Status | None
    after: Status
    at: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Marks:
    """What the row has of the histories: when it was shipped, last not cancelled, and what follows it."""

    shipped_at: datetime | None = None
    cancel_refused_at: datetime | None = None
    replaced_by: int | None = None


def search_words(*texts: str | None) -> list[str]:
    """Return the words by which an order is found, in small letters, without what stands between them."""
    found = (word for text in texts if text for word in _WORD.findall(text.casefold()))
    return list(dict.fromkeys(word[:LONGEST_WORD] for word in found))[:MOST_WORDS]


def leading(snapshots: Mapping[ServiceName, OrderSnapshot]) -> OrderSnapshot:
    """Return whose status an order has: the MES's; before it has the order, that of who is further."""
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
        "replaced_by": marks.replaced_by,
    }
    names = (line.model_name for line in lines)
    texts = (row[name] for name in ("customer_name", "customer_email", "partner", "reference", "operator"))
    return row, search_words(str(order_id), *texts, row["summary"], *names)


def _first(values: Iterable[Any]) -> Any:
    return next((value for value in values if value is not None), None)


async def apply_snapshots(
    session: WriteSession,
    source: ServiceName,
    snapshots: Mapping[int, OrderSnapshot],
    *,
    is_read: bool = False,
    is_written: bool = False,
) -> dict[int, BoardChange]:
    """Make what a service says part of its orders' rows; return what changed, by order.

    However many they are, these are the same few statements. The orders are held until the transaction ends.

    Parameters:
        session: of the board's database.
        source: the service.
        snapshots: what it says, by order.
        is_read: whether it was read of the service's tables just now, and not sent: then it also counts if
            it is as new as what is known, so that a rebuild mends what was changed by hand.
        is_written: whether customers are written of what is new in it.
    """
    ids = sorted(snapshots)
    await hold_orders(session, ids)
    appended = await _append(session, source, snapshots)
    touched = {order_id for order_id, _event_no in appended}
    if is_written:
        due = (each for order_id, said in snapshots.items() for each in notices_in(order_id, source, said))
        session.add_all(each for each in due if (each.order_id, each.event_no) in appended)
    known = await _read_sources(session, ids)
    newer = {}
    for order_id, snapshot in snapshots.items():
        before = known[order_id].get(source)
        is_newer = before is None or snapshot.version > before.version
        if is_newer or (is_read and before is not None and snapshot.version == before.version):
            known[order_id][source] = newer[order_id] = snapshot
    if newer:
        await _keep(session, source, newer)
    return await _write(session, {each: known[each] for each in ids if each in touched or each in newer})


async def hold_orders(session: WriteSession, ids: Sequence[int]) -> None:
    """Keep all others from changing orders until the transaction ends."""
    # In the order of the ids: two that hold several would wait for each other for ever.
    await session.execute(_HOLD, {"ids": sorted(ids)})


async def _append(
    session: WriteSession, source: ServiceName, snapshots: Mapping[int, OrderSnapshot]
) -> set[tuple[int, int]]:
    """Append lines to histories; return those that are new, by order and number."""
    rows = [
        {"order_id": order_id, "source": source.value, **entry.model_dump(mode="python")}
        for order_id, snapshot in snapshots.items()
        for entry in snapshot.history
    ]
    if not rows:
        return set()
    written = postgresql.insert(BoardHistory).values(rows).on_conflict_do_nothing()
    found = await session.execute(written.returning(BoardHistory.order_id, BoardHistory.event_no))
    return {(order_id, event_no) for order_id, event_no in found}


async def _read_sources(
    session: WriteSession, ids: Sequence[int]
) -> dict[int, dict[ServiceName, OrderSnapshot]]:
    table = BoardSource.__table__.c
    query = select(table.order_id, table.source, table.snapshot).where(table.order_id.in_(ids))
    found: dict[int, dict[ServiceName, OrderSnapshot]] = {order_id: {} for order_id in ids}
    for order_id, source, snapshot in await session.execute(query):
        found[order_id][ServiceName(source)] = OrderSnapshot.model_validate(snapshot)
    return found


async def _keep(session: WriteSession, source: ServiceName, snapshots: Mapping[int, OrderSnapshot]) -> None:
    rows = [
        {
            "order_id": order_id,
            "source": source.value,
            "version": snapshot.version,
            "snapshot": snapshot.model_dump(mode="json", exclude={"history"}),
        }
        for order_id, snapshot in snapshots.items()
    ]
    written = postgresql.insert(BoardSource).values(rows)
    said = {"version": written.excluded.version, "snapshot": written.excluded.snapshot}
    key = [BoardSource.order_id, BoardSource.source]
    await session.execute(written.on_conflict_do_update(index_elements=key, set_=said))


async def _write(
    session: WriteSession, known: Mapping[int, Mapping[ServiceName, OrderSnapshot]]
) -> dict[int, BoardChange]:
    """Bring the rows of orders up to what is known of them; leave those alone that are so already."""
    if not known:
        return {}
    there, marks = await _read_rows(session, list(known)), await _read_marks(session, list(known))
    changes: dict[int, BoardChange] = {}
    new, changed = [], []
    for order_id, snapshots in known.items():
        row, words = merge(order_id, snapshots, marks.get(order_id, Marks()))
        before = there.get(order_id)
        if before == row:
            continue
        status = None if before is None else before["status"]
        changes[order_id] = BoardChange(order_id, status, row["status"])
        said = {**row, "found_by": words}
        if before is None:
            new.append(said)
        else:
            changed.append({**said, "its_id": order_id, "its_status": status})
    words_said = func.array_to_tsvector(bindparam("found_by", type_=ARRAY(Text)))
    names = [*ROW, "order_id"]
    columns: dict[str, Any] = {name: bindparam(name) for name in names} | {"words": words_said}
    if new:
        await session.execute(insert(_ORDERS).values(columns), new)
    if changed:
        # The status that an order has stands in the condition: one partition is looked at.
        of = _ORDERS.c.order_id == bindparam("its_id"), _ORDERS.c.status == bindparam("its_status")
        await session.execute(update(_ORDERS).where(*of).values(columns), changed)
    return changes


async def _read_rows(session: WriteSession, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    query = select(_ORDERS.c.order_id, *(_ORDERS.c[name] for name in ROW))
    rows = await session.execute(query.where(_ORDERS.c.order_id.in_(ids)))
    return {row.order_id: dict(row._mapping) for row in rows}


async def _read_marks(session: WriteSession, ids: Sequence[int]) -> dict[int, Marks]:
    line = BoardHistory
    is_shipping = (line.source == ServiceName.MES.value) & (line.status == Status.SHIPPED)
    is_refusal = (line.source == ServiceName.CRM.value) & line.detail.has_key("cancel_refused")
    replaced_by = cast(line.detail["replaced_by"].astext, BigInteger)
    query = (
        select(
            line.order_id,
            func.min(line.at).filter(is_shipping),
            func.max(line.at).filter(is_refusal),
            func.max(replaced_by).filter(line.source == ServiceName.SHOP.value),
        )
        .where(line.order_id.in_(ids))
        .group_by(line.order_id)
    )
    return {
        order_id: Marks(shipped_at, refused_at, replaced)
        for order_id, shipped_at, refused_at, replaced in await session.execute(query)
    }


def kind_of(source: ServiceName, entry: SnapshotEntry) -> str | None:
    """Return what a customer is written of a line of a history; None of most. Pure."""
    facts = entry.detail.keys()
    if source is ServiceName.CRM:
        return "file_requested" if "file_requested" in facts else None
    if source is not ServiceName.MES:
        return None
    if "price_renewed" in facts:
        return "repriced"
    # Other lines than the one that brought a status are written while the order has it.
    is_change = not facts & {"cancel_refused", "handed_over", "requote_requested"}
    return _OF_STATUS.get(entry.status) if is_change else None


_OF_STATUS: Mapping[Status, str] = {
    Status.PRICE_CALCULATED: "priced",
    Status.REJECTED: "rejected",
    Status.SHIPPED: "shipped",
    Status.CANCELLED: "cancelled",
}


def notices_in(order_id: int, source: ServiceName, snapshot: OrderSnapshot) -> list[BoardNotice]:
    """Return what a customer is to be written of the lines of a snapshot."""
    if snapshot.channel is not Channel.B2C:
        return []
    found = [(entry, kind_of(source, entry)) for entry in snapshot.history]
    return [
        BoardNotice(
            order_id=order_id,
            source=source.value,
            event_no=entry.event_no,
            kind=kind,
            at=entry.at,
            attempts=0,
            next_at=entry.at,
        )
        for entry, kind in found
        if kind is not None
    ]


@dataclass(frozen=True)
class Projection:
    """Handles the messages to the board.

    Parameters:
        services: whose each database is, by the topology.
        changes: what was changed by messages whose acknowledgement is under way, by order.
        is_written: whether customers are written of what happens.
    """

    services: Mapping[str, ServiceName]
    changes: dict[int, BoardChange]
    is_written: bool = False

    async def handle(self, session: WriteSession, message: Message) -> None:
        """Make a snapshot part of its order's row."""
        assert isinstance(message.data, OrderSnapshot), "the routing table gives the board nothing else"
        # A database that is newer than this process is a shard of the MES: no other service gets more.
        source = self.services.get(message.source, ServiceName.MES)
        changes = await apply_snapshots(
            session, source, {message.order_id: message.data}, is_written=self.is_written
        )
        at = max((line.at for line in message.data.history), default=None)
        self.changes.update({each: replace(change, at=at) for each, change in changes.items()})
