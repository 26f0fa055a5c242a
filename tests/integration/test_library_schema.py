"""The library's schema in a team's databases: made before its revisions, and known to what compares."""

import json
import os
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest

from ops.errors import ExitStatus
from ops.waiting import wait_until
from sharding.ownership import REFUSED
from sharding.shard_map import ShardMap
from tests.integration.library_rig import DATABASES, SERVICE, SHARDS, LibraryTeam, run_library_team
from tests.integration.mesctl_rig import Mesctl
from tests.psql import psql
from tests.servers import PostgresServers

_numbers = count(1)
MAP = ShardMap.even(SHARDS, 16)
KEYS = {shard: next(key for key in range(99) if MAP.shard_of(key) == shard) for shard in SHARDS}
DIRECTORY_TABLES = {
    *("mes_storage_schema", "metric_samples", "migration_ledger", "node_leases", "reference_contents"),
    *("shard_map_versions", "two_phase_decisions"),
}
SHARD_TABLES = {"mes_storage_schema", "reference_versions", "shard_identity"}
IS_WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
)


@pytest.fixture
def team(postgres: PostgresServers, warm_mesctl: Path, tmp_path: Path) -> Iterator[LibraryTeam]:
    """Give a project whose databases are empty."""
    root = tmp_path / f"schema{next(_numbers)}"
    with run_library_team(postgres, root, programs=warm_mesctl.parent) as team:
        yield team


@pytest.fixture
def mesctl(team: LibraryTeam, capsys: pytest.CaptureFixture[str]) -> Mesctl:
    return Mesctl(team.root / "topology.toml", capsys, team.root / "mes-storage.toml")


def is_complete(team: LibraryTeam) -> bool:
    return (
        team.versions_in("books") == [("directory", 1), ("directory", 2)]
        and all(team.versions_in(shard) == [("shard", 1)] for shard in SHARDS)
        and set(team.tables("books")) == DIRECTORY_TABLES | {"alembic_version"}
        and all(
            set(team.tables(shard)) == SHARD_TABLES | {"alembic_version", "payments", "currencies"}
            for shard in SHARDS
        )
    )


def test_fresh_project_copies_no_sql(team: LibraryTeam, mesctl: Mesctl) -> None:
    made = team.run("alembic", "revision", "--autogenerate", "-m", "first", "--rev-id", "0001")
    assert made.returncode == 0, made.stderr
    [revision] = team.versions.glob("*.py")
    written = revision.read_text()
    assert "op.create_shard_guard('payments', key='tenant_id', version=1)" in written
    assert written.count("create_shard_guard") == 1
    assert "op.drop_shard_guard('payments', key='tenant_id', version=1)" in written
    assert not any(table in written for table in SHARD_TABLES)
    done = mesctl("migrate", "upgrade")
    assert done.status == ExitStatus.DONE, done.err
    assert is_complete(team)
    shown = {row["database"]: row for row in mesctl("migrate", "status", "--json").json}
    assert {name: row["library"] for name, row in shown.items()} == dict.fromkeys(SHARDS, 1) | {"books": 2}
    assert team.query("books", "SELECT DISTINCT database, revision, state FROM migration_ledger") != []

    lacking = mesctl("doctor", "--json")
    assert {(row["where"], row["problem"], row["fix"]) for row in lacking.json} == {
        ("books", "has no shard map of the tree payments", "mesctl shards init --tree payments"),
        *(
            (
                shard,
                "does not know which shard it is, and refuses no row",
                "mesctl shards init --tree payments",
            )
            for shard in SHARDS
        ),
    }
    assert mesctl("shards", "init").status == ExitStatus.DONE
    assert team.query("books", "SELECT tree, version FROM shard_map_versions") == [("payments", 1)]
    assert mesctl("doctor").out == "nothing is wrong\n"
    for shard in SHARDS:  # the rights on its own tables are the team's to give
        team.query(shard, f'GRANT SELECT ON payments TO "{SERVICE}"')
    assert mesctl("shards", "check").status == ExitStatus.DONE
    insert = "INSERT INTO payments (payment_id, tenant_id, words) VALUES (1, %s, '')"
    team.query(SHARDS[0], insert, KEYS[SHARDS[0]])
    with pytest.raises(psycopg.Error) as refused:
        team.query(SHARDS[0], insert, KEYS[SHARDS[1]])
    assert refused.value.sqlstate == REFUSED
    again = team.run("alembic", "check")
    assert (again.returncode, "No new upgrade operations" in again.stdout) == (0, True), again.stderr


def test_first_map_is_printed_for_psql(team: LibraryTeam, mesctl: Mesctl) -> None:
    team.write_first()
    assert mesctl("migrate", "upgrade").status == ExitStatus.DONE
    script = mesctl("shards", "init", "--dry-run").out
    assert team.query("books", "SELECT count(*) FROM shard_map_versions") == [(0,)]
    psql(team.servers.conninfo(), script)
    assert team.query("books", "SELECT version, owners FROM shard_map_versions") == [
        (1, ",".join(MAP.owners))
    ]
    assert mesctl("doctor").out == "nothing is wrong\n"
    psql(team.servers.conninfo(), script)
    [row, _] = mesctl("shards", "init", "--json").json
    assert (row["map_version"], row["changed"]) == (1, False)


def test_doctor_names_a_schema_and_a_guard_that_lack(team: LibraryTeam, mesctl: Mesctl) -> None:
    found = mesctl("doctor", "--json").json
    assert [(row["where"], row["fix"]) for row in found] == [
        (name, "mesctl migrate upgrade") for name in DATABASES
    ]
    assert found[0]["problem"] == "its library schema is of version 0, and this mesctl knows 2"
    team.write_first()
    mesctl("migrate", "upgrade")
    mesctl("shards", "init")
    team.query(SHARDS[1], "ALTER TABLE payments DROP CONSTRAINT shard_owns_check")
    [finding] = mesctl("doctor", "--json").json
    assert finding["where"] == f"{SHARDS[1]}: payments"
    assert 'op.create_shard_guard("payments", key="tenant_id")' in finding["fix"]


def test_roles_of_services_have_their_rights_and_no_more(team: LibraryTeam, mesctl: Mesctl) -> None:
    team.write_first()
    assert mesctl("migrate", "upgrade").status == ExitStatus.DONE
    with psycopg.connect(team.conninfo("books", SERVICE), autocommit=True) as connection:
        connection.execute("SELECT * FROM node_leases, shard_map_versions, two_phase_decisions")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM migration_ledger")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM reference_contents")
    with psycopg.connect(team.conninfo(SHARDS[0], SERVICE), autocommit=True) as connection:
        connection.execute("SELECT * FROM shard_identity")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM shard_identity")


def test_run_that_is_killed_in_the_chain_is_finished_by_the_next(team: LibraryTeam, mesctl: Mesctl) -> None:
    team.write_first()
    # An uncommitted table of the same name holds the chain up in the middle.
    with psycopg.connect(team.conninfo(SHARDS[0])) as blocker:
        blocker.execute("CREATE TABLE reference_versions (other int)")
        victim = team.start("mesctl", "migrate", "upgrade")
        try:
            waiting = wait_until(lambda: team.query(SHARDS[0], IS_WAITING) == [(1,)], timeout_seconds=60)
            assert waiting
        finally:
            os.killpg(victim.pid, signal.SIGKILL)
            victim.communicate()
        blocker.rollback()
    assert team.versions_in("books") == [("directory", 1), ("directory", 2)]
    assert team.versions_in(SHARDS[0]) == []
    assert "shard_identity" not in team.tables(SHARDS[0])
    done = mesctl("migrate", "upgrade")
    assert done.status == ExitStatus.DONE, done.err
    assert "mes_storage_schema shard 1 up: a run was killed; the revision was not complete" in done.err
    assert is_complete(team)
    entries = "SELECT state FROM migration_ledger WHERE database = %s AND revision = %s ORDER BY entry_id"
    assert team.query("books", entries, SHARDS[0], "mes_storage_schema shard 1") == [("failed",), ("done",)]


def test_two_runs_at_once_make_it_once(team: LibraryTeam) -> None:
    team.write_first()
    runs = [team.start("mesctl", "migrate", "upgrade") for _ in range(2)]
    ended = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], ended
    assert is_complete(team)
    made = (
        "SELECT count(*), count(DISTINCT database) FROM migration_ledger WHERE revision LIKE 'mes_storage%'"
    )
    assert team.query("books", made) == [(4, 3)]


def test_plain_alembic_makes_it_too(team: LibraryTeam, mesctl: Mesctl) -> None:
    team.write_first()
    assert mesctl("migrate", "upgrade", "--tree", "books").status == ExitStatus.DONE
    done = team.run("alembic", "upgrade", "head")
    assert done.returncode == 0, done.stderr
    assert is_complete(team)
    down = team.run("alembic", "downgrade", "base")
    assert down.returncode == 0, down.stderr
    assert set(team.tables(SHARDS[0])) == SHARD_TABLES | {"alembic_version"}
    assert team.run("alembic", "upgrade", "head").returncode == 0
    assert is_complete(team)


def test_offline_scripts_are_taken_by_psql(team: LibraryTeam, mesctl: Mesctl) -> None:
    team.write_first()
    script = mesctl("migrate", "upgrade", "--dry-run").out
    assert team.tables("books") == []
    psql(team.servers.conninfo(), script)
    assert is_complete(team)
    assert mesctl("migrate", "plan").out == "nothing to do: every database is at its head\n"
    assert mesctl("migrate", "upgrade", "--dry-run").out == ""


def test_alembics_script_has_the_schema_in_front_and_may_run_again(team: LibraryTeam, mesctl: Mesctl) -> None:
    team.write_first()
    printed = team.run("alembic", "upgrade", "head", "--sql")
    assert printed.returncode == 0, printed.stderr
    for shard in SHARDS:
        psql(team.conninfo(shard), printed.stdout)
    schema, _, _ = printed.stdout.partition("CREATE TABLE IF NOT EXISTS alembic_version")
    psql(team.conninfo(SHARDS[0]), schema)
    assert mesctl("migrate", "upgrade").status == ExitStatus.DONE
    assert is_complete(team)


def test_newer_schema_is_refused_in_one_line(team: LibraryTeam, mesctl: Mesctl) -> None:
    team.write_first()
    mesctl("migrate", "upgrade", "--tree", "books")
    team.query("books", "INSERT INTO mes_storage_schema VALUES ('directory', 3, now(), '9.9')")
    refused = mesctl("migrate", "upgrade")
    assert refused.status == ExitStatus.REFUSED
    [line] = refused.err.splitlines()
    assert "its library schema is of version 3, and this mesctl knows 2" in line
    assert line.endswith("use the release that made it, mes-storage 9.9")
    assert team.tables(SHARDS[0]) == []
    plain = team.run("alembic", "upgrade", "head")  # the directory's is no affair of this tree
    assert plain.returncode == 0, plain.stderr
    [row, *_] = [row for row in mesctl("doctor", "--json").json if row["where"] == "books"]
    assert row["fix"] == "use the release that made it"


def test_other_object_of_that_name_is_refused_and_nothing_changed(team: LibraryTeam, mesctl: Mesctl) -> None:
    team.write_first()
    mesctl("migrate", "upgrade", "--tree", "books")
    team.query(SHARDS[0], "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)")
    team.query(SHARDS[0], "COMMENT ON TABLE alembic_version IS 'mes-storage tree: payments'")
    team.query(SHARDS[0], "CREATE TABLE shard_identity (name text PRIMARY KEY)")
    refused = mesctl("migrate", "upgrade")
    assert refused.status == ExitStatus.REFUSED
    assert "mes_storage_schema shard 1 is not applied, for it would find other objects" in refused.err
    assert team.tables(SHARDS[0]) == ["alembic_version", "shard_identity"]
    assert team.tables(SHARDS[1]) == []
    # What a team had copied is what the library makes: it is recorded, and what lacks is added.
    team.query(SHARDS[0], "DROP TABLE shard_identity")
    done = mesctl("migrate", "upgrade")
    assert done.status == ExitStatus.DONE, done.err
    for shard in SHARDS:
        team.query(shard, "DROP TABLE mes_storage_schema, reference_versions")
    assert mesctl("migrate", "upgrade").status == ExitStatus.DONE
    assert is_complete(team)


CHANGES = {
    "ALTER TABLE node_leases ADD COLUMN note text": ("books", "column note of node_leases"),
    "DROP INDEX migration_ledger_database_entry_id_idx": (
        "books",
        "index migration_ledger_database_entry_id_idx of migration_ledger",
    ),
    f'REVOKE SELECT ON node_leases FROM "{SERVICE}"': ("books", f'grant "{SERVICE}" of node_leases'),
    f'GRANT TRUNCATE ON node_leases TO "{SERVICE}"': ("books", f'grant "{SERVICE}" of node_leases'),
    "GRANT SELECT ON migration_ledger TO crm": ("books", "grant crm of migration_ledger"),
    "ALTER FUNCTION shard_owns(bigint) COST 7": (SHARDS[0], "function shard_owns(bigint)"),
    "ALTER TABLE shard_identity DROP CONSTRAINT shard_identity_singleton_check": (
        SHARDS[0],
        "constraint shard_identity_singleton_check of shard_identity",
    ),
    "DROP TABLE reference_versions": (SHARDS[0], "table reference_versions"),
}


def test_drift_reports_what_was_changed_by_hand_and_nothing_else(team: LibraryTeam, mesctl: Mesctl) -> None:
    team.write_first()
    mesctl("migrate", "upgrade")
    mesctl("shards", "init")
    assert mesctl("migrate", "freeze").status == ExitStatus.DONE
    frozen = json.loads((team.root / "schema" / "0001.json").read_text())
    tables = {table for _, table, _, _ in frozen["facts"]}
    assert {"payments", "currencies"} <= tables
    assert not tables & (SHARD_TABLES | DIRECTORY_TABLES)
    assert mesctl("migrate", "drift").out == "every database is as its migrations make it\n"
    for statement, (database, _) in CHANGES.items():
        team.query(database, statement)
    found = mesctl("migrate", "drift", "--json").json
    assert {(row["database"], row["object"]) for row in found} == set(CHANGES.values())


def test_autogenerate_takes_a_guard_away_and_changes_its_key(team: LibraryTeam, mesctl: Mesctl) -> None:
    team.write_first()
    mesctl("migrate", "upgrade")
    models = team.root / f"{team.root.name}_models.py"
    models.write_text(models.read_text().replace('shard_key("tenant_id")', 'shard_key("payment_id")'))
    made = team.run("alembic", "revision", "--autogenerate", "-m", "key", "--rev-id", "0002")
    assert made.returncode == 0, made.stderr
    [revision] = team.versions.glob("0002*.py")
    upgrade, _, downgrade = revision.read_text().partition("def downgrade")
    drop, create = (
        f"op.{verb}('payments', key='{key}', version=1)"
        for verb, key in (("drop_shard_guard", "tenant_id"), ("create_shard_guard", "payment_id"))
    )
    assert 0 < upgrade.index(drop) < upgrade.index(create)
    assert 0 < downgrade.index("drop_shard_guard") < downgrade.index("create_shard_guard")
    assert team.run("alembic", "upgrade", "head").returncode == 0
    assert team.run("alembic", "check").returncode == 0
    assert team.run("alembic", "downgrade", "0001").returncode == 0
    guard = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'shard_owns_check'"
    assert team.query(SHARDS[0], guard) == [("CHECK (shard_owns(tenant_id)) NOT VALID",)]


PARTS = '''"""A partitioned table, of which one partition brings a guard of its own."""

from alembic import op

revision = "0002"
down_revision = "0001"
phase = "pre"


TABLES = """
CREATE TABLE "Parts" (tenant bigint, at date, PRIMARY KEY (tenant, at)) PARTITION BY RANGE (at);
CREATE TABLE parts_1 PARTITION OF "Parts" FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
"""
ATTACH = """
CREATE TABLE parts_2 (LIKE "Parts" INCLUDING ALL);
ALTER TABLE "Parts" ATTACH PARTITION parts_2 FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
"""


def upgrade() -> None:
    op.execute(TABLES)
    op.create_shard_guard("Parts", key="tenant")
    op.execute(ATTACH)


def downgrade() -> None:
    op.drop_shard_guard("Parts")
'''


def test_guard_of_a_partitioned_table_comes_and_goes_with_its_partitions(
    team: LibraryTeam, mesctl: Mesctl
) -> None:
    team.write_first()
    (team.versions / "0002_parts.py").write_text(PARTS)
    assert mesctl("migrate", "upgrade").status == ExitStatus.DONE
    guarded = (
        "SELECT conrelid::regclass::text FROM pg_constraint WHERE conname = 'shard_owns_check' ORDER BY 1"
    )
    assert team.query(SHARDS[0], guarded) == [('"Parts"',), ("parts_1",), ("parts_2",), ("payments",)]
    assert mesctl("migrate", "downgrade", "0001", "--tree", "payments", "--yes").status == ExitStatus.DONE
    assert team.query(SHARDS[0], guarded) == [("payments",)]
