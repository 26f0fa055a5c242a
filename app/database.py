"""The composition root: from a topology to the databases that a process works with."""

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from app.causality.ambient import follow_causality
from readreplica.cluster import Cluster
from readreplica.sessions import WriteSession
from sharding.directory import Directory, open_id_generator
from sharding.engines import open_cluster
from sharding.ids import IdGenerator
from sharding.sessions import ShardedSessions, open_sessions
from sharding.topology import Topology

SETTLE_SECONDS = 3.0
"""How long a unit asks what became of a COMMIT whose answer was lost. Its client waits meanwhile."""

T = TypeVar("T")
Work = Callable[[WriteSession], Awaitable[T]]
"""A unit of work: all that one transaction does. It may be run again, so it decides afresh each time."""


@asynccontextmanager
async def open_database(topology: Topology, name: str) -> AsyncIterator[Cluster]:
    """Open the database of the Shop or the CRM; the role has the service's name."""
    async with open_cluster(topology, name, role=name, application_name=name) as cluster:
        _prepare(cluster)
        yield cluster


@asynccontextmanager
async def open_shards(topology: Topology, *, application_name: str) -> AsyncIterator[ShardedSessions]:
    """Open the MES shards, for the MES itself, the pricing worker and the archive job."""
    async with open_sessions(topology, tree="mes", application_name=application_name) as sessions:
        for cluster in sessions.clusters.values():
            _prepare(cluster)
        yield sessions


def _prepare(cluster: Cluster) -> None:
    follow_causality(cluster)
    cluster.resolve_commits(within_seconds=SETTLE_SECONDS)


@asynccontextmanager
async def open_ids(topology: Topology, *, tree: str) -> AsyncIterator[IdGenerator]:
    """Lease a node number from the directory of a tree, and make order ids with it.

    Parameters:
        tree: whose service makes orders; the lease shows its role with this host and process.
    """
    place, section = topology.directory_of(tree).name, topology.trees[tree]
    role, space = section.role, section.id_space
    holder = f"{role}@{socket.gethostname()}:{os.getpid()}"
    async with (
        open_cluster(topology, place, role=role, application_name=f"{role}-ids") as cluster,
        open_id_generator(Directory(cluster.primary, tree, id_space=space), holder=holder) as ids,
    ):
        yield ids
