"""The databases that writes over shards are about: every MES shard, and the directory; and units in doubt."""

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from ops.errors import ExitStatus, OpsError
from ops.fleet import connect_line
from readreplica.cluster import Cluster
from sharding.engines import open_cluster
from sharding.topology import Topology
from sharding.writes.decisions import Decisions, Unfinished
from sharding.writes.errors import ForeignTransaction, NotClosable, UnknownTransaction
from sharding.writes.in_doubt import Ended, InDoubt, Survey, Verdict, chosen, closable, resolve, survey
from sharding.writes.prepared import Verb, end_statement
from sharding.writes.reference import References

ROLE = "mes"
"""The role of the services: only it, and a superuser, can end what it has prepared."""

KEEP_DECISIONS = timedelta(days=30)


class Refused(OpsError):
    """Nothing was changed, because a check refused it; the library's error says why."""

    exit_status = ExitStatus.REFUSED

    def __init__(self, cause: Exception) -> None:
        self.cause = cause
        super().__init__(str(cause))


@dataclass(frozen=True)
class Shards:
    """The open shards and the directory."""

    clusters: Mapping[str, Cluster]
    decisions: Decisions
    references: References


@asynccontextmanager
async def open_shards(topology: Topology) -> AsyncIterator[Shards]:
    """Open every shard and the directory; nothing is connected to before it is asked."""
    [directory] = topology.databases_of("directory")
    async with AsyncExitStack() as stack:

        async def opened(name: str) -> Cluster:
            cluster = open_cluster(topology, name, role=ROLE, application_name="mesctl")
            return await stack.enter_async_context(cluster)

        clusters = {name: await opened(name) for name in topology.databases_of("mes")}
        engine = (await opened(directory)).primary
        yield Shards(clusters, Decisions(engine), References(engine))


async def look(topology: Topology, gids: Collection[str], *, older_than: timedelta) -> Survey:
    """Look at the prepared transactions of every shard, or at some of them.

    Raises:
        Refused: one of `gids` is not ours, or not there.
    """
    async with open_shards(topology) as shards:
        return await _look(shards, gids, older_than)


async def end(
    topology: Topology, gids: Collection[str], *, older_than: timedelta
) -> tuple[Survey, list[Ended]]:
    """End what can be ended of the prepared transactions of every shard, or of some units.

    Raises:
        Refused: one of `gids` is not ours, or not there; nothing was changed.
    """
    async with open_shards(topology) as shards:
        seen = await _look(shards, gids, older_than)
        ended = await resolve(shards.clusters, shards.decisions, seen)
        await shards.decisions.purge(older_than=KEEP_DECISIONS)
    return seen, ended


async def close(
    topology: Topology, unit_ids: Collection[str], *, older_than: timedelta, dry_run: bool
) -> list[Unfinished]:
    """Note that units are finished which were to commit, and of which no shard has a part any more.

    Raises:
        Refused: a part of one may still be somewhere, or it was not left open; nothing was changed.
    """
    async with open_shards(topology) as shards:
        seen = await _look(shards, (), older_than)
        try:
            units = closable(seen, unit_ids, shards=shards.clusters)
        except NotClosable as error:
            raise Refused(error) from error
        for unit in () if dry_run else units:
            await shards.decisions.finish(unit.unit_id)
    return units


def render_close(topology: Topology, units: Iterable[Unfinished]) -> str:
    """Give what `close` would run, as psql accepts it."""
    [directory] = topology.databases_of("directory").values()
    lines = (
        "UPDATE two_phase_decisions SET finished_at = clock_timestamp()\n"
        f"    WHERE unit_id = '{unit.unit_id}' AND decision = 'commit' AND finished_at IS NULL;\n"
        for unit in units
    )
    return connect_line(topology, directory, role=ROLE) + "".join(lines)


async def _look(shards: Shards, gids: Collection[str], older_than: timedelta) -> Survey:
    seconds = older_than.total_seconds()
    seen = await survey(shards.clusters, shards.decisions, older_than_seconds=seconds)
    try:
        return chosen(seen, gids) if gids else seen
    except (ForeignTransaction, UnknownTransaction) as error:
        raise Refused(error) from error


def render_end(topology: Topology, seen: Survey) -> str:
    """Give what `end` would run, as psql accepts it. An abort is decided before it is done, as `end` does."""
    units: dict[str, list[InDoubt]] = {}
    for each in seen.found:
        if each.prepared.unit_id and each.verdict is not Verdict.WAIT:
            units.setdefault(each.prepared.unit_id, []).append(each)
    scripts = [_render_unit(topology, unit_id, parts) for unit_id, parts in units.items()]
    return "".join(scripts) or "-- nothing to do\n"


def _render_unit(topology: Topology, unit_id: str, parts: Sequence[InDoubt]) -> str:
    verdict = parts[0].verdict
    verb = Verb.COMMIT if verdict is Verdict.COMMIT else Verb.ROLLBACK
    lines = [f"-- unit {unit_id}: {verdict.value}\n"]
    if verdict is Verdict.PRESUME_ABORT:
        [directory] = topology.databases_of("directory").values()
        shards = ",".join(each.prepared.shard for each in parts)
        lines += [
            connect_line(topology, directory, role=ROLE),
            "INSERT INTO two_phase_decisions (unit_id, decision, label, shards)\n"
            f"    VALUES ('{unit_id}', 'abort', 'presumed abort', '{shards}')\n"
            "    ON CONFLICT (unit_id) DO NOTHING;\n",
            # Its coordinator may have been faster.
            "SELECT decision = 'abort' AS is_aborted FROM two_phase_decisions "
            f"WHERE unit_id = '{unit_id}' \\gset\n",
            "\\if :is_aborted\n",
        ]
    for each in parts:
        lines.append(connect_line(topology, topology.database(each.prepared.shard), role=ROLE))
        lines.append(f"{end_statement(verb, each.prepared.gid)};\n")
    lines += ["\\endif\n"] if verdict is Verdict.PRESUME_ABORT else []
    return "".join(lines)
