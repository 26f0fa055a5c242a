"""The whole life of partitions on another team's tables: plan to drop, archive, autogenerate, `mesctl`."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, Index, MetaData, text

import partitions
from ops.errors import ExitStatus
from partitions import ListPartitions, Month, manual
from partitions.archive import count_archived, move, read_backlog, read_columns, script
from partitions.catalog import Catalog
from partitions.declare import POLICIES as POLICIES_KEY
from partitions.errors import NoSuchPartition
from partitions.row_checks import WindowSize, check_rows
from tests.integration.mesctl_rig import Mesctl
from tests.integration.operations_rig import autogenerate, differences, execute, scratch_database
from tests.integration.partitions_rig import run as run_action
from tests.integration.partitions_shard import engine_of
from tests.integration.strangers_tables import (
    ARCHIVE,
    ARCHIVES,
    MONTHS,
    POLICIES,
    REPORT_MONTHS,
    VISITS,
    Base,
)
from tests.integration.team_rig import OWNER, Team, run_team
from tests.psql import psql
from tests.servers import PostgresServers

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
MADE = datetime(2026, 9, 30, 23, 59, 59, 999_999, tzinfo=UTC)
"""It is October already in Berlin."""

SETTLED = NOW - timedelta(days=11)
DATABASE = "strangers"

REVISION = """\
import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
phase = "pre"


def upgrade() -> None:
{}


def downgrade() -> None:
{}
"""


@pytest.fixture
def server(postgres: PostgresServers) -> Iterator[tuple[Engine, str]]:
    """Give a database in another time zone, with what autogenerate makes of the models."""
    with scratch_database(postgres, 'CREATE SCHEMA "pay"', name=DATABASE) as (engine, conninfo):
        with engine.begin() as connection:
            connection.exec_driver_sql(f"ALTER DATABASE {DATABASE} SET TimeZone = 'Europe/Berlin'")
        execute(engine, autogenerate(engine, Base.metadata, include_schemas=True)[0])
        yield engine, conninfo


@pytest.fixture
def engine(server: tuple[Engine, str]) -> Engine:
    """Give a connected engine; every month that is needed stands."""
    found, _ = server
    partitions.apply(found, POLICIES, NOW, since=Month(2026, 9))
    return found


def catalog_of(engine: Engine) -> Catalog:
    with engine.connect() as connection:
        return partitions.read_catalog(connection, [policy.table for policy in POLICIES])


def add(engine: Engine, *numbers: int, state: str = "settled", settled_at: datetime | None = SETTLED) -> None:
    """Insert payments of two tenants, each with two events."""
    values = {"numbers": list(numbers), "state": state, "made": MADE, "settled": settled_at}
    with engine.begin() as connection:
        for statement in (
            "INSERT INTO pay.payments (tenant_id, number, state, created_at, settled_at) "
            "SELECT t, n, :state, :made, :settled FROM unnest(ARRAY[7, 8]) t, "
            "unnest(CAST(:numbers AS int[])) n",
            'INSERT INTO pay."Payment Events" (tenant, payment_number, event) '
            "SELECT t, n, e FROM unnest(ARRAY[7, 8]) t, "
            "unnest(CAST(:numbers AS int[])) n, generate_series(1, 2) e",
        ):
            connection.execute(text(statement), values)


def rows(engine: Engine, table: str) -> list[tuple[object, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(f"SELECT * FROM {table} ORDER BY 1, 2, 3")]


def range_keys_of_events(engine: Engine) -> set[datetime]:
    """Return what the archived events have of their payments."""
    with engine.connect() as connection:
        return set(
            connection.exec_driver_sql('SELECT created_at FROM pay."Payment Events.archive"').scalars()
        )


def is_clean(engine: Engine) -> bool:
    catalog = catalog_of(engine)
    return not partitions.plan(POLICIES, catalog, NOW) and not partitions.check(POLICIES, catalog, NOW)


def test_tables_are_made_with_their_partitions_and_nothing_is_left_to_do(server: tuple[Engine, str]) -> None:
    engine, _ = server
    assert differences(engine, Base.metadata, include_schemas=True) == []
    with pytest.raises(NoSuchPartition, match=r"payments has no none; there are pay\.Payments Done"):
        manual.detach(catalog_of(engine)["pay.payments"], "none", NOW)
    partitions.apply(engine, POLICIES, NOW, since=Month(2026, 9))
    assert is_clean(engine)
    # Months are no difference, nor is one that is detached.
    [action] = manual.detach(catalog_of(engine)["pay.payments_archive"], "payments_archive_2026_09", NOW)
    run_action(engine, action)
    assert differences(engine, Base.metadata, include_schemas=True) == []


def test_changes_of_models_and_groups_are_rendered_and_leave_nothing_to_do(
    server: tuple[Engine, str],
) -> None:
    engine, _ = server
    before = differences(engine, Base.metadata, include_schemas=True)
    changed = MetaData()
    for table in Base.metadata.tables.values():
        table.to_metadata(changed)
    moved = {"payments_open": ["open", "refused"], "Payments Done": ["settled"]}
    policy = ListPartitions("pay.payments", key="state", groups=moved, row_id="number")
    changed.info[POLICIES_KEY] = [policy if each.table == policy.table else each for each in POLICIES]
    payments = changed.tables["pay.payments"]
    Index("payments_note_idx", payments.c["No te"])
    Index("done note", changed.tables["pay.Payments Done"].c["No te"], postgresql_where=text("number > 1"))
    upgrade, downgrade = autogenerate(engine, changed, include_schemas=True)
    assert "op.regroup_partitions(\n    'pay.payments'," in upgrade
    assert "op.create_index_on_partitions(\n    'payments_note_idx',\n    table='pay.payments'" in upgrade
    assert "op.create_partial_index(\n    'done note'" in upgrade
    execute(engine, upgrade)
    assert differences(engine, changed, include_schemas=True) == []
    execute(engine, downgrade)
    assert differences(engine, Base.metadata, include_schemas=True) == before


def test_each_month_is_one_of_utc_with_a_name_of_its_table(engine: Engine) -> None:
    catalog = catalog_of(engine)
    first = {
        policy.table: min(catalog[policy.table].ranges().items())
        for policy in (MONTHS, VISITS, REPORT_MONTHS)
    }
    assert {table: (name, str(keys)) for table, (name, keys) in first.items()} == {
        "pay.payments_archive": (
            "pay.payments_archive_2026_09",
            "'2026-09-01 00:00:00+00' to '2026-10-01 00:00:00+00'",
        ),
        "visits": ("visits_2026_09", "'2026-09-01 00:00:00' to '2026-10-01 00:00:00'"),
        '"Say ""hi"""': ('"Say ""hi""_2026_09"', "'2026-09-01' to '2026-10-01'"),
    }
    assert [found.name for found in catalog["pay.payments"].partitions] == [
        "pay.Payments Done",
        "pay.payments_open",
    ]
    assert catalog["pay.payments"].partitions[1].indexes >= {"Open ones"}


@pytest.mark.parametrize("policy", [MONTHS, VISITS, REPORT_MONTHS], ids=["timestamptz", "timestamp", "date"])
def test_month_is_detached_attached_again_detached_and_dropped(
    engine: Engine, policy: partitions.MonthlyRange
) -> None:
    name = policy.partition_of(Month(2026, 9))
    before = catalog_of(engine)[policy.table].ranges()
    [detach] = manual.detach(catalog_of(engine)[policy.table], name, NOW)
    run_action(engine, detach)
    assert name not in catalog_of(engine)[policy.table].ranges()
    [lone] = catalog_of(engine)[policy.table].detached
    assert (lone.name, lone.mark is not None) == (name, True)
    [attach] = manual.attach(catalog_of(engine)[policy.table], name, NOW)
    run_action(engine, attach)
    assert catalog_of(engine)[policy.table].ranges() == before
    inverse = attach.inverse()
    assert inverse is not None
    run_action(engine, inverse)
    [drop] = manual.drop(catalog_of(engine)[policy.table], name, NOW, delay=timedelta(0))
    run_action(engine, drop)
    assert catalog_of(engine)[policy.table].detached == ()


def test_months_past_the_retention_go_with_those_of_their_children(engine: Engine) -> None:
    later = datetime(2027, 10, 2, tzinfo=UTC)
    planned = partitions.plan(POLICIES, catalog_of(engine), later)
    gone = [action.summary for action in planned if action.summary.startswith("detach")]
    assert gone == ["detach pay.payments_archive_2026_09", 'detach pay."Payment Events.archive_2026_09"']
    partitions.apply(engine, POLICIES, later)
    partitions.apply(engine, POLICIES, later + timedelta(days=8))
    assert catalog_of(engine)["pay.payments_archive"].detached == ()


def test_values_are_split_off_merged_and_added(engine: Engine) -> None:
    add(engine, 1, state="refused")
    options: dict[str, Any] = {"key": "state", "max_rows": 10, "at": NOW}
    with engine.connect() as connection:
        table = catalog_of(engine)["pay.payments"]
        values = ["refused"]
        [split] = manual.split(connection, table, "Payments Done", values, into="payments_refused", **options)
    run_action(engine, split)
    assert rows(engine, "pay.payments_refused") != []
    inverse = split.inverse()
    assert inverse is not None
    run_action(engine, inverse)
    [change] = manual.add(catalog_of(engine)["pay.payments"], "payments_open", ["waiting"], key="state")
    run_action(engine, change)
    run_action(engine, manual.index(catalog_of(engine)["pay.payments"], "payments note", '"No te"'))
    [found] = [each for each in catalog_of(engine)["pay.payments"].indexes if each.name == "payments note"]
    assert (found.valid, set(found.parts)) == (True, {"pay.Payments Done", "pay.payments_open"})
    with engine.connect() as connection:
        run_action(engine, manual.drop_index(connection, catalog_of(engine)["pay.payments"], "payments note"))


@pytest.mark.parametrize("by_key", [False, True], ids=["at once", "by key"])
def test_rows_travel_with_their_children_which_get_the_range_key(engine: Engine, by_key: bool) -> None:
    add(engine, 1, 2, 3)
    add(engine, 4, settled_at=NOW)
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO pay.holds VALUES (7, 3)")
        backlog = read_backlog(connection, ARCHIVE, NOW)
    assert (backlog.rows, backlog.owed) == (5, 1)
    assert MONTHS.month_at(backlog.oldest_key or 0, latest=Month.of(NOW)) == Month(2026, 9)
    moved = move(engine, ARCHIVE, NOW, batch_rows=2, lock_by_key=by_key)
    assert moved == {"pay.Payments Done": 5, "pay.Payment Events": 10}
    with engine.connect() as connection:
        assert count_archived(connection, ARCHIVE) == {"pay.payments_archive_2026_09": 5}
    events = rows(engine, 'pay."Payment Events.archive"')
    assert len(events) == 10
    assert range_keys_of_events(engine) == {MADE}
    with engine.connect() as connection:
        live = 'SELECT DISTINCT tenant, payment_number FROM pay."Payment Events" ORDER BY 1, 2'
        assert connection.exec_driver_sql(live).all() == [(7, 3), (7, 4), (8, 4)]
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        assert check_rows(connection, POLICIES, ARCHIVES, size=WindowSize(3, 1)) == []


@pytest.mark.parametrize("by_key", [False, True], ids=["at once", "by key"])
def test_psql_runs_what_a_dry_run_prints(server: tuple[Engine, str], engine: Engine, by_key: bool) -> None:
    _, conninfo = server
    add(engine, 1, 2)
    with engine.connect() as connection:
        columns = read_columns(connection, ARCHIVE)
    cutoff = f"'{(NOW - ARCHIVE.grace).isoformat()}'"
    psql(conninfo, script(ARCHIVE, columns, cutoff=cutoff, batch_rows=9, lock_by_key=by_key))
    assert len(rows(engine, "pay.payments_archive")) == 4
    assert range_keys_of_events(engine) == {MADE}


def test_rows_that_contradict_the_policies_are_found_and_moved_by_the_fix(engine: Engine) -> None:
    add(engine, 1, 2, 3)
    add(engine, 4, state="open", settled_at=None)
    move(engine, ARCHIVE, NOW)
    with engine.begin() as connection:
        for statement in (
            # An event that did not travel, and a payment that stands twice.
            'WITH gone AS (DELETE FROM pay."Payment Events.archive" WHERE tenant = 7 AND payment_number = 2 '
            'RETURNING tenant, payment_number, event) INSERT INTO pay."Payment Events" SELECT * FROM gone',
            "INSERT INTO pay.payments (tenant_id, number, state, created_at) "
            "SELECT 9, 9, state, now() FROM unnest(ARRAY['open', 'settled']) AS state",
        ):
            connection.exec_driver_sql(statement)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        findings = check_rows(connection, POLICIES, ARCHIVES, size=WindowSize(3, 1))
    faults = {found.table: found for found in findings}
    assert faults["pay.payments"].fault == "1 (tenant_id, number) stand in it more than once: (9, 9)"
    assert "WHERE tenant_id = 9 AND number = 9" in faults["pay.payments"].fix
    stray = faults["pay.Payment Events"]
    assert stray.fault == (
        "rows of 1 (tenant, payment_number) that stand in pay.payments_archive, not in pay.payments: (7, 2)"
    )
    with engine.begin() as connection:
        connection.exec_driver_sql(stray.fix)
    assert range_keys_of_events(engine) == {MADE}
    assert len(rows(engine, 'pay."Payment Events.archive"')) == 12


@pytest.fixture
def team(postgres: PostgresServers, tmp_path: Path) -> Iterator[Team]:
    """Give a project with the stranger's models and policies, and its database."""
    root = tmp_path / "strangers_team"
    root.mkdir()
    with run_team(postgres, root, "payments") as team:
        here = "tests.integration.strangers_tables"
        (root / "mes-storage.toml").write_text(
            f'[trees.payments]\nmetadata = "{here}:Base.metadata"\npolicies = "{here}:POLICIES"\n'
            f'archives = "{here}:ARCHIVES"\nrevisions = "migrations/payments/versions"\n'
        )
        psql(
            postgres.conninfo(f"{team.prefix}_payments"),
            "CREATE SCHEMA pay AUTHORIZATION crm_owner; GRANT USAGE ON SCHEMA pay TO crm; "
            "ALTER DEFAULT PRIVILEGES FOR ROLE crm_owner IN SCHEMA pay GRANT ALL ON TABLES TO crm;",
        )
        yield team


def test_verbs_of_mesctl_work_on_them(
    team: Team, postgres: PostgresServers, capsys: pytest.CaptureFixture[str]
) -> None:
    mesctl = Mesctl(team.root / "topology.toml", capsys, team.root / "mes-storage.toml")
    engine = engine_of_team(postgres, team)
    upgrade, downgrade = autogenerate(engine, Base.metadata, include_schemas=True)
    bodies = [textwrap.indent(code, "    ") for code in (upgrade, downgrade)]
    (team.root / "migrations/payments/versions/0001_things.py").write_text(REVISION.format(*bodies))
    upgraded = mesctl("migrate", "upgrade")
    assert upgraded.status == ExitStatus.DONE, upgraded.err
    assert mesctl("migrate", "freeze").status == ExitStatus.DONE
    now = datetime.now(UTC)
    add(engine, 1, 2)
    made = {found["action"] for found in mesctl("partitions", "plan", "--since", "2026-09", "--json").json}
    assert "create + attach 2026-09" in made
    psql_script = mesctl("partitions", "apply", "--dry-run", "--since", "2026-09").out
    assert 'CREATE TABLE pay."Payment Events.archive_2026_09"' in psql_script
    assert mesctl("partitions", "apply", "--since", "2026-09").status == ExitStatus.DONE
    assert mesctl("partitions", "check").status == ExitStatus.DONE
    assert mesctl("partitions", "check", "--deep").status == ExitStatus.DONE
    drift = mesctl("migrate", "drift")
    assert drift.status == ExitStatus.DONE, drift.out
    found = check_with_alembic(team)
    assert found.returncode == 0, found.stdout + found.stderr
    listed = mesctl("partitions", "list", "--json").json
    assert {(row["table"], row["bound"]) for row in listed} >= {
        ("pay.payments_archive", "2026-09"),
        ("visits", "2026-09"),
        ('"Say ""hi"""', "2026-09"),
        ("pay.payments", "refused, settled"),
    }
    for verb in ("detach", "attach", "detach"):
        done = mesctl("partitions", verb, "pay.payments_archive", "payments_archive_2026_10")
        assert (done.status, done.err) == (ExitStatus.DONE, "")
    dropped = mesctl(
        "partitions", "drop", "pay.payments_archive", "payments_archive_2026_10", "--delay-days", "0"
    )
    assert dropped.status == ExitStatus.DONE
    assert mesctl("partitions", "apply", "--since", "2026-09").status == ExitStatus.DONE
    status = mesctl("archive", "status", "--json").json["payments"]["pay.payments_archive"]
    assert status["waiting"] == (4 if now - SETTLED > ARCHIVE.grace else 0)
    dry = mesctl("archive", "run", "--grace", "1d", "--dry-run")
    assert (dry.status, 'DELETE FROM pay."Payment Events"' in dry.out) == (ExitStatus.DONE, True)
    ran = mesctl("archive", "run", "--grace", "1d", "--json")
    assert ran.status == ExitStatus.DONE, ran.err
    assert ran.json == {"payments": {"pay.Payments Done": 4, "pay.Payment Events": 8}}
    assert mesctl("partitions", "analyze", "pay.payments").status == ExitStatus.DONE
    assert mesctl("doctor", "--json").status in {ExitStatus.DONE, ExitStatus.FAILED}


def check_with_alembic(team: Team) -> subprocess.CompletedProcess[str]:
    """Run `alembic check` as the team does: it finds no difference between models and database."""
    return subprocess.run(
        [Path(sys.executable).parent / "alembic", "check"],
        cwd=team.root,
        env=os.environ
        | {"MES_STORAGE_TOPOLOGY": str(team.root / "topology.toml"), "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def engine_of_team(postgres: PostgresServers, team: Team) -> Engine:
    return engine_of(postgres.conninfo(f"{team.prefix}_payments", role=OWNER))
