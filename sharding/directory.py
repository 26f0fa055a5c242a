"""The directory: the small unsharded database that keeps the shard maps and the node leases."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from sqlalchemy import text
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from partitions.sql import literal
from sharding.errors import (
    NodesExhausted,
    ShardingError,
    ShardMapConflict,
    ShardMapInvalid,
    ShardMapNotConfirmed,
)
from sharding.ids import EPOCH_UNIX_MS, NODES, IdGenerator, NodeWindow, system_clock_ms
from sharding.map_watch import ANSWER_SECONDS, MAP_CHANNEL, MapReader
from sharding.shard_map import ShardMap
from sharding.topology import DEFAULT_ID_SPACE

# Part of the saver's transaction: there is no notification of a map that was not committed.
_NOTIFY = text(f"SELECT pg_notify('{MAP_CHANNEL}', CAST(:tree AS text))")
# Two savers at once: both may find the expected version, and the primary key lets one of them in.
_SAVE_MAP = text("""
    INSERT INTO shard_map_versions (tree, version, owners)
    SELECT :tree, :version, :owners
    WHERE (SELECT coalesce(max(version), 0) FROM shard_map_versions WHERE tree = :tree) = :expected_version
    ON CONFLICT (tree, version) DO NOTHING
""")

# The directory's clock rules, not the holder's: a holder whose clock is years ahead must not push the
# node's ceiling there, because every later window of the node would have to lie beyond it.
_NOW_MS = f"((extract(epoch FROM clock_timestamp()) * 1000)::bigint - {EPOCH_UNIX_MS})"
_EXPIRES_AT = "clock_timestamp() + :window_ms * interval '1 millisecond'"
# MATERIALIZED: a subquery may be run once for each lease that the UPDATE looks at, and would take one each.
_LEASE_EXPIRED_NODE = text(f"""
    WITH free AS MATERIALIZED (
        SELECT node, ceiling_ms FROM node_leases
        WHERE id_space = :id_space AND expires_at <= clock_timestamp()
        ORDER BY ceiling_ms LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    UPDATE node_leases AS lease
    SET holder = :holder,
        ceiling_ms = greatest(free.ceiling_ms, {_NOW_MS}) + :window_ms,
        expires_at = {_EXPIRES_AT}
    FROM free
    WHERE lease.id_space = :id_space AND lease.node = free.node
    RETURNING lease.node, lease.ceiling_ms - :window_ms, lease.ceiling_ms
""")
_LEASE_NEW_NODE = text(f"""
    INSERT INTO node_leases (id_space, node, holder, ceiling_ms, expires_at)
    SELECT :id_space, candidate, :holder, {_NOW_MS} + :window_ms, {_EXPIRES_AT}
    FROM generate_series(0, {NODES - 1}) AS candidate
    WHERE NOT EXISTS (SELECT FROM node_leases WHERE id_space = :id_space AND node = candidate)
    ORDER BY candidate LIMIT 1
    ON CONFLICT (id_space, node) DO NOTHING
    RETURNING node, ceiling_ms - :window_ms, ceiling_ms
""")
# The ceiling identifies the lease: another holder's of the same node is higher.
_RENEW_NODE = text(f"""
    UPDATE node_leases
    SET ceiling_ms = greatest(ceiling_ms, {_NOW_MS} + :window_ms),
        expires_at = {_EXPIRES_AT}
    WHERE id_space = :id_space AND node = :node AND ceiling_ms = :ceiling_ms
    RETURNING ceiling_ms
""")
_RELEASE_NODE = text("""
    UPDATE node_leases SET ceiling_ms = least(ceiling_ms, :unused_ms), expires_at = clock_timestamp()
    WHERE id_space = :id_space AND node = :node AND ceiling_ms = :ceiling_ms
""")
_COUNT_NODES = text("SELECT count(*) FROM node_leases WHERE id_space = :id_space")


def save_first_map(tree: str, first: ShardMap) -> str:
    """Return the statement that puts a tree's first shard map in force and notifies, if there is none."""
    owners = literal(",".join(first.owners))
    return f"""\
WITH saved AS (
    INSERT INTO shard_map_versions (tree, version, owners)
    SELECT {literal(tree)}, {first.version}, {owners}
    WHERE NOT EXISTS (SELECT FROM shard_map_versions WHERE tree = {literal(tree)})
    ON CONFLICT (tree, version) DO NOTHING
    RETURNING tree
)
SELECT pg_notify('{MAP_CHANNEL}', tree) FROM saved"""


log = logging.getLogger("sharding.directory")


class Directory(MapReader):
    """The shard map of a tree and the node leases of an id space, in the database behind `engine`.

    Parameters:
        engine: of the directory.
        tree: whose shard map it is; several sharded trees may share a directory.
        id_space: whose node numbers are leased. Trees that share it make no id twice.
    """

    def __init__(self, engine: AsyncEngine, tree: str, *, id_space: str = DEFAULT_ID_SPACE) -> None:
        super().__init__(engine, tree)
        self.id_space = id_space

    async def save_map(self, shard_map: ShardMap, *, expected_version: int) -> None:
        """Put a shard map in force, if the one in force is still the expected one, and notify processes.

        Parameters:
            shard_map: the new map; its version is `expected_version + 1`.
            expected_version: the version that this change started from; 0 for the first map.

        Raises:
            ShardMapConflict: another version is in force.
            ShardMapInvalid: the new map's version does not follow the expected one.
            ShardMapNotConfirmed: the directory was lost, or did not answer in time.
        """
        if shard_map.version != expected_version + 1:
            raise ShardMapInvalid(shard_map.version, f"it does not follow version {expected_version}")
        values = {
            "tree": self.tree,
            "version": shard_map.version,
            "owners": ",".join(shard_map.owners),
            "expected_version": expected_version,
        }
        try:
            async with self._begin() as connection:
                if (await connection.execute(_SAVE_MAP, values)).rowcount == 1:
                    await connection.execute(_NOTIFY, {"tree": self.tree})
                    return
        except OperationalError as error:
            raise ShardMapNotConfirmed(shard_map.version, seconds=ANSWER_SECONDS) from error
        found_version = (await self.load_map()).version
        raise ShardMapConflict(expected_version=expected_version, found_version=found_version)

    async def ensure_map(self, first: ShardMap) -> ShardMap:
        """Return the shard map in force; if there is none yet, put `first` in force."""
        with suppress(ShardMapConflict):
            await self.save_map(first, expected_version=0)
        return await self.load_map()

    async def lease_node(self, *, holder: str, window_seconds: float) -> NodeWindow:
        """Lease a node number that is free, with a window that begins above all its earlier ones.

        Parameters:
            holder: the process that leases it, for people who read the table.
            window_seconds: how long the lease and its window are.

        Raises:
            NodesExhausted: all of them are held.
        """
        values = {"id_space": self.id_space, "holder": holder, "window_ms": round(window_seconds * 1000)}
        while True:
            async with self._begin() as connection:
                for take in (_LEASE_EXPIRED_NODE, _LEASE_NEW_NODE):
                    row = (await connection.execute(take, values)).one_or_none()
                    if row is not None:
                        return NodeWindow(node=row[0], floor_ms=row[1], ceiling_ms=row[2])
                if (
                    await connection.execute(_COUNT_NODES, {"id_space": self.id_space})
                ).scalar_one() >= NODES:
                    raise NodesExhausted(NODES)
            # Another process has inserted the same number first: there are others.

    async def renew_node(self, window: NodeWindow, *, window_seconds: float) -> NodeWindow | None:
        """Push the ceiling of a leased window.

        Returns:
            The longer window, or None if the lease was lost to another holder.
        """
        values = {
            "id_space": self.id_space,
            "node": window.node,
            "ceiling_ms": window.ceiling_ms,
            "window_ms": round(window_seconds * 1000),
        }
        async with self._begin() as connection:
            ceiling_ms = (await connection.execute(_RENEW_NODE, values)).scalar_one_or_none()
        if ceiling_ms is None:
            return None
        return NodeWindow(node=window.node, floor_ms=window.floor_ms, ceiling_ms=ceiling_ms)

    async def release_node(self, window: NodeWindow, *, unused_ms: int) -> None:
        """Release a leased node; its id time from `unused_ms` on was not used, and may be leased again."""
        values = {
            "id_space": self.id_space,
            "node": window.node,
            "ceiling_ms": window.ceiling_ms,
            "unused_ms": unused_ms,
        }
        async with self._begin() as connection:
            await connection.execute(_RELEASE_NODE, values)


@asynccontextmanager
async def open_id_generator(
    directory: Directory,
    *,
    holder: str,
    window_seconds: float = 60.0,
    clock_ms: Callable[[], int] = system_clock_ms,
) -> AsyncIterator[IdGenerator]:
    """Lease a node, and make ids with it until the block ends.

    While the directory cannot be reached, ids are made until the window is used up; then the generator
    refuses (NodeLeaseExpired) until the directory is back.

    Parameters:
        directory: where the leases are.
        holder: the process that makes the ids, for people who read the table.
        window_seconds: how long the process can do without the directory.
        clock_ms: returns the present id time.

    Raises:
        NodesExhausted: every node number is held.
    """
    window = await directory.lease_node(holder=holder, window_seconds=window_seconds)
    lease = _Lease(directory, holder, window_seconds, window, IdGenerator(window, clock_ms=clock_ms))
    renewal = asyncio.create_task(lease.keep_renewed(), name=f"node lease of {holder}")
    try:
        yield lease.generator
    finally:
        renewal.cancel()
        await asyncio.wait([renewal])
        await lease.release()


class _Lease:
    def __init__(
        self,
        directory: Directory,
        holder: str,
        window_seconds: float,
        window: NodeWindow,
        generator: IdGenerator,
    ) -> None:
        self.generator = generator
        self._directory = directory
        self._holder = holder
        self._window_seconds = window_seconds
        self._window = window

    async def keep_renewed(self) -> None:
        """Renew four times a window, so that three attempts may fail before the window is over."""
        while True:
            await asyncio.sleep(self._window_seconds / 4)
            try:
                await self._renew()
            except (SQLAlchemyError, ShardingError, OSError) as error:
                log.warning("node lease not renewed", extra={"node": self._window.node, "error": str(error)})

    async def _renew(self) -> None:
        renewed = await self._directory.renew_node(self._window, window_seconds=self._window_seconds)
        if renewed is None:
            lost = self._window.node
            renewed = await self._directory.lease_node(
                holder=self._holder, window_seconds=self._window_seconds
            )
            log.warning("node lease was lost", extra={"node": lost, "now_node": renewed.node})
        self._window = renewed
        self.generator.use(renewed)

    async def release(self) -> None:
        """Stop the generator, then release the node with what is left of its window."""
        last_ms = self.generator.stop()
        try:
            await self._directory.release_node(
                self._window, unused_ms=max(self._window.floor_ms, last_ms + 1)
            )
        except (SQLAlchemyError, OSError) as error:
            log.warning(
                "node lease not given back; it will expire",
                extra={"node": self._window.node, "error": str(error)},
            )
