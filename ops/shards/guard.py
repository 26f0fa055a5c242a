"""The ownership of each shard, and the proof that it holds what it owns and nothing else."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from ops.fleet import connect_line, naming, open_engine
from ops.project.project import ProjectTree
from partitions.sql import identifier, relation
from readreplica.errors import one_line
from sharding.errors import ShardingError
from sharding.keys import GuardedTable, guarded_tables
from sharding.ownership import (
    Ownership,
    bucket_sql,
    ownership_statements,
    read_guard,
    read_identity,
    set_ownership,
)
from sharding.shard_map import ShardMap
from sharding.topology import Topology

Report = Callable[[str], None]

EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class InitializedShard:
    """What was set on a shard; `changed` is false if it was so already."""

    shard: str
    map_version: int
    buckets: int
    changed: bool


def init_shards(
    topology: Topology,
    tree: ProjectTree,
    shard_map: ShardMap,
    *,
    lock_timeout_seconds: float = 1.0,
    attempts: int = 10,
    report: Report = lambda _line: None,
) -> list[InitializedShard]:
    """Set the name and the ownership of every shard of a tree, as the map has them; repeatable.

    In two passes, so that no two shards own a bucket at any moment: whatever the map takes away is
    taken from all shards before any of them is given anything.

    Parameters:
        topology, tree, shard_map: the shards, their guarded tables, and what each is to own.
        lock_timeout_seconds, attempts, report: as for `sharding.ownership.set_ownership`.

    Raises:
        WrongShard, OwnershipConflict, OwnershipNotChanged: the shards before this one have lost what the map
            takes from them, and if all have, the shards before this one own what it gives them.
        DatabasesFailed: likewise, and this one does not answer.
    """
    guarded = guarded_tables(tree.metadata)
    shards = [Ownership.of(shard_map, shard) for shard in topology.databases_of(tree.name)]

    def set_on_shard(wanted: Ownership, *, only_less: bool) -> bool:
        database = topology.database(wanted.shard)
        with naming(database), open_engine(topology, database, role=database.owner) as engine:
            less = _less(engine, wanted) if only_less else wanted
            return less is not None and set_ownership(
                engine,
                less,
                tables=guarded,
                lock_timeout_seconds=lock_timeout_seconds,
                attempts=attempts,
                report=report,
            )

    lost = [set_on_shard(wanted, only_less=True) for wanted in shards]
    got = [set_on_shard(wanted, only_less=False) for wanted in shards]
    return [
        InitializedShard(wanted.shard, wanted.map_version, wanted.owned.count("1"), any(changed))
        for wanted, *changed in zip(shards, lost, got, strict=True)
    ]


def _less(engine: Engine, wanted: Ownership) -> Ownership | None:
    """Return what a shard keeps of what it owns now; None if it loses nothing, or was not initialised."""
    with engine.connect() as connection:
        found, bits = read_identity(connection), read_guard(connection)
    if found is None:
        return None
    bits = bits or "1" * found.buckets
    if len(bits) != wanted.buckets:
        # Bits that cannot be compared: nothing is safe to keep.
        return replace(wanted, owned="0" * wanted.buckets)
    left = "".join(min(pair) for pair in zip(bits, wanted.owned, strict=True))
    return None if left == bits else replace(wanted, owned=left)


def script_init(topology: Topology, tree: ProjectTree, shard_map: ShardMap) -> str:
    """Return `init_shards` as a script for psql, in the same order; what is lost is read from the shards."""
    lost, got, guarded = [], [], guarded_tables(tree.metadata)
    for shard, database in topology.databases_of(tree.name).items():
        wanted = Ownership.of(shard_map, shard)
        with naming(database), open_engine(topology, database, role=database.owner) as engine:
            less = _less(engine, wanted)
        line = connect_line(topology, database, role=database.owner)
        if less is not None:
            lost.append(line + _script(less, guarded))
        got.append(line + _script(wanted, guarded))
    return "".join(lost + got)


def _script(wanted: Ownership, guarded: Sequence[GuardedTable]) -> str:
    lines = ownership_statements(wanted, guarded, lock_timeout_ms=1000)
    return "".join(f"{statement};\n" for statement in ("BEGIN", *lines, "COMMIT"))


@dataclass(frozen=True, slots=True)
class ShardFinding:
    """One thing that is wrong with a shard, and what to do about it."""

    shard: str
    table: str | None
    problem: str
    misplaced: int
    examples: tuple[str, ...]
    fix: str


@dataclass(frozen=True, slots=True)
class ShardCheck:
    """How many rows were looked at, and what was found."""

    map_version: int
    rows: int
    findings: tuple[ShardFinding, ...]


def check_shards(
    topology: Topology, tree: ProjectTree, shard_map: ShardMap, *, report: Report = lambda _line: None
) -> ShardCheck:
    """Prove that every row of every shard is in a bucket that the shard owns, and that its guard says so too.

    One aggregate for each table, on the server. What cannot be looked at is a finding as well.
    """
    rows, findings = 0, []
    for shard in topology.databases_of(tree.name):
        wanted = Ownership.of(shard_map, shard)
        try:
            seen, found = _check_shard(topology, tree, wanted, report)
        except (DBAPIError, ShardingError) as error:
            words = one_line(error) if isinstance(error, DBAPIError) else str(error)
            seen, found = (
                0,
                [_finding(shard, f"cannot be looked at: {words}", "bring it up, then check again")],
            )
        rows += seen
        findings += found
    return ShardCheck(shard_map.version, rows, tuple(findings))


def _check_shard(
    topology: Topology, tree: ProjectTree, wanted: Ownership, report: Report
) -> tuple[int, list[ShardFinding]]:
    database, rows = topology.database(wanted.shard), 0
    with open_engine(topology, database, role=database.role) as engine, engine.connect() as connection:
        # One snapshot: a row that moves from table to table is seen once.
        connection.execution_options(isolation_level="REPEATABLE READ")
        findings = list(_check_identity(connection, wanted, again=f"mesctl shards init{_of(topology, tree)}"))
        for guarded in guarded_tables(tree.metadata):
            counted, misplaced = _count(connection, guarded, wanted)
            report(f"{wanted.shard}: {guarded.table}: {counted} rows, {misplaced} misplaced")
            rows += counted
            if misplaced:
                findings.append(
                    _misplaced(connection, guarded, wanted, misplaced, of_tree=_of(topology, tree))
                )
    return rows, findings


def _check_identity(connection: Connection, wanted: Ownership, *, again: str) -> Iterator[ShardFinding]:
    found, bits = read_identity(connection), read_guard(connection)
    if found is None:
        yield _finding(wanted.shard, "was never told its name, and refuses nothing", again)
        return
    if found.shard != wanted.shard:
        fix = f"correct [databases.{wanted.shard}] in the topology"
        yield _finding(wanted.shard, f"is the database of shard {found.shard}", fix)
        return
    if (found.map_version, found.owned) != (wanted.map_version, wanted.owned):
        problem = f"was told of map version {found.map_version}, and {wanted.map_version} is in force"
        if found.map_version == wanted.map_version:
            problem = f"was told of other buckets than version {wanted.map_version} gives it"
        yield _finding(wanted.shard, problem, again)
    if (bits or "1" * found.buckets) != found.owned:
        yield _finding(wanted.shard, "has a guard that goes by other buckets than it was told of", again)


def _finding(shard: str, problem: str, fix: str) -> ShardFinding:
    return ShardFinding(shard, None, problem, 0, (), fix)


_STRANGE = "get_bit(CAST(:owned AS text)::varbit, {bucket}) = 0"


def _strange(guarded: GuardedTable, wanted: Ownership) -> str:
    return _STRANGE.format(bucket=bucket_sql(identifier(guarded.key), wanted.buckets)).replace("::", r"\:\:")


def _count(connection: Connection, guarded: GuardedTable, wanted: Ownership) -> tuple[int, int]:
    misplaced_rows = f"count(*) FILTER (WHERE {_strange(guarded, wanted)})"
    query = f"SELECT count(*), {misplaced_rows} FROM {relation(guarded.table)}"
    rows, misplaced = connection.execute(text(query), {"owned": wanted.owned}).one()
    return rows, misplaced


def _of(topology: Topology, tree: ProjectTree) -> str:
    """Return the option that a verb needs where there are several sharded trees."""
    return f" --tree {tree.name}" if len(topology.names_of_kind("sharded")) > 1 else ""


def _misplaced(
    connection: Connection, guarded: GuardedTable, wanted: Ownership, count: int, *, of_tree: str
) -> ShardFinding:
    query = (
        f"SELECT DISTINCT {identifier(guarded.key)} FROM {relation(guarded.table)} "
        f"WHERE {_strange(guarded, wanted)} LIMIT {EXAMPLES}"
    )
    keys = tuple(str(key) for key in connection.scalars(text(query), {"owned": wanted.owned}))
    verb = f"mesctl shards locate {keys[0]}{of_tree}"
    fix = f"`{verb}` names the shard; move the rows there, or their bucket here"
    return ShardFinding(
        wanted.shard, guarded.table, f"{count} rows in buckets that it does not own", count, keys, fix
    )
