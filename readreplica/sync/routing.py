# Generated from readreplica/routing.py by `make sync`: change that file, not this one.
"""Finds the node for each read session: which nodes are fit, and whether the primary may be asked."""

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, TypeVar

from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from readreplica.errors import NotThePrimary, ReplicasTooStale
from readreplica.freshness import (
    ANY,
    Freshness,
    PositionStatus,
    ReadRequest,
    check_position,
    clamped,
    is_beyond,
)
from readreplica.metrics import ClusterMetrics, Reason
from readreplica.options import ReplicaOptions
from readreplica.pool import ClusterNode
from readreplica.sync.monitor import Monitor
from readreplica.wal import SELECT_IN_RECOVERY, SELECT_LSN, SELECT_TIMELINE, Lsn, Position

T = TypeVar("T")

PRIMARY = "primary"
"""The node that is the primary now."""

FORMER_PRIMARY = "former primary"
"""The configured primary, while it is a replica."""

_ANY_REPLICA = ReadRequest()
_ANY_REPLICA_AUTOCOMMIT = ReadRequest(autocommit=True)
_IN_RECOVERY = text(SELECT_IN_RECOVERY)
_TIMELINE = text(SELECT_TIMELINE)
_LSN = text(SELECT_LSN)


class FallbackBudget:
    """How many reads may go to the primary because no replica was fit: a token bucket.

    Without it a fleet of replicas that fall behind would topple the primary, which then has all reads to
    serve, and the replicas would fall behind further. What may be held at a time is counted by the caller.
    """

    def __init__(self, *, per_second: float, burst: int, concurrency: int) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._concurrency = concurrency
        self._left = self._burst
        self._counted_at: float | None = None
        self._lock = Lock()

    def take(self, *, now: float, in_use: int) -> float:
        """Take one read out of the budget.

        Parameters:
            now: a monotonic clock, in seconds.
            in_use: how many connections to the primary are held by readers.

        Returns:
            0 if it may go on; otherwise after how many seconds it is worth asking again.
        """
        with self._lock:
            return self._take(now=now, in_use=in_use)

    def _take(self, *, now: float, in_use: int) -> float:
        passed = 0.0 if self._counted_at is None else max(0.0, now - self._counted_at)
        self._counted_at = now
        self._left = min(self._burst, self._left + passed * self._per_second)
        if self._left < 1:
            return (1 - self._left) / self._per_second if self._per_second > 0 else 60.0
        if in_use >= self._concurrency:
            return 1 / self._per_second if self._per_second > 0 else 1.0
        self._left -= 1
        return 0.0


def in_order_of_load(nodes: Sequence[T], *, turn: int, load: Callable[[T], int]) -> Sequence[T]:
    """Return nodes in order of load, the least loaded first; equals take turns.

    Parameters:
        nodes: those that are fit.
        turn: a number that grows by one with each read; it decides among equals.
        load: returns how many connections of this process a node serves now.
    """
    if len(nodes) < 2:
        return nodes
    first = turn % len(nodes)
    # Sorting keeps the order of equals.
    return sorted([*nodes[first:], *nodes[:first]], key=load)


def _begin(session: Session, node: ClusterNode) -> None:
    """Bind a session to a node, and take the connection."""
    bind = session.bind = node.engine
    session.connection({"bind": bind})


def _is_standby(session: Session) -> bool:
    raw: Any = session.connection().connection
    if not getattr(raw.driver_connection, "seems_standby", False):
        return False
    # The server is asked, for a pooler repeats what it reported before its promotion.
    return bool(session.connection().execute(_IN_RECOVERY).scalar_one())


def _went_back(session: Session, node: ClusterNode) -> bool:
    """Return whether a node may have less than observed: it crashed, and is back before it has caught up.

    A connection to the server itself is lost then. A pooler keeps its clients, so behind one it is asked, at
    the price of a round trip.
    """
    raw: Any = session.connection().connection
    if getattr(raw.driver_connection, "is_direct", True):
        return False
    seen, connection = node.observation, raw.dbapi_connection
    was_autocommit, connection.autocommit = connection.autocommit, True  # the unit's snapshot comes after it
    lsn = session.connection().execute(_LSN).scalar_one()
    connection.autocommit = was_autocommit
    return seen is None or seen.position is None or Lsn.parse(lsn) < seen.position.lsn


class Router:
    """Routes the read sessions of one cluster."""

    def __init__(
        self,
        cluster: str,
        nodes: Sequence[ClusterNode],
        monitor: Monitor,
        *,
        options: ReplicaOptions,
        metrics: ClusterMetrics,
        clock: Callable[[], float],
    ) -> None:
        self._cluster = cluster
        self._nodes = nodes
        self._monitor = monitor
        self._options = options
        self._metrics = metrics
        self._clock = clock
        self._turn = 0
        self._budget = FallbackBudget(
            per_second=options.fallback_per_second,
            burst=options.fallback_burst,
            concurrency=options.fallback_concurrency,
        )

    def request_for(self, freshness: Freshness, *, autocommit: bool) -> ReadRequest:
        """Return the request of a session with this freshness."""
        if freshness is ANY:
            return _ANY_REPLICA_AUTOCOMMIT if autocommit else _ANY_REPLICA
        position = freshness.token.positions.get(self._cluster) if freshness.token else None
        if position is None:
            return ReadRequest(freshness, autocommit=autocommit)
        return self._checked(ReadRequest(freshness, position, True, autocommit), position)

    def _checked(self, request: ReadRequest, position: Position) -> ReadRequest:
        now = self._clock()
        newest = self._monitor.history.newest
        status = check_position(position, newest, now=now, options=self._options)
        self._metrics.token(status, self._monitor.history.age(position.lsn, now=now))
        match status:
            case PositionStatus.UNKNOWN_SYSTEM:
                return request._replace(can_wait=False)
            case PositionStatus.FROM_THE_FUTURE if newest is not None:
                return request._replace(position=clamped(position, newest.position))
            case PositionStatus.AHEAD:
                self._monitor.request_election()
        return request

    def prepare(self, request: ReadRequest) -> tuple[ReadRequest, bool]:
        """Wait, bounded, until a replica is fit for a read with a token, or the primary is known.

        Returns:
            What to pin the session by, and whether it has waited.
        """
        if request.position is None or (not request.freshness.on_primary and self._fit(request)):
            return request, False
        may_wait = request.can_wait and not request.freshness.on_primary
        if may_wait:
            self._wait_for_replay(request.position, self._live(request))
        if self._is_primary_unknown():
            # As units of writing do: the configured primary may be one from before a failover.
            self._monitor.wait_first_poll(timeout_seconds=2 * self._options.answer_seconds)
        if may_wait and not self._fit(request):
            request = self._clamp(request, request.position)
        return request, not request.freshness.on_primary

    def _wait_for_replay(self, wanted: Position, live: Sequence[ClusterNode]) -> None:
        began = self._clock()
        limit = self._options.replay_wait_seconds
        candidates = in_order_of_load(live, turn=self._turn, load=ClusterNode.load)
        if candidates:
            self._monitor.wait_for_replay(wanted, candidates, timeout_seconds=limit)
            self._metrics.waited(self._clock() - began)

    def _is_primary_unknown(self) -> bool:
        return self._monitor.primary_state.timeline == 0 and len(self._nodes) > 1

    def _clamp(self, request: ReadRequest, position: Position) -> ReadRequest:
        """Before the read goes to the primary: ask it whether it has ever written what the token names."""
        asked_at = self._clock()
        self._monitor.poll_primary(timeout_seconds=self._options.replay_wait_seconds)
        newest = self._monitor.history.newest
        if newest is None or newest.at < asked_at or not is_beyond(position, newest.position):
            return request
        self._metrics.token(PositionStatus.FROM_THE_FUTURE, 0.0)
        return request._replace(position=clamped(position, newest.position))

    def pin(self, session: Session, request: ReadRequest, *, waited: bool) -> tuple[str, Reason]:
        """Bind a read session to a node that is fit, else to the primary within the budget."""
        if request.freshness.on_primary or len(self._nodes) < 2:
            return self._on_primary(session, request, Reason.PRIMARY)
        reason = Reason.WAITED if waited else Reason.FRESH
        has_bounds = request.freshness is not ANY and (
            request.position is not None or request.freshness.is_bounded
        )
        is_begun = has_bounds and session.in_transaction()
        nodes = self._fit(request) if has_bounds or request.excluded else self._monitor.live
        self._turn += 1
        if len(nodes) > 1:
            nodes = in_order_of_load(nodes, turn=self._turn, load=ClusterNode.load)
        for node in nodes:
            generation = node.generation
            try:
                self._begin_on_replica(session, node, has_bounds=has_bounds)
            except OperationalError as error:
                self._monitor.eject(node, error)
            else:
                if not has_bounds or self._is_still_fit(
                    node, request, session, generation=generation, is_begun=is_begun
                ):
                    self._metrics.read(node.replica_name, reason)
                    return node.replica_name, reason
            reason = Reason.OTHER
        self._take_from_budget(request)
        return self._on_primary(session, request, Reason.FALLBACK)

    def _begin_on_replica(self, session: Session, node: ClusterNode, *, has_bounds: bool) -> None:
        _begin(session, node)
        if has_bounds and _went_back(session, node):
            node.forget()
            self._monitor.poll(node)

    def _is_still_fit(
        self, node: ClusterNode, request: ReadRequest, session: Session, *, generation: int, is_begun: bool
    ) -> bool:
        """Check again once connected: if the pool replaced a connection, the node may have less."""
        if node.generation == generation and self._fit_of((node,), request):
            return True
        if is_begun:
            fault = f"{node.name} was connected to anew"
            raise ReplicasTooStale(self._cluster, asked=str(request), retry_after_seconds=1.0, fault=fault)
        session.rollback()
        return False

    def _on_primary(self, session: Session, request: ReadRequest, reason: Reason) -> tuple[str, Reason]:
        self._refuse_older_timeline(request)
        node = self._monitor.primary or self._nodes[0]
        generation, is_unknown = node.generation, self._is_primary_unknown()
        _begin(session, node)
        if _is_standby(session):
            session.close()
            self._monitor.request_election()
            fault = NotThePrimary(self._cluster, node.address, "it is in recovery")
            raise OperationalError("read on the primary", None, fault)
        if request.position is not None and (is_unknown or node.generation != generation):
            self._check_timeline(session, node, request.position)
        name = PRIMARY if node.name == self._monitor.primary_state.node else node.name
        self._metrics.read(name, reason)
        return name, reason

    def _refuse_older_timeline(self, request: ReadRequest) -> None:
        """Refuse a read of what a newer primary wrote while only the one before it is known here."""
        known = self._monitor.primary_state
        position = request.position
        if position is None or position.system_identifier != known.system_identifier:
            return
        if 0 < known.timeline < position.timeline:
            raise self._older(position, f"the primary that is known here is on timeline {known.timeline}")

    def _check_timeline(self, session: Session, node: ClusterNode, wanted: Position) -> None:
        """Ask the server itself: the monitor has not found yet that it is the primary of now."""
        timeline = session.connection().execute(_TIMELINE).scalar_one()
        if timeline < wanted.timeline:
            session.close()
            raise self._older(
                wanted, f"{node.address}, the only primary known here, is on timeline {timeline}"
            )

    def _older(self, wanted: Position, fault: str) -> ReplicasTooStale:
        self._monitor.request_election()
        self._metrics.read(PRIMARY, Reason.REFUSED)
        asked = f"{wanted.lsn} of timeline {wanted.timeline}"
        return ReplicasTooStale(self._cluster, asked=asked, retry_after_seconds=1.0, fault=fault)

    def _take_from_budget(self, request: ReadRequest) -> None:
        node = self._monitor.primary or self._nodes[0]
        wait_seconds = self._budget.take(now=self._clock(), in_use=node.load())
        if wait_seconds > 0:
            self._metrics.read(PRIMARY, Reason.REFUSED)
            raise ReplicasTooStale(self._cluster, asked=str(request), retry_after_seconds=wait_seconds)

    def _live(self, request: ReadRequest) -> Sequence[ClusterNode]:
        """Return the replicas that are not ejected, without those that the request excludes."""
        live = self._monitor.live
        if not request.excluded:
            return live
        return [node for node in live if node.replica_name not in request.excluded]

    def _fit(self, request: ReadRequest) -> Sequence[ClusterNode]:
        return self._fit_of(self._live(request), request)

    def _fit_of(self, live: Sequence[ClusterNode], request: ReadRequest) -> Sequence[ClusterNode]:
        position = request.position
        if position is not None:
            timeline = self._monitor.primary_state.timeline
            live = [node for node in live if node.covers(position, primary_timeline=timeline)]
        if request.freshness.is_bounded:
            now, lag = self._clock(), self._monitor.lag
            live = [node for node in live if request.freshness.fits(lag(node, now=now))]
        return live
