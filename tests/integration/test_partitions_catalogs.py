"""Random policies on random partitions in a real catalog: apply once, and there is nothing left to do."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

import partitions
from partitions import ListPartitions, Month, MonthlyRange, Retention
from partitions.actions import DropTable, attach
from partitions.bounds import Bound, KeyRange, ValueList, render_bound
from partitions.catalog import PartitionedTable
from partitions.detached import DetachedMark, DetachedState
from partitions.policy import DeclaredIndex
from sharding.ids import first_id_at
from tests.integration.partitions_shard import bare_server

NEVER_STALE = timedelta(days=36_500)
QUICK = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
LONG = settings(QUICK, max_examples=600)


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Connect to an empty database as superuser: a detach is cut off by hand here."""
    with bare_server(tmp_path_factory.mktemp("catalogs")) as (_, engine):
        yield engine


@dataclass(frozen=True)
class Months:
    """A monthly policy, a moment, and what was there before.

    Parameters:
        policy: what is wanted.
        now: the moment.
        attached: the months that stand, as offsets from the current one; a pair is one partition for both.
        pending: one of them whose detach was cut off.
        detached: those that were detached so many days ago.
        prepared: one that a killed run left.
        since: the earliest month that must stand.
        index: whether an index of the table was built on none of the partitions.
    """

    policy: MonthlyRange
    now: datetime
    attached: frozenset[tuple[int, int]]
    pending: int | None
    detached: Mapping[int, int]
    prepared: int | None
    since: int | None
    index: bool


@st.composite
def months(draw: st.DrawFn) -> Months:
    """Draw a case; a month is in one state at most."""
    free = draw(st.permutations(range(-6, 4)))
    single = frozenset((offset, offset + 1) for offset in free[: draw(st.integers(0, 6))])
    wide = draw(st.booleans())
    policy = MonthlyRange(
        table="archive",
        key="order_id",
        key_at=first_id_at,
        months_ahead=draw(st.integers(0, 3)),
        retention=draw(
            st.none()
            | st.builds(Retention, months=st.integers(0, 5), drop_delay=st.integers(0, 9).map(timedelta))
        ),
        analyze_every=NEVER_STALE,
    )
    return Months(
        policy=policy,
        now=draw(st.datetimes(datetime(2027, 1, 1), datetime(2060, 1, 1), timezones=st.just(UTC))),
        attached=single | ({(-9, -7)} if wide else set()),
        pending=draw(st.none() | st.sampled_from(sorted(first for first, _ in single))) if single else None,
        detached=dict.fromkeys(free[6:8], draw(st.integers(0, 20))),
        prepared=draw(st.none() | st.just(free[8])),
        since=draw(st.none() | st.integers(-6, 0)),
        index=draw(st.booleans()),
    )


def stand_up(engine: Engine, case: Months) -> None:
    """Make the tables of a case, in place of those of the one before."""
    current, policy = Month.of(case.now), case.policy
    sql = ["DROP SCHEMA public CASCADE", "CREATE SCHEMA public"]
    sql.append(
        "CREATE TABLE archive (order_id bigint PRIMARY KEY, note text DEFAULT 'x') "
        "PARTITION BY RANGE (order_id)"
    )

    def bound(first: int, end: int) -> KeyRange:
        return KeyRange(first_id_at(current.later(first).start), first_id_at(current.later(end).start))

    def alone(offset: int) -> str:
        name = policy.partition_of(current.later(offset))
        sql.append(f"CREATE TABLE {name} (LIKE archive INCLUDING ALL)")
        return name

    def mark(state: DetachedState, offset: int, days: int) -> None:
        at = case.now - timedelta(days=days)
        sql.append(
            DetachedMark(state, "archive", render_bound(bound(offset, offset + 1)), at).on(alone(offset))
        )

    for first, end in sorted(case.attached):
        name = alone(first)
        sql.append(attach("archive", name, bound(first, end)))
        sql.append(f"INSERT INTO archive VALUES ({bound(first, end).start}), ({bound(first, end).end - 1})")
    for offset, days in case.detached.items():
        mark(DetachedState.DETACHED, offset, days)
    if case.prepared is not None:
        mark(DetachedState.PREPARED, case.prepared, 1)
    if case.index:
        sql.append("CREATE INDEX archive_note_idx ON ONLY archive (note)")
    if case.pending is not None:
        name = policy.partition_of(current.later(case.pending))
        sql.append(f"UPDATE pg_inherits SET inhdetachpending = true WHERE inhrelid = '{name}'::regclass")
    with engine.begin() as connection:
        for statement in sql:
            connection.exec_driver_sql(statement)


def standing(engine: Engine, table: str) -> PartitionedTable:
    with engine.connect() as connection:
        return partitions.read_catalog(connection, [table])[table]


def months_become_what_is_wanted(engine: Engine, case: Months) -> None:
    stand_up(engine, case)
    current = Month.of(case.now)
    since = None if case.since is None else current.later(case.since)
    partitions.apply(engine, [case.policy], case.now, since=since)
    again = partitions.apply(engine, [case.policy], case.now, since=since)
    # A delay of nothing lets the second run drop what the first has detached.
    assert all(isinstance(action, DropTable) for action in again)
    assert not again or (case.policy.retention is not None and not case.policy.retention.drop_delay)

    table = standing(engine, "archive")
    assert partitions.plan([case.policy], {"archive": table}, case.now, since=since) == []
    ranges = sorted(table.ranges().values())
    needed = [current.later(offset) for offset in range(case.since or 0, case.policy.months_ahead + 1)]
    whole = KeyRange(needed[0].keys(first_id_at).start, needed[-1].keys(first_id_at).end)
    within = [found for found in ranges if found.overlaps(whole)]
    # From the first month that is needed to the end of the last: no gap, no overlap.
    assert all(one.end == two.start for one, two in pairwise(within))
    assert KeyRange(within[0].start, within[-1].end).covers(whole)
    assert all(one.end <= two.start for one, two in pairwise(ranges))
    faults = [found.fault for found in partitions.check([case.policy], {"archive": table}, case.now)]
    assert all("nothing will drop it" in fault for fault in faults)


@given(case=months())
@QUICK
def test_months_of_any_policy_stand_after_one_run(owner: Engine, case: Months) -> None:
    months_become_what_is_wanted(owner, case)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@given(case=months())
@LONG
def test_months_of_any_policy_stand_after_one_run_for_long(owner: Engine, case: Months) -> None:
    months_become_what_is_wanted(owner, case)


@dataclass(frozen=True)
class Groups:
    """A policy of groups, and what was there before: fewer values, fewer indexes, a CHECK of a detach."""

    policy: ListPartitions
    held: Mapping[str, frozenset[str]]
    built: frozenset[str]
    detached_once: bool


@st.composite
def groups(draw: st.DrawFn) -> Groups:
    """Draw a case; values that stand elsewhere than wanted are moved by a person, not by apply."""
    values = draw(st.lists(st.sampled_from(["A", "B'", "C:x", "D", "E%s", "F"]), min_size=3, unique=True))
    cut = draw(st.integers(1, len(values) - 1))
    wanted = {"hot": frozenset(values[:cut]), "Done": frozenset(values[cut:])}
    held = {
        name: frozenset(draw(st.lists(st.sampled_from(sorted(group)), min_size=1, unique=True)))
        for name, group in wanted.items()
    }
    indexes = {
        f"hot_{number}_idx": DeclaredIndex(f"(id DESC) WHERE status = {value}::text")
        for number, value in enumerate(sorted("'" + each.replace("'", "''") + "'" for each in wanted["hot"]))
    }
    policy = ListPartitions(
        table="live",
        key="status",
        groups=wanted,
        indexes={"hot": indexes},
        row_id="id",
        analyze_every=NEVER_STALE,
    )
    built = frozenset(draw(st.lists(st.sampled_from(sorted(indexes)), unique=True)))
    return Groups(policy, held, built, draw(st.booleans()))


def groups_become_what_is_wanted(engine: Engine, case: Groups) -> None:
    sql = ["DROP SCHEMA public CASCADE", "CREATE SCHEMA public"]
    sql.append(
        "CREATE TABLE live (id bigint, status text, PRIMARY KEY (id, status)) PARTITION BY LIST (status)"
    )
    for name, values in case.held.items():
        sql += [f'CREATE TABLE "{name}" (LIKE live INCLUDING ALL)', attach("live", name, ValueList(values))]
    for name in case.built:
        sql.append(f"CREATE INDEX {name} ON hot {case.policy.indexes['hot'][name].definition}")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT", no_parameters=True) as connection:
        for statement in sql:
            connection.exec_driver_sql(statement)
        if case.detached_once:
            connection.exec_driver_sql("ALTER TABLE live DETACH PARTITION hot CONCURRENTLY")
            connection.exec_driver_sql(attach("live", "hot", ValueList(case.held["hot"])))
    now = datetime(2026, 11, 25, tzinfo=UTC)
    partitions.apply(engine, [case.policy], now)
    table = standing(engine, "live")
    assert partitions.plan([case.policy], {"live": table}, now) == []
    assert partitions.check([case.policy], {"live": table}, now) == []
    bounds: dict[str, Bound] = {found.name: found.bound for found in table.partitions}
    assert bounds == {name: ValueList(values) for name, values in case.policy.groups.items()}
    with engine.connect().execution_options(no_parameters=True) as connection:
        for number, value in enumerate(sorted(frozenset().union(*case.policy.groups.values()))):
            quoted = value.replace("'", "''")
            connection.exec_driver_sql(f"INSERT INTO live VALUES ({number}, '{quoted}')")


@given(case=groups())
@QUICK
def test_groups_of_any_policy_hold_their_values_after_one_run(owner: Engine, case: Groups) -> None:
    groups_become_what_is_wanted(owner, case)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@given(case=groups())
@LONG
def test_groups_of_any_policy_hold_their_values_after_one_run_for_long(owner: Engine, case: Groups) -> None:
    groups_become_what_is_wanted(owner, case)
