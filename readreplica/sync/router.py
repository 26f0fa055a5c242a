# Generated from readreplica/router.py by `make twins`: change that file, not this one.
"""Finds the node for each read session: which nodes are fit, and whether the primary may be asked."""

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from readreplica.appraisal import Verdict, appraise, clamped, is_beyond
from readreplica.balancer import in_order_of_load
from readreplica.bases import Pinned, Want
from readreplica.budget import FallbackBudget
from readreplica.errors import NotThePrimary, ReplicasTooStale
from readreplica.freshness import ANY, Freshness
from readreplica.lsn import Lsn
from readreplica.metrics import ClusterMetrics, Reason
from readreplica.options import ReplicaOptions
from readreplica.sync.monitor import Monitor
from readreplica.sync.nodes import Node

PRIMARY = "primary"
_WANT_ANYTHING = Want()
_IN_RECOVERY = text("SELECT pg_is_in_recovery()")
_POSITION = text(
    "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END"
)


def _is_standby(session: Session) -> bool:
    raw: Any = session.connection().connection
    if not getattr(raw.driver_connection, "seems_standby", False):
        return False
    # Asked, for a pooler repeats what a server told it before its promotion.
    return bool(session.connection().execute(_IN_RECOVERY).scalar_one())


def _went_back(session: Session, node: Node) -> bool:
    """Tell whether a node may have less than it said: it crashed, and is back before it has caught up.

    A connection to the server itself is lost then. A pooler keeps its clients, so behind one it is asked, at
    the price of a round trip.
    """
    raw: Any = session.connection().connection
    if getattr(raw.driver_connection, "is_direct", True):
        return False
    seen, connection = node.seen, raw.dbapi_connection
    was_autocommit, connection.autocommit = connection.autocommit, True  # the unit's snapshot comes after it
    lsn = session.connection().execute(_POSITION).scalar_one()
    connection.autocommit = was_autocommit
    return seen is None or seen.position is None or Lsn.parse(lsn) < seen.position.lsn


def _is_fit_still(node: Node, want: Want) -> bool:
    return node.seen is not None and (want.position is None or node.seen.covers(want.position))


def _asked(want: Want) -> str:
    return str(want.position.lsn) if want.position else str(want.freshness)


class Router:
    """Routes the read sessions of one cluster."""

    def __init__(
        self,
        cluster: str,
        nodes: Sequence[Node],
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

    def want(self, freshness: Freshness, *, autocommit: bool) -> Want:
        """Put together what a session asks for."""
        if freshness is ANY:
            return Want(autocommit=True) if autocommit else _WANT_ANYTHING
        position = freshness.token.positions.get(self._cluster) if freshness.token else None
        if position is None:
            return Want(freshness, autocommit=autocommit)
        return self._appraised(Want(freshness, position, True, autocommit))

    def _appraised(self, want: Want) -> Want:
        now = self._clock()
        newest = self._monitor.history.newest
        assert want.position is not None
        verdict = appraise(want.position, newest, now=now, options=self._options)
        self._metrics.token(verdict, self._monitor.history.age(want.position.lsn, now=now))
        match verdict:
            case Verdict.UNKNOWN_SYSTEM:
                return want._replace(can_wait=False)
            case Verdict.FROM_THE_FUTURE if newest is not None:
                return want._replace(position=clamped(want.position, newest.position))
            case Verdict.AHEAD:
                self._monitor.suspect()
        return want

    def prepare(self, want: Want) -> tuple[Want, bool]:
        """Wait, bounded, until a replica is fit for a read with a token."""
        if want.position is None or want.freshness.on_primary or self._fit(want):
            return want, False
        if want.can_wait:
            began = self._clock()
            limit = self._options.replay_wait_seconds
            candidates = in_order_of_load(self._live(want), turn=self._turn, load=Node.load)
            if candidates:
                self._monitor.wait_for_replay(want.position, candidates, timeout_seconds=limit)
                self._metrics.waited(self._clock() - began)
            if not self._fit(want):
                want = self._checked(want)
        return want, True

    def _checked(self, want: Want) -> Want:
        """Before the primary is burdened: ask it whether it has ever written what the token names."""
        assert want.position is not None
        asked_at = self._clock()
        self._monitor.ask_primary(timeout_seconds=self._options.replay_wait_seconds)
        newest = self._monitor.history.newest
        if newest is None or newest.at < asked_at or not is_beyond(want.position, newest.position):
            return want
        self._metrics.token(Verdict.FROM_THE_FUTURE, 0.0)
        return want._replace(position=clamped(want.position, newest.position))

    def pin(self, session: Session, want: Want, *, waited: bool) -> Pinned:
        """Bind a read session to a node that is fit, else to the primary within the budget."""
        if not want.freshness.on_primary and len(self._nodes) > 1:
            reason = Reason.WAITED if waited else Reason.FRESH
            is_begun = session.in_transaction()
            for node in self._by_load(self._fit(want)):
                if self._bind(session, node, want, is_begun=is_begun):
                    return self._pinned(node, reason)
                reason = Reason.OTHER
            self._take_from_budget(want)
            return self._on_primary(session, want, Reason.FALLBACK)
        return self._on_primary(session, want, Reason.PRIMARY)

    def _bind(self, session: Session, node: Node, want: Want, *, is_begun: bool) -> bool:
        session.bind = node.bind
        try:
            self._begin(session, want)
            if want.freshness is not ANY and _went_back(session, node):
                node.forget()
                self._monitor.look(node)
        except OperationalError as error:
            self._monitor.doubt(node, error)
            return False
        if want.freshness is ANY or _is_fit_still(node, want):
            return True
        # The pool has just replaced a connection that was lost: nobody knows what the node has by now.
        if is_begun:
            fault = f"{node.name} was connected to anew"
            raise ReplicasTooStale(self._cluster, asked=_asked(want), retry_after_seconds=1.0, fault=fault)
        session.rollback()
        return False

    def _on_primary(self, session: Session, want: Want, reason: Reason) -> Pinned:
        self._refuse_older_timeline(want)
        node = self._monitor.primary or self._nodes[0]
        session.bind = node.bind
        self._begin(session, want)
        if _is_standby(session):
            session.close()
            session.bind = None
            self._monitor.suspect()
            fault = NotThePrimary(self._cluster, node.address, "it is in recovery")
            raise OperationalError("read on the primary", None, fault)
        return self._pinned(node, reason)

    def _refuse_older_timeline(self, want: Want) -> None:
        """Refuse a read of what a newer primary wrote while only the one before it is known here."""
        known = self._monitor.primacy
        position = want.position
        if position is None or position.system_identifier != known.system_identifier:
            return
        if 0 < known.timeline < position.timeline:
            self._monitor.suspect()
            self._metrics.read(PRIMARY, Reason.REFUSED)
            raise ReplicasTooStale(
                self._cluster,
                asked=f"{position.lsn} of timeline {position.timeline}",
                retry_after_seconds=1.0,
                fault=f"the primary that is known here is on timeline {known.timeline}",
            )

    @staticmethod
    def _begin(session: Session, want: Want) -> None:
        raw: Any = session.connection().connection
        connection = raw.dbapi_connection
        autocommit = want.autocommit and getattr(raw.driver_connection, "refuses_writes", False)
        # Whoever gets the connection next puts it right: the pool may have no greenlet to do so.
        if connection.autocommit is not autocommit:
            connection.autocommit = autocommit

    def _pinned(self, node: Node, reason: Reason) -> Pinned:
        name = PRIMARY if node.name == self._monitor.primacy.node else node.name
        self._metrics.read(name, reason)
        return Pinned(name, reason)

    def _take_from_budget(self, want: Want) -> None:
        node = self._monitor.primary or self._nodes[0]
        wait_seconds = self._budget.take(now=self._clock(), in_use=node.load())
        if wait_seconds > 0:
            self._metrics.read(PRIMARY, Reason.REFUSED)
            raise ReplicasTooStale(self._cluster, asked=_asked(want), retry_after_seconds=wait_seconds)

    def _live(self, want: Want) -> list[Node]:
        """Give the replicas that are not out."""
        primary, avoided = self._monitor.primacy.node, want.avoided
        return [
            node
            for node in self._nodes
            if node.name != primary and node.health.out is None and node.name not in avoided
        ]

    def _fit(self, want: Want) -> list[Node]:
        live = self._live(want)
        position = want.position
        if want.freshness is ANY:
            return live
        if position is not None:
            live = [node for node in live if node.covers(position)]
        if want.freshness.is_bounded:
            now, lag = self._clock(), self._monitor.lag
            live = [node for node in live if want.freshness.fits(lag(node, now=now))]
        return live

    def _by_load(self, nodes: list[Node]) -> list[Node]:
        self._turn += 1
        if len(nodes) < 2:
            return nodes
        return in_order_of_load(nodes, turn=self._turn, load=Node.load)
