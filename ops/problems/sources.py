"""Reads what may be wrong: every server, replica and partition, the embedded platform, and the project's own.

Each source has a connection of its own, whose statements end in time and hold no snapshot.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection, text

import partitions
from ops.errors import OpsError
from ops.fleet import Member, members, open_engine
from ops.options import Options
from ops.problems.service import (
    DatabaseFacts,
    DirectoryFacts,
    Found,
    HeldSlot,
    LockWait,
    MapInForce,
    OpenProblem,
    OpenTransaction,
    Source,
    component_problems,
    database_problems,
    node_problems,
    partition_problems,
    run_sources,
    shard_problems,
)
from ops.project.project import Project
from ops.replicas.nodes import NodeWatcher
from readreplica.wal import SELECT_SLOTS
from sharding.ownership import read_identity
from sharding.topology import Database, Topology

DEADLINE_SECONDS = 9.0
STATEMENT_SECONDS = 4

_SERVER = text("""
    SELECT clock_timestamp() AS now, pg_is_in_recovery() AS is_standby,
           (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections,
           current_setting('max_connections')::int
               - current_setting('superuser_reserved_connections')::int AS connections_max,
           (SELECT age(datfrozenxid) FROM pg_database WHERE datname = current_database()) AS xid_age,
           current_setting('autovacuum_freeze_max_age')::int AS freeze_age,
           CASE WHEN NOT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')
                THEN current_user::text END AS hidden_from
""")
_TRANSACTIONS = text("""
    SELECT pid::text AS name, usename::text AS role, application_name AS application, state,
           CASE WHEN state LIKE 'idle in%' THEN state_change ELSE xact_start END AS began
    FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
      AND backend_type = 'client backend' AND state IS NOT NULL
    UNION ALL
    SELECT gid, owner::text, '', 'prepared', prepared FROM pg_prepared_xacts
    WHERE database = current_database()
    ORDER BY 5 LIMIT 100
""")
_LOCK_WAITS = text("""
    SELECT waits.pid, session.usename::text AS role, session.application_name AS application,
           coalesce(waits.relation::regclass::text, '') AS relation, waits.waitstart AS began,
           pg_blocking_pids(waits.pid) AS blockers
    FROM pg_locks AS waits JOIN pg_stat_activity AS session USING (pid)
    WHERE NOT waits.granted AND waits.waitstart IS NOT NULL AND session.datname = current_database()
    ORDER BY waits.waitstart LIMIT 100
""")
_MAPS = text("""
    SELECT DISTINCT ON (tree) tree, version, owners FROM public.shard_map_versions
    ORDER BY tree, version DESC
""")
_LEASES = text("SELECT id_space, count(*) FROM public.node_leases WHERE expires_at > now() GROUP BY 1")
_UNFINISHED = text("""
    SELECT tree, count(*), min(decided_at) FROM public.two_phase_decisions
    WHERE decision = 'commit' AND finished_at IS NULL GROUP BY 1
""")


def find_problems(options: Options, *, deadline_seconds: float = DEADLINE_SECONDS) -> list[OpenProblem]:
    """Read everything, and return what is wrong at this moment, in no order.

    Parameters:
        options: of the run of `mesctl`: the topology, the project and its platform.
        deadline_seconds: what has not answered by then is a problem itself.

    Raises:
        TopologyError, ProjectInvalid: a file is wrong.
    """
    topology, project = options.topology(), options.project()
    facts: dict[str, DatabaseFacts] = {}
    sources: dict[str, Source] = {}
    for name, database in topology.databases.items():
        sources[f"database {name}"] = partial(_database, topology, database, facts)
        if database.replicas:
            sources[f"replicas of {name}"] = partial(_nodes, topology, name)
    for member in members_of(topology, project):
        if member.tree.policies:
            sources[f"partitions of {member.database.name}"] = partial(_partitions, topology, member)
    if options.named_topology is None and (options.home / "topology.toml").exists():
        sources["the embedded platform"] = partial(_platform, options, deadline_seconds)
    if project.file.monitoring.problems is not None:
        sources["the project's own problems"] = partial(_own, project, topology)
    found = run_sources(sources, deadline_seconds=deadline_seconds)
    return [*found, *shard_problems(list(facts.values()))]


def members_of(topology: Topology, project: Project) -> list[Member]:
    """List the databases of the trees that both know; `doctor` names the others."""
    trees = [name for name in project.trees if name in topology.trees]
    return [member for name in trees for member in members(topology, project, tree=name)]


@contextmanager
def reading(topology: Topology, database: Database, *, role: str) -> Iterator[Connection]:
    """Connect to a database; each statement is a transaction of its own and ends in time."""
    with (
        open_engine(topology, database, role=role, isolation_level="AUTOCOMMIT") as engine,
        engine.connect() as connection,
    ):
        connection.exec_driver_sql(f"SET statement_timeout = '{STATEMENT_SECONDS}s'")
        connection.exec_driver_sql("SET lock_timeout = '1s'")
        yield connection


def _database(topology: Topology, database: Database, known: dict[str, DatabaseFacts]) -> Found:
    with reading(topology, database, role=database.owner) as connection:
        facts = read_facts(connection, topology, database)
    known[database.name] = facts
    return database_problems(facts)


def read_facts(connection: Connection, topology: Topology, database: Database) -> DatabaseFacts:
    """Read what may be wrong with one database."""
    server = connection.execute(_SERVER).mappings().one()
    kind = topology.trees[database.tree].kind
    is_shard = kind == "sharded" and not database.is_coordinator
    identity = read_identity(connection) if is_shard else None
    return DatabaseFacts(
        name=database.name,
        tree=database.tree,
        psql=f"psql -h {database.primary.host} -p {database.primary.port} -d {database.dbname}",
        transactions=tuple(OpenTransaction(**row) for row in connection.execute(_TRANSACTIONS).mappings()),
        lock_waits=tuple(LockWait(**row) for row in connection.execute(_LOCK_WAITS).mappings()),
        slots=tuple(HeldSlot(**row) for row in connection.execute(text(SELECT_SLOTS)).mappings()),
        map_version=None if identity is None else identity.map_version,
        directory=_read_directory(connection) if kind == "directory" else None,
        **server,
    )


def _read_directory(connection: Connection) -> DirectoryFacts:
    return DirectoryFacts(
        maps=tuple(
            MapInForce(tree, version, frozenset(owners.split(",")))
            for tree, version, owners in connection.execute(_MAPS)
        ),
        leases=dict(map(tuple, connection.execute(_LEASES))),
        unfinished={tree: (count, oldest) for tree, count, oldest in connection.execute(_UNFINISHED)},
    )


def _nodes(topology: Topology, name: str) -> Found:
    watcher = NodeWatcher(topology, [name])
    watcher.poll()  # what was seen before proves lag in seconds
    return node_problems(watcher.poll())


def _partitions(topology: Topology, member: Member) -> Found:
    policies = member.tree.policies
    with reading(topology, member.database, role=member.database.owner) as connection:
        catalog = partitions.read_catalog(connection, [policy.table for policy in policies])
    findings = partitions.check(policies, catalog, datetime.now(UTC))
    return partition_problems(member.database.name, findings)


class StatusUnread(OpsError):
    """`mesctl status` of the embedded platform has failed."""


def _platform(options: Options, deadline_seconds: float) -> Found:
    return component_problems(platform_status(options, timeout_seconds=deadline_seconds)["components"])


def platform_status(options: Options, *, timeout_seconds: float) -> Mapping[str, Any]:
    """Return what `mesctl status --json` prints: in a process, for what serves development is not imported.

    Raises:
        StatusUnread: it says nothing, or not in time.
    """
    words = [sys.executable, "-m", "ops", "--json", "--home", str(options.home)]
    words += ["--project", str(options.project().path), "status"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout_seconds, check=False)
    except subprocess.TimeoutExpired:
        raise StatusUnread(f"mesctl status said nothing within {timeout_seconds:g} s") from None
    if not done.stdout:
        raise StatusUnread(done.stderr.strip() or f"mesctl status ended with {done.returncode}")
    found: Mapping[str, Any] = json.loads(done.stdout)
    return found


def _own(project: Project, topology: Topology) -> Found:
    reference = project.file.monitoring.problems
    assert reference is not None
    found: Found = project.resolve("monitoring.problems", reference)(topology)
    return found
