"""What the exporter reads of the order system itself: orders by status, messages that are owed, pricing.

No reading looks at all the orders that have ended: open ones have an index or a partition of their own, and
of the others a large table is estimated. Each kind of reading of a database is repeated only after a multiple
of the time that it took: whatever the size of the tables, it costs a small share of one core.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from sqlalchemy import ColumnElement, Connection, DateTime, case, func, literal, select, text
from sqlalchemy.exc import DBAPIError

from app.console.audit.databases import SERVICE_TABLES, OrderDatabases
from app.messaging.outbox import is_behind_dead_letter
from app.messaging.routing import ServiceName
from app.models.base import STATUS
from app.models.mes import MesOrder, ModelMeasurement, PricingJob
from app.models.shop import ShopOrder
from app.models.status import DONE, HOT, Status
from ops.monitoring.databases import open_limited
from ops.partitions.metrics import Sample
from sharding.topology import Topology

REST_FACTOR = 50
"""For how many times its own duration a reading rests: it is at work for 2 % of the time at most."""

DATABASES_AT_ONCE = 8
COUNTED_BYTES = 8 * 2**20
"""The size of a table, with its partitions, up to which the orders in it that have ended are counted."""

# Of a table that is no partition, pg_partition_tree says nothing.
_LEAVES = """
    WITH leaf AS (
        SELECT relid FROM pg_partition_tree(CAST(:table AS regclass)) WHERE isleaf
        UNION SELECT CAST(:table AS regclass)
    )
"""
_SIZE = text(f"{_LEAVES} SELECT coalesce(sum(pg_relation_size(relid)), 0) FROM leaf")

# As the planner does it: the density of the last ANALYZE, times the size of now.
_ESTIMATE = text(f"""
    {_LEAVES}
    SELECT shares.status, sum(shares.share * tuples.count) AS count
    FROM leaf
    JOIN pg_class AS class ON class.oid = leaf.relid AND class.relkind = 'r' AND class.reltuples > 0
    JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
    JOIN pg_stats AS stats ON stats.schemaname = namespace.nspname AND stats.tablename = class.relname
        AND stats.attname = 'status'
    CROSS JOIN LATERAL (
        SELECT class.reltuples / greatest(class.relpages, 1)
            * pg_relation_size(class.oid) / current_setting('block_size')::int AS count
    ) AS tuples
    CROSS JOIN LATERAL unnest(stats.most_common_vals::text::text[], stats.most_common_freqs)
        AS shares (status, share)
    WHERE shares.status = ANY (:statuses)
    GROUP BY shares.status
""")

Read = Callable[[str, Connection], Iterator[Sample]]


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read last, and when it is read again, by the monotonic clock."""

    samples: tuple[Sample, ...]
    due_at: float


_readings: dict[tuple[Path, str], dict[str, Reading]] = defaultdict(dict)
"""By topology file and database, then by kind."""
_lock = Lock()


def read_samples(topology: Topology) -> list[Sample]:
    """Return the samples of every database of the order system; what cannot be read has none.

    It may be called at any rate: what is dear to read is returned as it was read last.
    """
    services = OrderDatabases(topology).services
    with _lock, ThreadPoolExecutor(max_workers=DATABASES_AT_ONCE) as pool:
        found = pool.map(partial(_read_database, topology), services, services.values())
        return [sample for samples in found for sample in samples]


def _read_database(topology: Topology, name: str, service: ServiceName) -> list[Sample]:
    """Read what is due of a database. The exporter itself says which databases do not answer."""
    readings, kinds = _readings[topology.path, name], _kinds(service)
    now = time.monotonic()
    due = [kind for kind in kinds if kind not in readings or readings[kind].due_at <= now]
    # What cannot be read now is not shown as new.
    readings.update(dict.fromkeys(due, Reading((), now)))
    try:
        if due:
            with open_limited(topology, topology.database(name)) as connection:
                for kind in due:
                    readings[kind] = _timed(partial(kinds[kind], name, connection))
    except DBAPIError:
        readings.update(dict.fromkeys(kinds, Reading((), now)))
    return [sample for kind in kinds for sample in readings[kind].samples]


def _timed(read: Callable[[], Iterator[Sample]]) -> Reading:
    began, samples = time.monotonic(), tuple[Sample, ...]()
    try:
        samples = tuple(read())
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
    ended = time.monotonic()
    return Reading(samples, ended + REST_FACTOR * (ended - began))


def _kinds(service: ServiceName) -> dict[str, Read]:
    """Return what is read from a service's database."""
    found: dict[str, Read] = {
        "open": partial(_open_orders, service),
        "ended": partial(_ended_orders, service),
        "messages": partial(_messages, service),
    }
    if service is ServiceName.SHOP:
        found["customers"] = _customers
    if service is ServiceName.MES:
        found |= {"jobs": _jobs, "measurements": _measurements}
    return found


def _open_orders(service: ServiceName, database: str, connection: Connection) -> Iterator[Sample]:
    model = SERVICE_TABLES[service].orders[0]  # none in the archive is open
    query = select(model.status, func.count(), _age(func.min(model.changed_at)))
    rows = connection.execute(query.where(_is_one_of(model, HOT)).group_by(model.status)).all()
    counts = {status: count for status, count, _ in rows}
    for status in HOT:
        yield Sample("app_orders", {"database": database, "status": status.value}, counts.get(status, 0))
    for status, _, age in rows:
        labels = {"database": database, "status": status.value}
        yield Sample("app_orders_oldest_seconds", labels, float(age))


def _ended_orders(service: ServiceName, database: str, connection: Connection) -> Iterator[Sample]:
    """Count the orders that have ended; where they are many, as PostgreSQL estimates them."""
    counts = Counter(dict.fromkeys(DONE, 0.0))
    for model in SERVICE_TABLES[service].orders:
        size = connection.scalar(_SIZE, {"table": model.__tablename__})
        counts.update(_count(model, connection) if size <= COUNTED_BYTES else _estimate(model, connection))
    for status, count in counts.items():
        yield Sample("app_orders", {"database": database, "status": status.value}, count)


def _count(model: Any, connection: Connection) -> dict[Status, float]:
    query = select(model.status, func.count()).where(_is_one_of(model, DONE)).group_by(model.status)
    return dict(map(tuple, connection.execute(query)))


def _estimate(model: Any, connection: Connection) -> dict[Status, float]:
    rows = connection.execute(_ESTIMATE, {"table": model.__tablename__, "statuses": sorted(DONE)})
    return {Status(status): round(estimate) for status, estimate in rows}


def _messages(service: ServiceName, database: str, connection: Connection) -> Iterator[Sample]:
    outbox = SERVICE_TABLES[service].outbox
    is_dead = outbox.set_aside_at.is_not(None)
    moment = func.min(func.coalesce(outbox.set_aside_at, outbox.created_at))
    # What is behind a dead letter waits for a person, and says nothing of the relay.
    oldest = _age(moment.filter(is_dead | ~is_behind_dead_letter(outbox)))
    query = select(outbox.destination, is_dead, func.count(), oldest).group_by(outbox.destination, is_dead)
    for destination, dead, count, age in connection.execute(query):
        labels = {"database": database, "destination": destination}
        number, seconds = (
            ("app_dead_letters", "app_dead_letters_oldest_seconds")
            if dead
            else ("app_outbox_messages", "app_outbox_oldest_seconds")
        )
        yield Sample(number, labels, count)
        yield Sample(seconds, labels, float(age or 0))


def _customers(database: str, connection: Connection) -> Iterator[Sample]:
    count = connection.scalar(select(func.count(ShopOrder.customer_email.distinct())))
    yield Sample("app_customers", {"database": database}, count or 0)


def _jobs(database: str, connection: Connection) -> Iterator[Sample]:
    """Count the orders that owe a price: those a worker may take, is at, or may take again after a rest."""
    is_due = PricingJob.lease_expires_at <= func.now()
    state = case((is_due, "waiting"), (PricingJob.leased_by.is_not(None), "held"), else_="resting")
    query = (
        select(state, func.count(), _age(func.min(MesOrder.changed_at)))
        .outerjoin(MesOrder, (MesOrder.order_id == PricingJob.order_id) & _is_one_of(MesOrder, HOT))
        .group_by(state)
    )
    rows = {found: (count, age) for found, count, age in connection.execute(query)}
    yield from _senders(database, connection)
    for each in ("waiting", "held", "resting"):
        count, age = rows.get(each, (0, 0))
        labels = {"database": database, "state": each}
        yield Sample("app_pricing_jobs", labels, count)
        yield Sample("app_pricing_jobs_oldest_seconds", labels, float(age or 0))


def _senders(database: str, connection: Connection) -> Iterator[Sample]:
    """Count the senders whose orders wait for a price, and see whether one with a single order waits longest.

    Such an order has been passed over as long as orders of others, which came later, are worked on.
    """
    waits = PricingJob.leased_by.is_(None) & (PricingJob.lease_expires_at <= func.now())
    each = (
        select(func.count().label("jobs"), func.min(PricingJob.created_at).label("since"))
        .where(waits, PricingJob.attempts == 0)
        .group_by(PricingJob.sender)
        .subquery()
    )
    latest = select(func.max(PricingJob.created_at)).where(PricingJob.leased_by.is_not(None))
    taken = connection.scalar(latest)
    lone = func.min(each.c.since).filter(
        (each.c.jobs == 1) & (each.c.since < literal(taken, DateTime(timezone=True)))
    )
    query = select(func.count(), func.coalesce(func.max(each.c.jobs), 0), _age(lone)).select_from(each)
    senders, largest, age = connection.execute(query).one()
    labels = {"database": database}
    yield Sample("app_pricing_senders", labels, senders)
    yield Sample("app_pricing_largest_sender_jobs", labels, largest)
    yield Sample("app_pricing_passed_over_seconds", labels, float(age or 0))


def _measurements(database: str, connection: Connection) -> Iterator[Sample]:
    """Yield the time that workers were busy: by how much it grows in a second is how many are needed."""
    seconds = connection.scalar(select(func.coalesce(func.sum(ModelMeasurement.seconds), 0)))
    yield Sample("app_pricing_busy_seconds_total", {"database": database}, float(seconds or 0))


def _is_one_of(model: Any, wanted: frozenset[Status]) -> ColumnElement[bool]:
    # As literals: only so PostgreSQL leaves out the partitions of the others.
    literals = [literal(status, STATUS, literal_execute=True) for status in sorted(wanted)]
    return model.status.in_(literals)  # type: ignore[no-any-return]  # the model may be any


def _age(moment: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.extract("epoch", func.clock_timestamp() - moment)
