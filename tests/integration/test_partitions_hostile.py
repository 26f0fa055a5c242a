"""Odd names, wrong clocks, short timeouts of a role, and CHECKs that came while a partition was away."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

import partitions
from partitions import ListPartitions, Month, MonthlyRange, Retention, RetryPolicy, manual
from partitions.actions import Action
from partitions.catalog import PartitionedTable
from partitions.errors import MonthWithoutKeys
from partitions.policy import DeclaredIndex
from partitions.policy_errors import NameTooLong
from partitions.sql import relation
from partitions.steps import LockTimeouts
from sharding.ids import first_id_at
from tests.integration.partitions_rig import run as run_action
from tests.integration.partitions_shard import bare_server

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
NEVER_STALE = timedelta(days=36_500)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Connect to a server of its own as superuser."""
    with bare_server(tmp_path_factory.mktemp("hostile")) as (_, engine):
        yield engine


@pytest.fixture
def owner(server: Engine) -> Engine:
    """Give an empty database."""
    send(server, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    return server


def send(engine: Engine, *statements: str) -> Sequence[Any]:
    """Send statements, each its own transaction; give the rows of the last one."""
    rows: Sequence[Any] = ()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT", no_parameters=True) as connection:
        for statement in statements:
            result = connection.exec_driver_sql(statement)
            rows = result.all() if result.returns_rows else ()
    return rows


def standing(engine: Engine, table: str) -> PartitionedTable:
    with engine.connect() as connection:
        return partitions.read_catalog(connection, [table])[table]


def months(table: str = "archive", key: str = "order_id", **options: Any) -> MonthlyRange:
    return MonthlyRange(table=table, key=key, key_at=first_id_at, months_ahead=1, **options)


def archive(columns: str = "order_id bigint PRIMARY KEY") -> str:
    return f"CREATE TABLE archive ({columns}) PARTITION BY RANGE (order_id)"


def is_clean(engine: Engine, policy: MonthlyRange | ListPartitions, now: datetime = NOW) -> bool:
    catalog = {policy.table: standing(engine, policy.table)}
    return not partitions.plan([policy], catalog, now) and not partitions.check([policy], catalog, now)


@pytest.mark.parametrize(
    "table",
    ["Orders", '"order.s"', "or+ders", "o'rders", 'o"rders', "sélect", "ord:ers", "ord%ers", "select"],
)
def test_table_of_any_name_has_its_months_and_indexes(owner: Engine, table: str) -> None:
    name = relation(table)
    send(owner, f'CREATE TABLE {name} ("Key" bigint PRIMARY KEY) PARTITION BY RANGE ("Key")')
    policy = months(table, key="Key")
    assert len(partitions.apply(owner, [policy], NOW)) == 3
    send(owner, f'CREATE INDEX "Odd Index" ON ONLY {name} ("Key")')
    [build] = partitions.apply(owner, [policy], NOW)
    assert build.summary == "create index Odd Index on 2 partitions"
    assert is_clean(owner, policy)
    [detach] = manual.detach(standing(owner, table), policy.partition_of(Month(2026, 12)), NOW)
    run_action(owner, detach)
    [lone] = standing(owner, table).detached
    [attach] = manual.attach(standing(owner, table), lone.name, NOW)
    run_action(owner, attach)
    assert is_clean(owner, policy)


def test_groups_and_indexes_of_any_name_are_split_and_merged(owner: Engine) -> None:
    first = DeclaredIndex("(id) WHERE \"Status\" = 'A'")
    policy = ListPartitions(
        table="live",
        key="Status",
        groups={"Done": frozenset("AB")},
        indexes={"Done": {"Done_A": first, "Done_at_idx": DeclaredIndex('("Done_at")')}},
        row_id="id",
        analyze_every=NEVER_STALE,
    )
    send(
        owner,
        'CREATE TABLE live (id bigint, "Status" text, "Done_at" int) PARTITION BY LIST ("Status")',
        "CREATE TABLE \"Done\" PARTITION OF live FOR VALUES IN ('A')",
    )
    partitions.apply(owner, [policy], NOW)
    assert is_clean(owner, policy)
    send(owner, "INSERT INTO live VALUES (1, 'A', 1), (2, 'B', 2)")
    with owner.connect() as connection:
        options: dict[str, Any] = {"key": "Status", "max_rows": 10, "at": NOW}
        table = standing(owner, "live")
        [split] = manual.split(connection, table, "Done", ["B"], into="cold", **options)
    run_action(owner, split)
    # The table's name stands in that of the column too.
    assert send(owner, "SELECT indexdef FROM pg_indexes WHERE tablename = 'cold'") == [
        ('CREATE INDEX cold_at_idx ON public.cold USING btree ("Done_at")',)
    ]
    inverse = split.inverse()
    assert inverse is not None
    run_action(owner, inverse)
    assert is_clean(owner, policy)
    assert send(owner, 'SELECT count(*) FROM "Done"') == [(2,)]


def test_split_makes_the_indexes_of_any_name_and_expression_on_the_new_partition(owner: Engine) -> None:
    send(
        owner,
        "CREATE TABLE live (id bigint, status text, note text) PARTITION BY LIST (status)",
        "CREATE TABLE done PARTITION OF live FOR VALUES IN ('A', 'B')",
        'CREATE UNIQUE INDEX "done INDEX ON a USING b" ON done (id)',
        "CREATE INDEX done_note ON done ((note || ' WHERE ' || note))",
        "CREATE INDEX done_b ON done (id) WHERE status = 'B'",
        "CREATE INDEX done_a ON done (note) WHERE status = 'A'",
        "CREATE INDEX done_not_a ON done (id) WHERE status <> 'A'",
        "CREATE INDEX done_noted ON done (id) WHERE note IS NOT NULL",
    )
    run_action(owner, split_of_done(owner, max_rows=10))
    found = send(owner, "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'cold' ORDER BY 1")
    on_cold = "ON public.cold USING btree"
    assert [tuple(row) for row in found] == [
        ("cold INDEX ON a USING b", f'CREATE UNIQUE INDEX "cold INDEX ON a USING b" {on_cold} (id)'),
        ("cold_b", f"CREATE INDEX cold_b {on_cold} (id) WHERE (status = 'B'::text)"),
        ("cold_not_a", f"CREATE INDEX cold_not_a {on_cold} (id) WHERE (status <> 'A'::text)"),
        ("cold_note", f"CREATE INDEX cold_note {on_cold} ((((note || ' WHERE '::text) || note)))"),
        ("cold_noted", f"CREATE INDEX cold_noted {on_cold} (id) WHERE (note IS NOT NULL)"),
    ]


def split_of_done(owner: Engine, *, max_rows: int) -> Action:
    """Split status B off the partition `done` of the table `live`."""
    with owner.connect() as connection:
        [action] = manual.split(
            connection,
            standing(owner, "live"),
            "done",
            ["B"],
            into="cold",
            key="status",
            max_rows=max_rows,
            at=NOW,
        )
    return action


def test_own_index_that_equals_one_of_its_table_stays_the_partitions_own(owner: Engine) -> None:
    send(
        owner,
        "CREATE TABLE live (id bigint, status text) PARTITION BY LIST (status)",
        "CREATE TABLE done PARTITION OF live FOR VALUES IN ('A', 'B')",
        "CREATE INDEX own_idx ON done (id)",
    )
    run_action(owner, manual.index(standing(owner, "live"), "live_first", "id"))
    run_action(owner, manual.index(standing(owner, "live"), "live_second", "id"))

    def parts() -> dict[str, Mapping[str, str]]:
        return {each.name: each.parts for each in standing(owner, "live").indexes}

    expected = {"live_first": {"done": "done_first"}, "live_second": {"done": "done_second"}}
    assert parts() == expected
    [add] = manual.add(standing(owner, "live"), "done", ["C"], key="status")
    run_action(owner, add)
    assert parts() == expected
    action = split_of_done(owner, max_rows=1)
    run_action(owner, action)
    assert {name: found["done"] for name, found in parts().items()} == {
        "live_first": "done_first",
        "live_second": "done_second",
    }
    run_action(owner, action.inverse())
    assert parts() == expected


def test_names_that_postgresql_would_cut_off_are_refused() -> None:
    with pytest.raises(NameTooLong, match="more than 63 bytes"):
        months("a" * 56)
    with pytest.raises(NameTooLong, match="é"):
        ListPartitions("live", key="status", row_id="id", groups={"é" * 32: frozenset("A")})


def test_month_of_a_table_with_identity_and_generated_columns_is_attached(owner: Engine) -> None:
    send(
        owner,
        archive(
            "order_id bigint PRIMARY KEY, n bigint GENERATED ALWAYS AS IDENTITY, "
            "twice bigint GENERATED ALWAYS AS (order_id * 2) STORED"
        ),
    )
    partitions.apply(owner, [months()], NOW)
    assert is_clean(owner, months())


@pytest.mark.parametrize(
    "now", [datetime(1970, 1, 1, tzinfo=UTC), datetime(2023, 12, 31, 23, tzinfo=UTC), datetime.max]
)
def test_clock_outside_of_all_keys_is_told_and_nothing_is_done(owner: Engine, now: datetime) -> None:
    send(owner, archive())
    with pytest.raises(
        MonthWithoutKeys, match=r"archive: .* has no keys: .*is the clock of this machine right"
    ):
        partitions.apply(owner, [months(retention=Retention(months=2))], now.replace(tzinfo=UTC))
    assert standing(owner, "archive").partitions == ()


@pytest.mark.parametrize("month", ["2024-01", "2024-12", "2026-12", "2093-07"])
def test_months_meet_at_the_ends_of_years_and_of_all_keys(owner: Engine, month: str) -> None:
    send(owner, archive())
    start, policy = Month.parse(month).start, months(retention=Retention(months=0), analyze_every=NEVER_STALE)
    for now in (start, Month.parse(month).next.start - timedelta(microseconds=1)):
        partitions.apply(owner, [policy], now)
        assert is_clean(owner, policy, now)
    assert len(standing(owner, "archive").partitions) == 2


def test_partition_before_the_first_key_is_no_month_and_stays(owner: Engine) -> None:
    send(owner, archive(), "CREATE TABLE archive_old PARTITION OF archive FOR VALUES FROM (-1000) TO (0)")
    partitions.apply(owner, [months()], NOW)
    assert is_clean(owner, months())


@contextmanager
def impatient(engine: Engine, setting: str) -> Iterator[None]:
    """Give the role a bound of its own."""
    send(engine, f"ALTER ROLE CURRENT_USER SET {setting} = '300ms'")
    try:
        yield
    finally:
        send(engine, f"ALTER ROLE CURRENT_USER RESET {setting}")


def test_index_build_longer_than_the_roles_statement_timeout_is_finished(owner: Engine) -> None:
    send(owner, archive())
    partitions.apply(owner, [months()], NOW)
    send(owner, "CREATE INDEX slow_idx ON ONLY archive (order_id)")
    once = RetryPolicy(attempts=1)
    with impatient(owner, "statement_timeout"), owner.connect() as writer:
        writer.exec_driver_sql(f"INSERT INTO archive VALUES ({first_id_at(NOW)})")
        # The build waits for the writer, longer than the role's statements may last.
        ends = threading.Timer(1.0, writer.commit)
        ends.start()
        partitions.apply(owner, [months()], NOW, retry=once)
        ends.join()
    assert is_clean(owner, months())


def test_pause_longer_than_the_roles_idle_session_timeout_does_not_end_the_run(owner: Engine) -> None:
    send(owner, archive())
    waiting = RetryPolicy(
        timeouts=LockTimeouts(lock_timeout_seconds=0.2), attempts=2, backoff_seconds=0.6, jitter=lambda: 1.0
    )
    with impatient(owner, "idle_session_timeout"), owner.connect() as holder:
        holder.exec_driver_sql("LOCK TABLE archive IN ACCESS EXCLUSIVE MODE")
        ends = threading.Timer(0.3, holder.rollback)
        ends.start()
        partitions.apply(owner, [months()], NOW, retry=waiting)
        ends.join()
    assert is_clean(owner, months())


GUARD = "CHECK (shard_owns(order_id))"
OWNS = "CREATE FUNCTION shard_owns(bigint) RETURNS boolean LANGUAGE sql IMMUTABLE RETURN $1 > 0"
CHECKS = """
    SELECT pg_get_constraintdef(oid) FROM pg_constraint
    WHERE conrelid = '{}'::regclass AND conname LIKE 'guard%' ORDER BY conname
"""
LIVE = "CREATE TABLE live (order_id bigint, status text) PARTITION BY LIST (status)"


@pytest.mark.parametrize("valid", ["", " NOT VALID"])
@pytest.mark.parametrize("kind", ["month", "hot", "done"])
def test_partition_that_was_away_when_its_table_was_guarded_gets_the_guard(
    owner: Engine, kind: str, valid: str
) -> None:
    policy: MonthlyRange | ListPartitions
    if kind == "month":
        table, name, policy = "archive", "archive_2026_12", months(analyze_every=NEVER_STALE)
        send(owner, archive())
    else:
        groups = {"hot": frozenset({"NEW"}), "done": frozenset({"CLOSED"})}
        table, name = "live", kind
        policy = ListPartitions(
            "live", key="status", groups=groups, row_id="order_id", analyze_every=NEVER_STALE
        )
        send(
            owner,
            LIVE,
            "CREATE TABLE hot PARTITION OF live FOR VALUES IN ('NEW')",
            "CREATE TABLE done PARTITION OF live FOR VALUES IN ('CLOSED')",
        )
    partitions.apply(owner, [policy], NOW)
    [detach] = manual.detach(standing(owner, table), name, NOW)
    run_action(owner, detach)
    send(owner, OWNS, f"ALTER TABLE {table} ADD CONSTRAINT guard {GUARD}{valid}")

    findings = partitions.check([policy], {table: standing(owner, table)}, NOW)
    assert "it lacks the CHECK guard, which its table got after it was detached" in {
        found.fault for found in findings
    }
    planned = partitions.plan([policy], {table: standing(owner, table)}, NOW)
    assert f"{name}: add guard" in [action.summary for action in planned]
    partitions.apply(owner, [policy], NOW)
    assert send(owner, CHECKS.format(name)) == [(f"{GUARD}{valid}",)]
    if kind != "month":
        [attach] = manual.attach(standing(owner, table), name, NOW)
        run_action(owner, attach)
    assert is_clean(owner, policy)


def test_attach_by_hand_adds_the_guard_itself(owner: Engine) -> None:
    send(owner, archive())
    partitions.apply(owner, [months()], NOW)
    [detach] = manual.detach(standing(owner, "archive"), "archive_2026_12", NOW)
    run_action(owner, detach)
    send(owner, OWNS, f"ALTER TABLE archive ADD CONSTRAINT guard {GUARD} NOT VALID")
    [attach] = manual.attach(standing(owner, "archive"), "archive_2026_12", NOW)
    run_action(owner, attach)
    assert is_clean(owner, months())


@pytest.mark.parametrize("valid", ["", " NOT VALID"])
def test_pending_detach_is_finished_though_its_table_was_guarded_meanwhile(owner: Engine, valid: str) -> None:
    send(owner, archive())
    partitions.apply(owner, [months()], NOW)
    send(
        owner,
        "UPDATE pg_inherits SET inhdetachpending = true WHERE inhrelid = 'archive_2026_12'::regclass",
        OWNS,
        f"ALTER TABLE archive ADD CONSTRAINT guard {GUARD}{valid}",
    )
    partitions.apply(owner, [months()], NOW)
    assert is_clean(owner, months())
    for table in ("archive", "archive_2026_11", "archive_2026_12"):
        assert send(owner, CHECKS.format(table)) == [(f"{GUARD}{valid}",)]
