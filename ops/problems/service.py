"""What is wrong at this moment: pure rules on facts that `sources` has read, and the limits they go by."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal, NamedTuple

import psycopg
from sqlalchemy.exc import DBAPIError

from ops.replicas.nodes import PRIMARY_NODE, NodeRow
from ops.waiting import answers_of
from partitions.check import PartitionFinding, Remedy
from readreplica.errors import one_line
from sharding.ids import NODES

Severity = Literal["page", "ticket", "note"]
WORST_FIRST: tuple[Severity, ...] = ("page", "ticket", "note")

NO_ANSWER = "does not answer"
_SILENT = f"it {NO_ANSWER}: "


@dataclass(frozen=True, slots=True)
class OpenProblem:
    """One thing that is wrong, since when if that is known, and the command that helps."""

    severity: Severity
    object: str
    what: str
    since: datetime | None
    command: str


class Limit(NamedTuple):
    """From which value on something is a ticket, and from which on it wakes somebody; each may be absent."""

    ticket: float
    page: float = float("inf")

    def severity_of(self, value: float) -> Severity | None:
        """Return how bad a value is; None below both limits."""
        if value >= self.page:
            return "page"
        return "ticket" if value >= self.ticket else None


LIMITS: Mapping[str, Limit] = {
    "transaction open, seconds": Limit(300, 3_600),
    "transaction idle, seconds": Limit(60, 600),
    "transaction prepared, seconds": Limit(60, 600),
    "lock waited for, seconds": Limit(5, 60),
    "WAL held by a slot, bytes": Limit(1 << 30, 16 << 30),
    "connections used, share": Limit(0.8, 0.95),
    "transaction ids used, share of the freeze limit": Limit(1.5, 5),
    "replica behind, seconds": Limit(10, 300),
    "nodes of an id space leased, share": Limit(0.8, 0.95),
    "unit decided and not finished, seconds": Limit(60, 600),
}
"""When a fact becomes a problem. This is the one place that says so."""


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """A transaction that is open; `state` is a session's, or `prepared`."""

    name: str
    role: str
    application: str
    state: str
    began: datetime


@dataclass(frozen=True, slots=True)
class LockWait:
    """A session that waits for a lock, and who holds it up."""

    pid: int
    role: str
    application: str
    relation: str
    began: datetime
    blockers: Sequence[int]


@dataclass(frozen=True, slots=True)
class HeldSlot:
    """A replication slot and the WAL that the server keeps for it."""

    name: str
    is_active: bool
    wal_bytes: int
    is_lost: bool


@dataclass(frozen=True, slots=True)
class MapInForce:
    """The shard map in force: its version, and who owns any bucket."""

    tree: str
    version: int
    shards: frozenset[str]


@dataclass(frozen=True, slots=True)
class DirectoryFacts:
    """What a directory says of its trees."""

    maps: tuple[MapInForce, ...] = ()
    leases: Mapping[str, int] = field(default_factory=dict)
    unfinished: Mapping[str, tuple[int, datetime]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """What was read of a database, by its server's clock."""

    name: str
    tree: str
    psql: str
    now: datetime
    is_standby: bool
    transactions: tuple[OpenTransaction, ...]
    lock_waits: tuple[LockWait, ...]
    slots: tuple[HeldSlot, ...]
    connections: int
    connections_max: int
    xid_age: int
    freeze_age: int
    hidden_from: str | None = None
    """The role that may not see the sessions of others, if it may not."""

    map_version: int | None = None
    directory: DirectoryFacts | None = None


Found = Iterable[OpenProblem]
Source = Callable[[], Found]
"""Reads something, and returns what is wrong with it."""


def database_problems(facts: DatabaseFacts) -> Iterator[OpenProblem]:
    """Return what is wrong with one database."""
    if facts.is_standby:
        command = f"mesctl replicas list {facts.name}"
        yield OpenProblem("page", f"database {facts.name}", "its primary takes no writes", None, command)
    if facts.hidden_from is not None:
        what = f"{facts.hidden_from} may not see the sessions of other roles, nor how long they are open"
        grant = f'{facts.psql} -c "GRANT pg_monitor TO {facts.hidden_from}"'
        yield OpenProblem("note", f"sessions on {facts.name}", what, None, grant)
    yield from _transactions(facts)
    yield from _lock_waits(facts)
    yield from _slots(facts)
    yield from _room(facts)
    if facts.directory is not None:
        yield from _directory(facts, facts.directory)


def _transactions(facts: DatabaseFacts) -> Iterator[OpenProblem]:
    kinds = {"idle in transaction": "idle", "idle in transaction (aborted)": "idle", "prepared": "prepared"}
    for each in facts.transactions:
        limit = LIMITS[f"transaction {kinds.get(each.state, 'open')}, seconds"]
        severity = limit.severity_of((facts.now - each.began).total_seconds())
        if severity is None:
            continue
        where = f"transaction {each.name} on {facts.name}"
        what = f"{each.state}: {each.role}, {each.application or 'no application_name'}; vacuum waits for it"
        is_unit = each.state == "prepared"
        stop = f'{facts.psql} -c "SELECT pg_terminate_backend({each.name})"'
        command = f"mesctl shards in-doubt list --tree {facts.tree}" if is_unit else stop
        yield OpenProblem(severity, where, what, each.began, command)


def _lock_waits(facts: DatabaseFacts) -> Iterator[OpenProblem]:
    for wait in facts.lock_waits:
        severity = LIMITS["lock waited for, seconds"].severity_of((facts.now - wait.began).total_seconds())
        if severity is None:
            continue
        blockers = ", ".join(map(str, wait.blockers)) or "another"
        what = f"{wait.role} waits for a lock on {wait.relation or 'a row'}: held by session {blockers}"
        first = next((pid for pid in wait.blockers if pid > 0), None)
        stop = f'{facts.psql} -c "SELECT pg_terminate_backend({first})"'
        units = f"mesctl shards in-doubt list --tree {facts.tree}"  # pid 0 is a prepared transaction
        yield OpenProblem(
            severity, f"session {wait.pid} on {facts.name}", what, wait.began, stop if first else units
        )


def _slots(facts: DatabaseFacts) -> Iterator[OpenProblem]:
    for slot in facts.slots:
        severity = "page" if slot.is_lost else LIMITS["WAL held by a slot, bytes"].severity_of(slot.wal_bytes)
        if severity is None:
            continue
        state = (
            "has lost WAL that its reader needs" if slot.is_lost else f"holds {_bytes(slot.wal_bytes)} of WAL"
        )
        reader = "its reader is connected" if slot.is_active else "no reader is connected"
        command = f"mesctl replicas list {facts.name}"
        yield OpenProblem(severity, f"slot {slot.name} on {facts.name}", f"{state}: {reader}", None, command)


def _room(facts: DatabaseFacts) -> Iterator[OpenProblem]:
    where = f"database {facts.name}"
    severity = LIMITS["connections used, share"].severity_of(facts.connections / facts.connections_max)
    if severity is not None:
        what = f"connections are used up: {facts.connections} of {facts.connections_max}"
        yield OpenProblem(severity, where, what, None, "mesctl pgbouncer check")
    limit = LIMITS["transaction ids used, share of the freeze limit"]
    severity = limit.severity_of(facts.xid_age / facts.freeze_age)
    if severity is not None:
        what = f"vacuum is behind: {facts.xid_age} transaction ids in use, to freeze from {facts.freeze_age}"
        yield OpenProblem(severity, where, what, None, f"vacuumdb --freeze {facts.name}")


def _directory(facts: DatabaseFacts, directory: DirectoryFacts) -> Iterator[OpenProblem]:
    for space, leased in directory.leases.items():
        severity = LIMITS["nodes of an id space leased, share"].severity_of(leased / NODES)
        if severity is not None:
            what = f"node numbers run out: {leased} of {NODES} are leased"
            yield OpenProblem(severity, f"ids of {space}", what, None, "mesctl doctor")
    for tree, (count, oldest) in directory.unfinished.items():
        limit = LIMITS["unit decided and not finished, seconds"]
        severity = limit.severity_of((facts.now - oldest).total_seconds())
        if severity is not None:
            what = f"{count} units were to commit and are not finished"
            command = f"mesctl shards in-doubt list --tree {tree}"
            yield OpenProblem(severity, f"units of {tree}", what, oldest, command)


def shard_problems(facts: Sequence[DatabaseFacts]) -> Iterator[OpenProblem]:
    """Return where shards and the maps in force contradict each other."""
    maps = [each for found in facts if found.directory for each in found.directory.maps]
    for shard_map in maps:
        for each in facts:
            if each.tree != shard_map.tree or each.name not in shard_map.shards:
                continue
            where = f"shard {each.name}"
            if each.map_version is None:
                what = "does not know which shard it is, and refuses no row"
                yield OpenProblem("page", where, what, None, f"mesctl shards init --tree {each.tree}")
            elif each.map_version != shard_map.version:
                what = f"knows map version {each.map_version}, and {shard_map.version} is in force"
                yield OpenProblem("ticket", where, what, None, f"mesctl shards check --tree {each.tree}")


def node_problems(rows: Iterable[NodeRow]) -> Iterator[OpenProblem]:
    """Return what is wrong with the nodes of databases; lag counts where it is proven in seconds."""
    for row in rows:
        command = f"mesctl replicas list {row.database}"
        if row.node == PRIMARY_NODE:
            where = f"database {row.database}"
        else:
            where = f"replica {row.node} of {row.database}"
        behind = LIMITS["replica behind, seconds"].severity_of(row.lag_seconds or 0)
        if not row.answers:
            is_primary = row.node == PRIMARY_NODE
            reason = row.state.removeprefix("no answer: ")
            yield OpenProblem(
                "page" if is_primary else "ticket", where, f"{NO_ANSWER}: {reason}", None, command
            )
        elif row.role == "rival":
            yield OpenProblem("page", where, "takes writes, and is not the primary", None, command)
        elif row.role == "replica" and row.state != "serves reads":
            yield OpenProblem("ticket", where, f"serves no reads: {row.state}", None, command)
        elif behind is not None:
            what = f"is {row.lag_seconds:.0f} s behind"
            yield OpenProblem(behind, where, what, None, f"mesctl replicas lag {row.database}")


def partition_problems(database: str, findings: Iterable[PartitionFinding]) -> Iterator[OpenProblem]:
    """Return what of the findings of `mesctl partitions check` concerns a database."""
    for each in findings:
        where = f"table {each.table} on {database}"
        if each.partition and each.partition != each.table:
            where = f"partition {each.partition} on {database}"
        command = "mesctl partitions apply" if each.remedy is Remedy.APPLY else "mesctl partitions check"
        lost = "in no query" in each.fault
        yield OpenProblem("page" if lost else "ticket", where, each.fault, None, command)


def component_problems(components: Iterable[Mapping[str, Any]]) -> Iterator[OpenProblem]:
    """Return what of the embedded platform should run and does not; each is one of `mesctl status --json`."""
    for each in components:
        is_stopped = each["state"] in {"stopped", "absent"}
        if each["state"] == "faulty" or (each["wanted"] and is_stopped):
            detail = f": {each['detail']}" if each["detail"] else ""
            is_replica = each["kind"] == "replica"
            what = f"is {each['state']}{detail}"
            where = f"{each['kind']} {each['name']}"
            yield OpenProblem("ticket" if is_replica else "page", where, what, None, "mesctl up")


def unread(name: str, error: str) -> OpenProblem:
    """Return the problem of something that could not be read."""
    where = name if " " in name else f"database {name}"
    database = name.rpartition(" ")[2]
    is_of_database = name == database or name.startswith(("database ", "replicas of ", "partitions of "))
    command = f"mesctl replicas list {database}" if is_of_database else "mesctl status"
    return OpenProblem("page", where, f"{NO_ANSWER}: {error.removeprefix(_SILENT)}", None, command)


def ranked(problems: Iterable[OpenProblem]) -> list[OpenProblem]:
    """Return problems worst first, the longest-standing first among equals, and none twice.

    What is of the same object and begins alike, up to a colon, is one problem: a dead server is seen by
    several sources, each with an error of its own.
    """
    distinct: dict[tuple[str, str], OpenProblem] = {}
    for each in problems:
        key = each.object, each.what.partition(":")[0]
        known = distinct.get(key)
        if known is None or WORST_FIRST.index(each.severity) < WORST_FIRST.index(known.severity):
            distinct[key] = each
    return sorted(distinct.values(), key=_rank)


def _rank(problem: OpenProblem) -> tuple[int, bool, float, str]:
    since = problem.since.timestamp() if problem.since else 0.0
    return WORST_FIRST.index(problem.severity), problem.since is None, since, problem.object


def run_sources(sources: Mapping[str, Source], *, deadline_seconds: float) -> list[OpenProblem]:
    """Read all sources at once, and return what is wrong, in no order.

    One that fails, or is not done in time, is a problem itself; the others are returned all the same.

    Parameters:
        sources: by the name of what they read.
        deadline_seconds: how long they have together.
    """
    answers = answers_of(
        {name: partial(_listed, each) for name, each in sources.items()}, deadline_seconds=deadline_seconds
    )
    found: list[OpenProblem] = []
    for name, answer in answers.items():
        found += [unread(name, first_line(answer))] if isinstance(answer, Exception) else answer
    return found


def _listed(source: Source) -> list[OpenProblem]:
    return list(source())


def first_line(error: BaseException) -> str:
    """Return an error in one line; of a server's, what it said."""
    if isinstance(error, (DBAPIError, psycopg.Error)):
        return one_line(error)
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def age_of(since: datetime | None, now: datetime) -> str:
    """Return how long ago something began, as a person wants it: `42 s`, `3 min`, `5 h`, `2 d`."""
    if since is None:
        return ""
    seconds = max(timedelta(0), now - since).total_seconds()
    for unit, size in (("d", 172_800), ("h", 7_200), ("min", 120)):
        if seconds >= size:
            return f"{seconds / {'d': 86_400, 'h': 3_600, 'min': 60}[unit]:.0f} {unit}"
    return f"{seconds:.0f} s"


def _bytes(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):.1f} MiB"
