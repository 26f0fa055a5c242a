"""What `mesctl replicas` shows: who is the primary, and how far the others are behind."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import psycopg

from ops.connect import open_connection, shut_after
from readreplica.election import PrimaryState, elect
from readreplica.freshness import PrimaryHistory, PrimarySample, ReplicaLag
from readreplica.health import Observation, find_fault, read_observation
from readreplica.options import DEFAULTS
from readreplica.poller import connect_arguments
from readreplica.wal import poll_statement
from sharding.topology import Database, Topology

ANSWER_SECONDS = 2.0

NO_ROLE = "-"

PRIMARY_NODE = "primary"
"""The name of the node that the topology gives as the primary, whatever its role is now."""


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One node as the tables show it."""

    database: str
    node: str
    address: str
    role: str
    """primary, replica, rival (takes writes, and must not), or - without an answer."""

    state: str
    timeline: int | None
    lag_bytes: int | None
    lag_seconds: float | None
    """Proven by positions and this machine's clock; None where the last look does not prove a time."""

    @property
    def answers(self) -> bool:
        """Whether the node has answered."""
        return self.role != NO_ROLE


class NodeWatcher:
    """Looks at the nodes of databases again and again; what it saw before dates what it sees now."""

    def __init__(self, topology: Topology, names: Sequence[str]) -> None:
        """Prepare to look at these databases of a topology.

        Raises:
            UnknownDatabase: there is none of such a name.
        """
        self._topology = topology
        self._databases = [topology.database(name) for name in names]
        self._known = {base.name: PrimaryState(PRIMARY_NODE) for base in self._databases}
        self._histories = {base.name: PrimaryHistory() for base in self._databases}

    def poll(self) -> list[NodeRow]:
        """Ask every node once."""
        return [row for each in self._databases for row in self.judge(each, self.observe(each))]

    def observe(self, database: Database) -> Mapping[str, Observation | str]:
        """Ask the nodes of a database; one that does not answer has its fault for an answer."""
        return {
            node: _ask(self._topology, database, replica=None if node == PRIMARY_NODE else node)
            for node in nodes_of(database)
        }

    def judge(self, database: Database, said: Mapping[str, Observation | str]) -> Iterator[NodeRow]:
        """Return what the answers of a database's nodes mean, by what they have answered before."""
        answers = {node: found for node, found in said.items() if isinstance(found, Observation)}
        known = elect(self._known[database.name], answers)
        self._known[database.name] = known
        history = self._histories[database.name]
        leader = answers.get(known.node or "") if known.answers else None
        if leader is not None and leader.position is not None:
            history.add(PrimarySample(leader.at, leader.position))
        for node, found in said.items():
            address = _address(self._topology, database, node)
            yield _row((database.name, node, address), found, known, history)


def nodes_of(database: Database) -> list[str]:
    """Return the nodes of a database, the one that the topology has as the primary first."""
    return [PRIMARY_NODE, *(replica.name for replica in database.replicas)]


def _ask(topology: Topology, database: Database, *, replica: str | None) -> Observation | str:
    url = topology.url(database, role=database.owner, replica=replica)
    arguments = connect_arguments(url, application_name="mesctl")
    at = time.monotonic()
    try:
        with (
            open_connection(**arguments) as connection,
            # The server's own limit is of no use where the server is frozen.
            shut_after(connection, seconds=ANSWER_SECONDS + 1),
        ):
            cursor = connection.execute(poll_statement(timeout_seconds=ANSWER_SECONDS).encode())
            while cursor.description is None:
                cursor.nextset()
            [row] = cursor.fetchall()
            return read_observation(row, at=at, server_version=connection.info.server_version)
    except psycopg.Error as error:
        return str(error).strip().splitlines()[0]


def _address(topology: Topology, database: Database, node: str) -> str:
    url = topology.url(database, role="-", replica=None if node == PRIMARY_NODE else node)
    return f"{url.host}:{url.port}"


def _row(
    place: tuple[str, str, str], found: Observation | str, known: PrimaryState, history: PrimaryHistory
) -> NodeRow:
    if isinstance(found, str):
        return NodeRow(*place, NO_ROLE, f"no answer: {found}", None, None, None)
    timeline = found.position.timeline if found.position else None
    if place[1] == known.node and known.answers:
        return NodeRow(*place, "primary", "takes writes", timeline, None, None)
    reached = found.reached
    # Of the moment of its answer: what other nodes are waited for meanwhile is none of its lag.
    lag = history.lag(reached, now=found.at) if reached is not None else ReplicaLag(None, None)
    fault = find_fault(
        found,
        lag,
        system_identifier=known.system_identifier,
        primary_answers=known.answers,
        primary_timeline=known.timeline,
        options=DEFAULTS,
    )
    role = "replica" if found.in_recovery else "rival"
    state = fault.value if fault else "serves reads"
    return NodeRow(*place, role, state, timeline, lag.bytes, lag.seconds)
