# Generated from readreplica/monitor.py by `make twins`: change that file, not this one.
"""The monitor of one cluster in this process: finds the primary, takes replicas out and in."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import structlog

from readreplica.errors import OtherEventLoop
from readreplica.faults import is_refusal
from readreplica.freshness import Lag
from readreplica.health import AT_ONCE, Fault, Health, Observation, after_poll, find_fault
from readreplica.lag import PrimaryHistory, Sample
from readreplica.metrics import ClusterMetrics, hide_lags, show_lags
from readreplica.options import ReplicaOptions
from readreplica.primacy import Primacy, elect
from readreplica.sync.concurrency import Lock, home, run_all, wait_for
from readreplica.sync.nodes import Node
from readreplica.sync.watch import NodeWatch, Waiter
from readreplica.token import Position

log: structlog.stdlib.BoundLogger = structlog.get_logger("readreplica")

# How many replicas one waiting read may have asked quickly: more bring more questions, and little more luck.
ASKED_BY_ONE_READ = 2


class Monitor:
    """Asks every node of a cluster, once for the whole process, and remembers what they say."""

    def __init__(
        self,
        cluster: str,
        nodes: Sequence[Node],
        *,
        options: ReplicaOptions,
        clock: Callable[[], float],
        metrics: ClusterMetrics,
        on_new_primary: Callable[[], None],
    ) -> None:
        """Prepare to watch nodes; until one has answered, the first one is taken for the primary.

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
        self.live: Sequence[Node] = tuple(nodes[1:])
        """The replicas that are not out. Replaced as a whole, at each change: reads outnumber changes."""
        self.history = PrimaryHistory()
        self.primacy = Primacy(node=nodes[0].name)
        self._named = nodes[0].name
        self._unheard = set(self.nodes)
        self._options = options
        self._clock = clock
        self._metrics = metrics
        self._on_new_primary = on_new_primary
        self._answers: dict[str, Observation] = {}
        self._standbys: dict[str, str] = {}
        self._lock = Lock()
        self.is_closed = False
        self._started = False
        self._home: object = None
        self._suspected_at: float | None = None
        self._heard_at = math.inf
        """From when on the nodes that were not heard are waited for no longer."""
        self._watches = {node.name: self._watch_of(node) for node in nodes}

    def _watch_of(self, node: Node) -> NodeWatch:
        return NodeWatch(
            node,
            cluster=self.cluster,
            options=self._options,
            clock=self._clock,
            report=self.report,
            is_urgent=self._is_urgent,
            covers=self.covers,
        )

    def add(self, node: Node) -> None:
        """Watch one more node."""
        watch = self._watch_of(node)
        with self._lock:
            self._watches[node.name] = watch
            self._unheard.add(node.name)
            self.nodes[node.name] = node
            self._note_live()
            if self._started:
                watch.start()
        self.start()

    def start(self) -> None:
        """Begin to ask, once. A cluster of one node has nothing to choose and nothing to find.

        Raises:
            OtherEventLoop: it began in another one, where nobody may run it any more.
        """
        if self._started and self._home is not home():
            raise OtherEventLoop(self.cluster)
        if self._started or self.is_closed or len(self.nodes) < 2:
            return
        with self._lock:
            if self._started:
                return  # by another thread
            self._home = home()
            self._started = True
            self._heard_at = self._clock() + 2 * self._options.answer_seconds
            show_lags(self._lags)
            for watch in self._watches.values():
                watch.start()

    def stop(self) -> None:
        """End asking, for good."""
        self.is_closed = True
        if self._started:
            self._started = False
            hide_lags(self._lags)
            run_all(*(watch.stop for watch in self._watches.values()))

    @property
    def primary(self) -> Node | None:
        """The primary; None where two claim to be it."""
        return self.nodes[self.primacy.node] if self.primacy.node is not None else None

    def lag(self, node: Node, *, now: float) -> Lag:
        """Tell how far a node is behind."""
        reached = node.seen.reached if node.seen is not None else None
        return self.history.lag(reached, now=now) if reached is not None else Lag(None, None)

    def covers(self, node: Node, wanted: Position) -> bool:
        """Tell whether a node is known to have replayed a position."""
        return node.covers(wanted, primary_timeline=self.primacy.timeline)

    def suspect(self) -> None:
        """Look for the primary at once, and quickly until it is found: a session could not write."""
        self._suspected_at = self._clock()
        for watch in tuple(self._watches.values()):  # a discovery may add one meanwhile
            watch.hurry()

    def doubt(self, node: Node, error: Exception) -> None:
        """Take a replica out that failed a session; it comes in again when it answers well for a while."""
        if node.name != self.primacy.node:
            # One that has no slot left serves those who have one, and they go on.
            with self._lock:
                fault = Fault.REFUSES if is_refusal(error) else Fault.UNREACHABLE
                self._set_health(node, Health(out=fault))
                self._note_live()
            node.forget()
            self._watches[node.name].hurry()

    def was_standby(self, server: str) -> bool:
        """Tell whether a life of a server (`fate.LIFE`) was seen in recovery."""
        return server in self._standbys.values()

    def mistrust(self, node: Node) -> None:
        """Take a node out whose address led to another server than before, and ask the one that is there."""
        if node is self.primary:
            self.suspect()
            return
        with self._lock:
            self._set_health(node, Health(out=Fault.OTHER_SERVER))
            self._note_live()
        self.look(node)

    def waiting(self, node: str) -> Sequence[Waiter]:
        """Give those who wait for a node's replay."""
        return self._watches[node].waiters

    def look(self, node: Node) -> None:
        """Ask a node at once: a session lost its connection there."""
        self._watches[node.name].hurry()

    def wait_for_replay(self, wanted: Position, nodes: Sequence[Node], *, timeout_seconds: float) -> None:
        """Return when one of the first of these nodes has replayed a position, or when the time is over."""
        self.start()
        waiter = Waiter(wanted)
        asked = [self._watches[node.name] for node in nodes[:ASKED_BY_ONE_READ]]
        for watch in asked:
            watch.add(waiter)
        try:
            wait_for(waiter.done, timeout_seconds=timeout_seconds)
        finally:
            for watch in asked:
                watch.remove(waiter)

    def hear_all(self, *, timeout_seconds: float) -> None:
        """Return when every node has answered once or failed to, or when the time is over."""
        self.start()
        if not self._started:
            return
        give_up_at = self._clock() + timeout_seconds
        for watch in list(self._watches.values()):
            wait_for(watch.answered, timeout_seconds=max(0.0, give_up_at - self._clock()))
        if self.primacy.timeline == 0:
            with self._lock:
                self._elect()  # the time may be over, and nobody may answer who would have it noticed
                self._note_live()

    def look_around(self, *, timeout_seconds: float) -> None:
        """Have every node tell now what it is, so that the primary is known by its role when this returns.

        Twice, because the first answer may be to a question from before.
        """
        if not self._started:
            return
        self.suspect()
        give_up_at = self._clock() + timeout_seconds
        for _ in range(2):
            watches = list(self._watches.values())
            for watch in watches:
                watch.hurry()
            for watch in watches:
                wait_for(watch.answered, timeout_seconds=max(0.0, give_up_at - self._clock()))

    def ask_primary(self, *, timeout_seconds: float) -> None:
        """Have the primary tell its position now; many who want that share one answer."""
        node = self.primacy.node
        if node is None or not self._started:
            return
        watch = self._watches[node]
        watch.hurry()
        wait_for(watch.answered, timeout_seconds=timeout_seconds)

    def report(self, node: Node, said: Observation | Fault, *, era: int | None = None) -> None:
        """Take in what a node said, or why it did not. Called by the nodes' watches.

        Parameters:
            node: the node.
            said: its answer, or its fault.
            era: the node's when it was asked; an answer to a question from before `forget` is dropped.
        """
        with self._lock:
            if isinstance(said, Fault):
                self._answers.pop(node.name, None)
            elif not node.learn(said, era=node.era if era is None else era):
                return
            else:
                self._answers[node.name] = said
                if said.in_recovery:
                    self._standbys[node.name] = said.life
            self._unheard.discard(node.name)
            self._elect()
            if node.name != self.primacy.node:
                self._judge(node, said)
            elif self.primacy.timeline:
                self._note_primary(node, said)
            self._note_live()

    def _note_live(self) -> None:
        primary = self.primacy.node
        nodes = self.nodes.values()
        self.live = tuple(node for node in nodes if node.name != primary and node.health.out is None)

    def _elect(self) -> None:
        before = self.primacy
        known = self._identified(before)
        if known is None:
            return
        found = elect(known, self._answers)
        if before.node is not None and found.node not in (None, before.node):
            self._depose(self.nodes[before.node])
            found = elect(known, self._answers)
        self.primacy = found
        if before.timeline == 0 and found.answers and found.node is not None:
            self._note_primary(self.nodes[found.node], self._answers[found.node])
        if found.rivals and found.rivals != before.rivals:
            log.error("two primaries", cluster=self.cluster, primary=found.node, rivals=found.rivals)
        is_first = before.timeline == 0
        if (found.node, found.timeline) == (before.node, before.timeline) or found.node is None:
            return
        if not is_first or found.node != before.node:
            log.warning("new primary", cluster=self.cluster, node=found.node, timeline=found.timeline)
            self._metrics.failed_over(found.node)
            self._on_new_primary()

    def _depose(self, node: Node) -> None:
        """Forget what a node said as the primary: now it may hang, or come back with a history of its own.

        It serves no reads until polls have found it to be a good replica.
        """
        self._answers.pop(node.name, None)
        node.forget()
        self._set_health(node, Health(out=Fault.NOT_A_REPLICA))

    def _identified(self, known: Primacy) -> Primacy | None:
        """Find out whose cluster this is, before anybody is elected; None while that has to wait.

        It is that of the node that was named as the primary. Where that one is away all others are heard
        first: an address may be another cluster's by now, and who answers first must not decide. Nor may he
        decide who is the first primary: of two on one timeline neither is, and of two timelines the newer
        one counts. So everybody is heard before that, or has had his time.
        """
        if not known.timeline and self._unheard and self._clock() < self._heard_at:
            return None
        if known.system_identifier is not None:
            return known
        named = self._answers.get(self._named)
        if named is not None and named.position is not None:
            return replace(known, system_identifier=named.position.system_identifier)
        return None if self._unheard else known

    def _note_primary(self, node: Node, said: Observation | Fault) -> None:
        node.health = Health()
        if isinstance(said, Fault) or said.in_recovery or said.position is None:
            return
        self._suspected_at = None
        self.history.add(Sample(said.at, said.position))

    def _judge(self, node: Node, said: Observation | Fault) -> None:
        fault = said if isinstance(said, Fault) else self._fault_of(said)
        now = self._clock()
        # Questions on behalf of those who wait are no polls: many of them come at once.
        if fault not in AT_ONCE and now - node.judged_at < self._options.poll_seconds / 2:
            return
        node.judged_at = now
        if fault is Fault.NEWER_TIMELINE and not node.health.bad_polls:
            self.suspect()  # it may follow a new primary, which is to be heard before this counts again
        self._set_health(node, after_poll(node.health, fault, self._options))
        if fault in AT_ONCE:
            node.forget()

    def _fault_of(self, seen: Observation) -> Fault | None:
        reached = seen.reached
        return find_fault(
            seen,
            self.history.lag(reached, now=self._clock()) if reached is not None else Lag(None, None),
            system_identifier=self.primacy.system_identifier,
            primary_answers=self.primacy.answers,
            primary_timeline=self.primacy.timeline,
            options=self._options,
        )

    def _set_health(self, node: Node, health: Health) -> None:
        before, node.health = node.health, health
        if health.out and not before.out:
            fault = health.out.value
            log.warning("replica taken out", cluster=self.cluster, replica=node.as_replica, fault=fault)
            self._metrics.ejected(node.as_replica, fault)
        if health.out and health.out is not before.out:
            node.epoch.evict(abort=health.out in (Fault.SILENT, Fault.UNREACHABLE))
        elif before.out and not health.out:
            log.info("replica taken in again", cluster=self.cluster, replica=node.as_replica)

    def _is_urgent(self) -> bool:
        # Bounded: a primary that stays away is not asked twenty times a second for ever.
        since = self._suspected_at
        return since is not None and self._clock() - since < 60

    def _lags(self) -> Iterable[tuple[str, str, float | None, int | None]]:
        now = self._clock()
        for node in tuple(self.nodes.values()):
            if node.name != self.primacy.node:
                yield (self.cluster, node.as_replica, *self.lag(node, now=now))
