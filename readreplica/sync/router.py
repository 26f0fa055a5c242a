# Generated from readreplica/router.py by `make twins`: change that file, not this one.
"""Finds the node for each read session: which nodes are fit, and whether the primary may be asked."""

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from readreplica.appraisal import Verdict, appraise, clamped, is_beyond
from readreplica.balancer import in_order_of_load
from readreplica.bases import Want
from readreplica.budget import FallbackBudget
from readreplica.errors import NotThePrimary, ReplicasTooStale
from readreplica.freshness import ANY, Freshness
from readreplica.lsn import Lsn
from readreplica.metrics import ClusterMetrics, Reason
from readreplica.options import ReplicaOptions
from readreplica.probe import TIMELINE
from readreplica.sync.monitor import Monitor
from readreplica.sync.nodes import Node
from readreplica.token import Position

PRIMARY = "primary"
"""Whichever node is the primary now."""

FORMER_PRIMARY = "former primary"
"""The node that was named as the primary, while it is a replica."""

_WANT_ANYTHING = Want()
_WANT_AUTOCOMMIT = Want(autocommit=True)
_IN_RECOVERY = text("SELECT pg_is_in_recovery()")
_TIMELINE = text(f"SELECT {TIMELINE}")
_POSITION = text(
    "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END"
)


def _begin(session: Session, node: Node) -> None:
    """Bind a session to a node, and take the connection."""
    bind = session.bind = node.bind
    session.connection({"bind": bind})


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
            return _WANT_AUTOCOMMIT if autocommit else _WANT_ANYTHING
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
        """Wait, bounded, until a replica is fit for a read with a token, or the primary is known."""
        if want.position is None or (not want.freshness.on_primary and self._fit(want)):
            return want, False
        may_wait = want.can_wait and not want.freshness.on_primary
        if may_wait:
            self._wait_for_replay(want.position, self._live(want))
        if self._is_primary_unknown():
            # As units of writing do: where the topology names it, one from before a failover may live on.
            self._monitor.hear_all(timeout_seconds=2 * self._options.answer_seconds)
        if may_wait and not self._fit(want):
            want = self._checked(want)
        return want, not want.freshness.on_primary

    def _wait_for_replay(self, wanted: Position, live: Sequence[Node]) -> None:
        began = self._clock()
        limit = self._options.replay_wait_seconds
        candidates = in_order_of_load(live, turn=self._turn, load=Node.load)
        if candidates:
            self._monitor.wait_for_replay(wanted, candidates, timeout_seconds=limit)
            self._metrics.waited(self._clock() - began)

    def _is_primary_unknown(self) -> bool:
        return self._monitor.primacy.timeline == 0 and len(self._nodes) > 1

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

    def pin(self, session: Session, want: Want, *, waited: bool) -> tuple[str, Reason]:
        """Bind a read session to a node that is fit, else to the primary within the budget."""
        if want.freshness.on_primary or len(self._nodes) < 2:
            return self._on_primary(session, want, Reason.PRIMARY)
        reason = Reason.WAITED if waited else Reason.FRESH
        is_choosy = want.freshness is not ANY and (want.position is not None or want.freshness.is_bounded)
        is_begun = is_choosy and session.in_transaction()
        nodes = self._fit(want) if is_choosy or want.avoided else self._monitor.live
        self._turn += 1
        if len(nodes) > 1:
            nodes = in_order_of_load(nodes, turn=self._turn, load=Node.load)
        for node in nodes:
            era = node.era
            try:
                _begin(session, node)
                if is_choosy and _went_back(session, node):
                    node.forget()
                    self._monitor.look(node)
            except OperationalError as error:
                self._monitor.doubt(node, error)
            else:
                if not is_choosy or self._is_still_fit(node, want, session, era=era, is_begun=is_begun):
                    self._metrics.read(node.as_replica, reason)
                    return node.as_replica, reason
            reason = Reason.OTHER
        self._take_from_budget(want)
        return self._on_primary(session, want, Reason.FALLBACK)

    def _is_still_fit(self, node: Node, want: Want, session: Session, *, era: int, is_begun: bool) -> bool:
        """Look again once connected: if the pool replaced a connection, nobody knows what the node has."""
        if node.era == era and self._fit_of((node,), want):
            return True
        if is_begun:
            fault = f"{node.name} was connected to anew"
            raise ReplicasTooStale(self._cluster, asked=_asked(want), retry_after_seconds=1.0, fault=fault)
        session.rollback()
        return False

    def _on_primary(self, session: Session, want: Want, reason: Reason) -> tuple[str, Reason]:
        self._refuse_older_timeline(want)
        node = self._monitor.primary or self._nodes[0]
        era, is_unknown = node.era, self._is_primary_unknown()
        _begin(session, node)
        if _is_standby(session):
            session.close()
            self._monitor.suspect()
            fault = NotThePrimary(self._cluster, node.address, "it is in recovery")
            raise OperationalError("read on the primary", None, fault)
        if want.position is not None and (is_unknown or node.era != era):
            self._ask_timeline(session, node, want.position)
        name = PRIMARY if node.name == self._monitor.primacy.node else node.name
        self._metrics.read(name, reason)
        return name, reason

    def _refuse_older_timeline(self, want: Want) -> None:
        """Refuse a read of what a newer primary wrote while only the one before it is known here."""
        known = self._monitor.primacy
        position = want.position
        if position is None or position.system_identifier != known.system_identifier:
            return
        if 0 < known.timeline < position.timeline:
            raise self._older(position, f"the primary that is known here is on timeline {known.timeline}")

    def _ask_timeline(self, session: Session, node: Node, wanted: Position) -> None:
        """Ask the server itself: no monitor has said yet that it is the primary of now."""
        timeline = session.connection().execute(_TIMELINE).scalar_one()
        if timeline < wanted.timeline:
            session.close()
            raise self._older(
                wanted, f"{node.address}, the only primary known here, is on timeline {timeline}"
            )

    def _older(self, wanted: Position, fault: str) -> ReplicasTooStale:
        self._monitor.suspect()
        self._metrics.read(PRIMARY, Reason.REFUSED)
        asked = f"{wanted.lsn} of timeline {wanted.timeline}"
        return ReplicasTooStale(self._cluster, asked=asked, retry_after_seconds=1.0, fault=fault)

    def _take_from_budget(self, want: Want) -> None:
        node = self._monitor.primary or self._nodes[0]
        wait_seconds = self._budget.take(now=self._clock(), in_use=node.load())
        if wait_seconds > 0:
            self._metrics.read(PRIMARY, Reason.REFUSED)
            raise ReplicasTooStale(self._cluster, asked=_asked(want), retry_after_seconds=wait_seconds)

    def _live(self, want: Want) -> Sequence[Node]:
        """Give the replicas that are not out, without those to avoid."""
        live = self._monitor.live
        return [node for node in live if node.as_replica not in want.avoided] if want.avoided else live

    def _fit(self, want: Want) -> Sequence[Node]:
        return self._fit_of(self._live(want), want)

    def _fit_of(self, live: Sequence[Node], want: Want) -> Sequence[Node]:
        position = want.position
        if position is not None:
            timeline = self._monitor.primacy.timeline
            live = [node for node in live if node.covers(position, primary_timeline=timeline)]
        if want.freshness.is_bounded:
            now, lag = self._clock(), self._monitor.lag
            live = [node for node in live if want.freshness.fits(lag(node, now=now))]
        return live
