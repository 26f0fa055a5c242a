"""The monitor of one cluster in this process: finds the primary, ejects and readmits replicas."""

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from readreplica.concurrency import Lock, run_all, running_loop, wait_for
from readreplica.election import PrimaryState, elect
from readreplica.errors import OtherEventLoop, is_rejection
from readreplica.freshness import UNKNOWN_LAG, PrimaryHistory, PrimarySample, ReplicaLag
from readreplica.health import IMMEDIATE_FAULTS, NodeFault, NodeHealth, Observation, after_poll, find_fault
from readreplica.metrics import ClusterMetrics, hide_lags, show_lags
from readreplica.options import ReplicaOptions
from readreplica.poller import NodePoller, ReplayWaiter
from readreplica.pool import ClusterNode
from readreplica.wal import Position

log = logging.getLogger("readreplica")

# How many replicas are polled quickly for one waiting read: more would cost more polls, and gain little.
POLLED_FOR_ONE_READ = 2
URGENT_SECONDS = 60.0


class Monitor:
    """Polls every node of a cluster, once for the whole process, and keeps their observations."""

    def __init__(
        self,
        cluster: str,
        nodes: Sequence[ClusterNode],
        *,
        options: ReplicaOptions,
        clock: Callable[[], float],
        metrics: ClusterMetrics,
        on_new_primary: Callable[[], None],
    ) -> None:
        """Prepare to poll nodes; until one has answered, the first one is taken for the primary.

        Parameters:
            cluster: the cluster's name.
            nodes: the primary as it is known, then the replicas.
            options: periods and bounds.
            clock: a monotonic clock, in seconds.
            metrics: where ejections and failovers are counted.
            on_new_primary: called when another node, or another timeline, has become the primary.
        """
        self.cluster = cluster
        self.nodes = {node.name: node for node in nodes}
        self.live: Sequence[ClusterNode] = tuple(nodes[1:])
        """The replicas that are not ejected. Replaced as a whole, at each change: reads outnumber changes."""
        self.history = PrimaryHistory()
        self.primary_state = PrimaryState(node=nodes[0].name)
        self._configured_primary = nodes[0].name
        self._unpolled = set(self.nodes)
        self._options = options
        self._clock = clock
        self._metrics = metrics
        self._on_new_primary = on_new_primary
        self._answers: dict[str, Observation] = {}
        self._standbys: dict[str, str] = {}
        self._lock = Lock()
        self.is_closed = False
        self._started = False
        self._loop: object = None
        self._election_requested_at: float | None = None
        self._first_poll_until = math.inf
        """Until when the first poll of every node is waited for."""
        self._pollers = {node.name: self._poller_of(node) for node in nodes}

    def _poller_of(self, node: ClusterNode) -> NodePoller:
        return NodePoller(
            node,
            cluster=self.cluster,
            options=self._options,
            clock=self._clock,
            report=self.report,
            is_urgent=self._is_urgent,
            covers=self.covers,
        )

    def add(self, node: ClusterNode) -> None:
        """Poll one more node."""
        poller = self._poller_of(node)
        with self._lock:
            self._pollers[node.name] = poller
            self._unpolled.add(node.name)
            self.nodes[node.name] = node
            self._update_live()
            if self._started:
                poller.start()
        self.start()

    def start(self) -> None:
        """Begin to poll, once. A cluster of one node has nothing to choose and nothing to find.

        Raises:
            OtherEventLoop: it began in another one, which may be closed.
        """
        if self._started and self._loop is not running_loop():
            raise OtherEventLoop(self.cluster)
        if self._started or self.is_closed or len(self.nodes) < 2:
            return
        with self._lock:
            if self._started:
                return  # by another thread
            self._loop = running_loop()
            self._started = True
            self._first_poll_until = self._clock() + 2 * self._options.answer_seconds
            show_lags(self._lags)
            for poller in self._pollers.values():
                poller.start()

    async def stop(self) -> None:
        """End polling, for good."""
        self.is_closed = True
        if self._started:
            self._started = False
            hide_lags(self._lags)
            await run_all(*(poller.stop for poller in self._pollers.values()))

    @property
    def primary(self) -> ClusterNode | None:
        """The primary; None where two claim to be it."""
        name = self.primary_state.node
        return self.nodes[name] if name is not None else None

    def lag(self, node: ClusterNode, *, now: float) -> ReplicaLag:
        """Return how far a node is behind the primary, by its last observation."""
        return self._lag_of(node.observation, now=now)

    def _lag_of(self, seen: Observation | None, *, now: float) -> ReplicaLag:
        reached = seen.reached if seen is not None else None
        return self.history.lag(reached, now=now) if reached is not None else UNKNOWN_LAG

    def covers(self, node: ClusterNode, wanted: Position) -> bool:
        """Return whether a node is known to have replayed a position."""
        return node.covers(wanted, primary_timeline=self.primary_state.timeline)

    def request_election(self) -> None:
        """Poll every node at once, and quickly until the primary is found: a session could not write."""
        self._election_requested_at = self._clock()
        for poller in tuple(self._pollers.values()):  # a discovery may add one meanwhile
            poller.poll_now()

    def eject(self, node: ClusterNode, error: Exception) -> None:
        """Eject a replica that failed a session; it is readmitted after a few good polls."""
        if node.name != self.primary_state.node:
            # One that rejects new connections still serves those that are open, and they go on.
            with self._lock:
                fault = NodeFault.REFUSES if is_rejection(error) else NodeFault.UNREACHABLE
                self._set_health(node, NodeHealth(ejected=fault))
                self._update_live()
            node.forget()
            self.poll(node)

    def was_standby(self, incarnation: str) -> bool:
        """Return whether an incarnation of a server (`wal.INCARNATION`) was seen in recovery."""
        return incarnation in self._standbys.values()

    def mark_replaced(self, node: ClusterNode) -> None:
        """Eject a node whose address led to another server than before, and poll the one that is there."""
        if node is self.primary:
            self.request_election()
            return
        with self._lock:
            self._set_health(node, NodeHealth(ejected=NodeFault.OTHER_SERVER))
            self._update_live()
        self.poll(node)

    def waiters(self, node: str) -> Sequence[ReplayWaiter]:
        """Return the reads that wait for a node's replay."""
        return self._pollers[node].waiters

    def poll(self, node: ClusterNode) -> None:
        """Poll a node at once: a session lost its connection there."""
        self._pollers[node.name].poll_now()

    async def wait_for_replay(
        self, wanted: Position, nodes: Sequence[ClusterNode], *, timeout_seconds: float
    ) -> None:
        """Return when one of the first of these nodes has replayed a position, or when the time is over."""
        self.start()
        waiter = ReplayWaiter(wanted)
        pollers = [self._pollers[node.name] for node in nodes[:POLLED_FOR_ONE_READ]]
        for poller in pollers:
            poller.add(waiter)
        try:
            await wait_for(waiter.done, timeout_seconds=timeout_seconds)
        finally:
            for poller in pollers:
                poller.remove(waiter)

    async def wait_first_poll(self, *, timeout_seconds: float) -> None:
        """Return when every node has been polled once, even without an answer, or when the time is over."""
        self.start()
        if not self._started:
            return
        await self._wait_polled(until=self._clock() + timeout_seconds)
        if self.primary_state.timeline == 0:
            with self._lock:
                self._elect()  # the time may be over, and no answer may come that would lead to it
                self._update_live()

    async def _wait_polled(self, *, until: float) -> None:
        for poller in list(self._pollers.values()):
            await wait_for(poller.polled, timeout_seconds=max(0.0, until - self._clock()))

    async def poll_all(self, *, timeout_seconds: float) -> None:
        """Poll every node now, so that the primary is known by its role when this returns.

        Twice, because the first answer may be to a poll from before.
        """
        if not self._started:
            return
        self.request_election()
        give_up_at = self._clock() + timeout_seconds
        for _ in range(2):
            for poller in list(self._pollers.values()):
                poller.poll_now()
            await self._wait_polled(until=give_up_at)

    async def poll_primary(self, *, timeout_seconds: float) -> None:
        """Poll the primary for its position now; callers at the same time share one answer."""
        node = self.primary_state.node
        if node is None or not self._started:
            return
        poller = self._pollers[node]
        poller.poll_now()
        await wait_for(poller.polled, timeout_seconds=timeout_seconds)

    def report(
        self, node: ClusterNode, result: Observation | NodeFault, *, generation: int | None = None
    ) -> None:
        """Record the result of a poll, and act on it. Called by the nodes' pollers.

        Parameters:
            node: the node.
            result: its answer, or its fault.
            generation: the node's when it was polled; the answer to a poll from before `forget` is dropped.
        """
        with self._lock:
            if isinstance(result, NodeFault):
                self._answers.pop(node.name, None)
            elif node.record(result, generation=node.generation if generation is None else generation):
                self._answers[node.name] = result
                if result.in_recovery:
                    self._standbys[node.name] = result.incarnation
            else:
                return
            self._unpolled.discard(node.name)
            self._elect()
            if node.name != self.primary_state.node:
                self._assess(node, result)
            elif self.primary_state.timeline:
                self._record_primary(node, result)
            self._update_live()

    def _update_live(self) -> None:
        primary = self.primary_state.node
        nodes = self.nodes.values()
        self.live = tuple(node for node in nodes if node.name != primary and node.health.ejected is None)

    def _elect(self) -> None:
        before = self.primary_state
        known = self._identified(before)
        if known is None:
            return
        found = elect(known, self._answers)
        if before.node is not None and found.node not in (None, before.node):
            self._demote(self.nodes[before.node])
            found = elect(known, self._answers)
        self.primary_state = found
        if before.timeline == 0 and found.answers and found.node is not None:
            self._record_primary(self.nodes[found.node], self._answers[found.node])
        self._announce(before, found)

    def _announce(self, before: PrimaryState, found: PrimaryState) -> None:
        if found.rivals and found.rivals != before.rivals:
            log.error(
                "two primaries",
                extra={"cluster": self.cluster, "primary": found.node, "rivals": found.rivals},
            )
        is_first = before.timeline == 0
        if (found.node, found.timeline) == (before.node, before.timeline) or found.node is None:
            return
        if not is_first or found.node != before.node:
            log.warning(
                "new primary", extra={"cluster": self.cluster, "node": found.node, "timeline": found.timeline}
            )
            self._metrics.failed_over(found.node)
            self._on_new_primary()

    def _demote(self, node: ClusterNode) -> None:
        """Drop the observation of a former primary: it may hang, or come back with a history of its own.

        It serves no reads until polls have found it to be a good replica.
        """
        self._answers.pop(node.name, None)
        node.forget()
        self._set_health(node, NodeHealth(ejected=NodeFault.NOT_A_REPLICA))

    def _identified(self, known: PrimaryState) -> PrimaryState | None:
        """Return the state with the cluster's system identifier; None while an election has to wait for it.

        The configured primary's system identifier defines the cluster. If that node is away, every other one
        is polled first: an address may be another cluster's by now, and the first answer must not decide. Nor
        may it decide which node is the first primary: of two on one timeline neither is, and of two
        timelines the newer one counts. So every node is polled before that, or its time has passed.
        """
        if not known.timeline and self._unpolled and self._clock() < self._first_poll_until:
            return None
        if known.system_identifier is not None:
            return known
        configured = self._answers.get(self._configured_primary)
        if configured is not None and configured.position is not None:
            return replace(known, system_identifier=configured.position.system_identifier)
        return None if self._unpolled else known

    def _record_primary(self, node: ClusterNode, result: Observation | NodeFault) -> None:
        node.health = NodeHealth()
        if isinstance(result, NodeFault) or result.in_recovery or result.position is None:
            return
        self._election_requested_at = None
        self.history.add(PrimarySample(result.at, result.position))

    def _assess(self, node: ClusterNode, result: Observation | NodeFault) -> None:
        fault = result if isinstance(result, NodeFault) else self._fault_of(result)
        now = self._clock()
        # Quick polls for reads that wait do not count: many of them come at once.
        if fault not in IMMEDIATE_FAULTS and now - node.assessed_at < self._options.poll_seconds / 2:
            return
        node.assessed_at = now
        if fault is NodeFault.NEWER_TIMELINE and not node.health.bad_polls:
            # It may follow a new primary, which is to be polled before this counts again.
            self.request_election()
        self._set_health(node, after_poll(node.health, fault, self._options))
        if fault in IMMEDIATE_FAULTS:
            node.forget()

    def _fault_of(self, seen: Observation) -> NodeFault | None:
        return find_fault(
            seen,
            self._lag_of(seen, now=self._clock()),
            system_identifier=self.primary_state.system_identifier,
            primary_answers=self.primary_state.answers,
            primary_timeline=self.primary_state.timeline,
            options=self._options,
        )

    def _set_health(self, node: ClusterNode, health: NodeHealth) -> None:
        before, node.health = node.health, health
        fault, name = health.ejected, node.replica_name
        if fault and not before.ejected:
            log.warning(
                "replica taken out", extra={"cluster": self.cluster, "replica": name, "fault": fault.value}
            )
            self._metrics.ejected(name, fault.value)
        if fault and fault is not before.ejected:
            node.pool_generation.evict(abort=fault in (NodeFault.SILENT, NodeFault.UNREACHABLE))
        elif before.ejected and not fault:
            log.info("replica taken in again", extra={"cluster": self.cluster, "replica": name})

    def _is_urgent(self) -> bool:
        # Bounded: a primary that stays away is not polled twenty times a second for ever.
        since = self._election_requested_at
        return since is not None and self._clock() - since < URGENT_SECONDS

    def _lags(self) -> Iterable[tuple[str, str, float | None, int | None]]:
        now = self._clock()
        for node in tuple(self.nodes.values()):
            if node.name != self.primary_state.node:
                yield (self.cluster, node.replica_name, *self.lag(node, now=now))
