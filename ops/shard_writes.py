"""The databases that writes over shards are about: a tree's shards and its directory; and units in doubt."""

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from ops.errors import ExitStatus, OpsError
from ops.fleet import connect_line, naming
from readreplica.cluster import Cluster
from sharding.engines import open_cluster
from sharding.topology import Topology
from sharding.writes.errors import ForeignTransaction, NotClosable, UnknownTransaction
from sharding.writes.in_doubt import Ended, InDoubt, RecoveryAction, Survey, chosen, closable, resolve, survey
from sharding.writes.prepared import Decisions, PreparedCommand, Unfinished, end_statement
from sharding.writes.reference import References

KEEP_DECISIONS = timedelta(days=30)


class Refused(OpsError):
    """Nothing was changed, because a check refused it; the library's error says why."""

    exit_status = ExitStatus.REFUSED

    def __init__(self, cause: Exception) -> None:
        self.cause = cause
        super().__init__(str(cause))


@dataclass(frozen=True)
class Shards:
    """The open shards of a tree, and its directory."""

    clusters: Mapping[str, Cluster]
    decisions: Decisions
    references: References


@asynccontextmanager
async def open_shards(topology: Topology, tree: str) -> AsyncIterator[Shards]:
    """Open every shard of a tree and its directory; nothing is connected to before it is asked.

    The role is that of the tree's services: only it, and a superuser, can end what it has prepared.

    Raises:
        DirectoryMissing: the tree has no directory.
    """
    directory, role = topology.directory_of(tree), topology.trees[tree].role
    async with AsyncExitStack() as stack:

        async def opened(name: str) -> Cluster:
            cluster = open_cluster(topology, name, role=role, application_name="mesctl")
            return await stack.enter_async_context(cluster)

        clusters = {name: await opened(name) for name in topology.databases_of(tree)}
        engine = (await opened(directory.name)).primary
        yield Shards(clusters, Decisions(engine, tree), References(engine, tree))


async def look(topology: Topology, tree: str, gids: Collection[str], *, older_than: timedelta) -> Survey:
    """Look at the prepared transactions of every shard, or at some of them.

    Raises:
        Refused: one of `gids` is not ours, or not there.
        DatabasesFailed: the directory does not answer.
    """
    with naming(topology.directory_of(tree)):
        async with open_shards(topology, tree) as shards:
            return await _look(shards, gids, older_than)


async def end(
    topology: Topology, tree: str, gids: Collection[str], *, older_than: timedelta
) -> tuple[Survey, list[Ended]]:
    """End what can be ended of the prepared transactions of every shard, or of some units.

    Raises:
        Refused: one of `gids` is not ours, or not there; nothing was changed.
        DatabasesFailed: the directory does not answer.
    """
    with naming(topology.directory_of(tree)):
        async with open_shards(topology, tree) as shards:
            seen = await _look(shards, gids, older_than)
            ended = await resolve(shards.clusters, shards.decisions, seen)
            await shards.decisions.purge(older_than=KEEP_DECISIONS)
    return seen, ended


async def close(
    topology: Topology, tree: str, unit_ids: Collection[str], *, older_than: timedelta, dry_run: bool
) -> list[Unfinished]:
    """Note that units are finished which were to commit, and of which no shard has a part any more.

    Raises:
        Refused: a part of one may still be somewhere, or it was not left open; nothing was changed.
        DatabasesFailed: the directory does not answer.
    """
    with naming(topology.directory_of(tree)):
        async with open_shards(topology, tree) as shards:
            seen = await _look(shards, (), older_than)
            try:
                units = closable(seen, unit_ids, shards=shards.clusters)
            except NotClosable as error:
                raise Refused(error) from error
            for unit in () if dry_run else units:
                await shards.decisions.finish(unit.unit_id)
    return units


def render_close(topology: Topology, tree: str, units: Iterable[Unfinished]) -> str:
    """Return what `close` would run, as psql accepts it."""
    lines = (
        "UPDATE two_phase_decisions SET finished_at = clock_timestamp()\n"
        f"    WHERE unit_id = '{unit.unit_id}' AND decision = 'commit' AND finished_at IS NULL;\n"
        for unit in units
    )
    return connect_directory(topology, tree) + "".join(lines)


def connect_directory(topology: Topology, tree: str) -> str:
    """Return psql's command that connects to the directory of a tree, as the role of its services."""
    return connect_line(topology, topology.directory_of(tree), role=topology.trees[tree].role)


async def _look(shards: Shards, gids: Collection[str], older_than: timedelta) -> Survey:
    seconds = older_than.total_seconds()
    seen = await survey(shards.clusters, shards.decisions, older_than_seconds=seconds)
    try:
        return chosen(seen, gids) if gids else seen
    except (ForeignTransaction, UnknownTransaction) as error:
        raise Refused(error) from error


def render_end(topology: Topology, tree: str, seen: Survey) -> str:
    """Return what `end` would run, as psql accepts it: an abort is decided before it is done."""
    units: dict[str, list[InDoubt]] = {}
    for each in seen.found:
        if each.prepared.unit_id and each.verdict is not RecoveryAction.WAIT:
            units.setdefault(each.prepared.unit_id, []).append(each)
    scripts = [_render_unit(topology, tree, unit_id, parts) for unit_id, parts in units.items()]
    return "".join(scripts) or "-- nothing to do\n"


def _render_unit(topology: Topology, tree: str, unit_id: str, parts: Sequence[InDoubt]) -> str:
    verdict = parts[0].verdict
    verb = PreparedCommand.COMMIT if verdict is RecoveryAction.COMMIT else PreparedCommand.ROLLBACK
    lines = [f"-- unit {unit_id}: {verdict.value}\n"]
    if verdict is RecoveryAction.PRESUME_ABORT:
        shards = ",".join(each.prepared.shard for each in parts)
        lines += [
            connect_directory(topology, tree),
            "INSERT INTO two_phase_decisions (tree, unit_id, decision, label, shards)\n"
            f"    VALUES ('{tree}', '{unit_id}', 'abort', 'presumed abort', '{shards}')\n"
            "    ON CONFLICT (unit_id) DO NOTHING;\n",
            # Its coordinator may have been faster.
            "SELECT decision = 'abort' AS is_aborted FROM two_phase_decisions "
            f"WHERE unit_id = '{unit_id}' \\gset\n",
            "\\if :is_aborted\n",
        ]
    for each in parts:
        database = topology.database(each.prepared.shard)
        lines.append(connect_line(topology, database, role=database.role))
        lines.append(f"{end_statement(verb, each.prepared.gid)};\n")
    lines += ["\\endif\n"] if verdict is RecoveryAction.PRESUME_ABORT else []
    return "".join(lines)
