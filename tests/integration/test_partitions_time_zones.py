"""RANGE keys of time on PostgreSQL: under any TimeZone and DateStyle, a bound is read as it was written."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

import partitions
from partitions import Month, MonthlyRange
from partitions.actions import attach
from partitions.bounds import KeyRange
from partitions.errors import InfiniteBound, PartitionOverlap, RangeKeyDiffers
from partitions.range_key import DAY, KeyType
from tests.integration.operations_rig import scratch_database
from tests.servers import PostgresServers

ZONES = ["UTC", "Europe/Berlin", "America/Sao_Paulo", "Asia/Kathmandu", "Pacific/Apia", "Africa/Monrovia"]
"""Apia has no 2011-12-30; the offset of Monrovia had seconds until 1972."""

STYLES = ["ISO, MDY", "SQL, DMY", "German", "Postgres, MDY"]
TIMES = [kind for kind in KeyType if kind.is_time]
NEVER = timedelta(days=36_500)
servers = st.tuples(st.sampled_from(ZONES), st.sampled_from(STYLES))


@pytest.fixture(scope="module")
def engine(postgres: PostgresServers) -> Iterator[Engine]:
    """Give a database of its own, as superuser."""
    with scratch_database(postgres, "", name="time_zones") as (found, _):
        yield found


@contextmanager
def server_of(engine: Engine, zone: str, style: str) -> Iterator[None]:
    """Let every session of the database begin with another TimeZone and DateStyle."""
    run(
        engine,
        f"ALTER DATABASE time_zones SET TimeZone = '{zone}'",
        f"ALTER DATABASE time_zones SET DateStyle = '{style}'",
    )
    try:
        yield
    finally:
        run(engine, "ALTER DATABASE time_zones RESET ALL")


def run(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def table_of(engine: Engine, kind: KeyType) -> None:
    run(
        engine,
        "DROP TABLE IF EXISTS payments",
        f"CREATE TABLE payments (id bigint, at {kind}, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)",
    )


def policy_of(kind: KeyType, ahead: int = 2) -> MonthlyRange:
    return MonthlyRange("payments", key="at", key_type=kind, months_ahead=ahead, analyze_every=NEVER)


def ranges(engine: Engine) -> list[KeyRange]:
    with engine.connect() as connection:
        return sorted(partitions.read_catalog(connection, ["payments"])["payments"].ranges().values())


# What PostgreSQL's date can have, and its timestamps too.
days = st.lists(st.integers(-2_400_000, 100_000_000), min_size=2, max_size=6, unique=True).map(sorted)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(TIMES),
    server=servers,
    ends=days,
    microseconds=st.integers(0, DAY - 1),
)
def test_bound_comes_back_from_the_catalogue_as_it_was_written(
    engine: Engine, kind: KeyType, server: tuple[str, str], ends: list[int], microseconds: int
) -> None:
    keys = ends if kind is KeyType.DATE else [day * DAY + microseconds for day in ends]
    wanted = [KeyRange(start, end, kind) for start, end in pairwise(keys)]
    with server_of(engine, *server):
        table_of(engine, kind)
        for number, bound in enumerate(wanted):
            name = f"payments_{number}"
            run(engine, f"CREATE TABLE {name} (LIKE payments)", attach("payments", name, bound))
        assert ranges(engine) == wanted
        with engine.connect() as connection:  # and the settings of the session are left alone
            partitions.read_catalog(connection, ["payments"])
            assert connection.exec_driver_sql("SHOW TimeZone").scalar_one() == server[0]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(TIMES),
    server=servers,
    # Where summer time begins and ends, and the years.
    month=st.builds(Month, st.integers(1950, 2090), st.sampled_from([1, 2, 3, 10, 11, 12])),
)
def test_months_tile_and_take_their_rows_under_any_time_zone(
    engine: Engine, kind: KeyType, server: tuple[str, str], month: Month
) -> None:
    policy, now = policy_of(kind), month.start + timedelta(days=14)
    with server_of(engine, *server):
        table_of(engine, kind)
        assert len(partitions.apply(engine, [policy], now)) == 4  # three months, and ANALYZE
        found = ranges(engine)
        assert [keys.start for keys in found] == [
            policy.keys_of(Month.of(now).later(n)).start for n in range(3)
        ]
        assert all(one.end == two.start for one, two in pairwise(found))
        assert partitions.apply(engine, [policy], now) == []
        with engine.connect() as connection:
            assert partitions.check([policy], partitions.read_catalog(connection, ["payments"]), now) == []
        for here in (Month.of(now), Month.of(now).next):
            assert month_of_row(engine, kind, here.start) == policy.partition_of(here)
            assert month_of_row(
                engine, kind, here.next.start - timedelta(microseconds=1)
            ) == policy.partition_of(here)


def month_of_row(engine: Engine, kind: KeyType, instant: datetime) -> str:
    """Insert a row by a parameter, as an application does, and return its partition."""
    value: object = instant
    if kind is not KeyType.TIMESTAMPTZ:
        value = instant.replace(tzinfo=None) if kind is KeyType.TIMESTAMP else date(*instant.timetuple()[:3])
    insert = text(
        "INSERT INTO payments VALUES (:id, :at) ON CONFLICT DO NOTHING RETURNING tableoid::regclass::text"
    )
    with engine.begin() as connection:
        key = int(instant.timestamp() * 1_000_000)
        return str(connection.execute(insert, {"id": key, "at": value}).scalar_one())


def test_months_made_by_hand_in_local_time_are_named_with_their_reach(engine: Engine) -> None:
    with server_of(engine, "Europe/Berlin", "ISO, MDY"):
        table_of(engine, KeyType.TIMESTAMPTZ)
        november = "FROM ('2026-11-01') TO ('2026-12-01')"
        run(engine, f"CREATE TABLE payments_2026_11 PARTITION OF payments FOR VALUES {november}")
        policy, now = policy_of(KeyType.TIMESTAMPTZ), datetime(2026, 11, 15, tzinfo=UTC)
        reach = "'2026-10-31 23:00:00+00' to '2026-11-30 23:00:00+00'; months are those of UTC"
        with pytest.raises(PartitionOverlap) as caught:
            partitions.apply(engine, [policy], now)
        assert reach in str(caught.value)
        assert "\n" not in str(caught.value)
        with engine.connect() as connection:
            findings = partitions.check([policy], partitions.read_catalog(connection, ["payments"]), now)
        assert f"it covers a part of 2026-11 only ({reach})" in [found.fault for found in findings]
        assert len(ranges(engine)) == 1


@pytest.mark.parametrize(
    "bound", ["FROM ('2026-11-01') TO ('infinity')", "FROM (MINVALUE) TO ('2026-11-01')"]
)
@pytest.mark.parametrize("kind", TIMES)
def test_partition_without_an_end_is_refused_by_name(engine: Engine, kind: KeyType, bound: str) -> None:
    table_of(engine, kind)
    run(engine, f"CREATE TABLE payments_old PARTITION OF payments FOR VALUES {bound}")
    with pytest.raises(InfiniteBound, match="partition payments_old has an infinite bound"):
        partitions.apply(engine, [policy_of(kind)], datetime(2026, 11, 15, tzinfo=UTC))


def test_policy_of_another_key_than_the_tables_changes_nothing(engine: Engine) -> None:
    table_of(engine, KeyType.DATE)
    now = datetime(2026, 11, 15, tzinfo=UTC)
    with pytest.raises(
        RangeKeyDiffers,
        match=r"payments is partitioned by RANGE \(at\) of date, its policy says .* with time zone",
    ):
        partitions.apply(engine, [policy_of(KeyType.TIMESTAMPTZ)], now)
    run(engine, "DROP TABLE payments", "CREATE TABLE payments (at text PRIMARY KEY) PARTITION BY RANGE (at)")
    with engine.connect() as connection:
        [found] = partitions.check(
            [policy_of(KeyType.DATE)], partitions.read_catalog(connection, ["payments"]), now
        )
    assert "payments is partitioned by RANGE (at) of text, its policy says RANGE (at) of date" in found.fault
    assert ranges(engine) == []
