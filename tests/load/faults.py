"""Faults of a chaos run: what is broken, when and for how long; and the hand that breaks and mends it."""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from random import Random
from urllib.parse import urlsplit

import psutil
from redis import Redis
from redis.exceptions import RedisError

from app.topology import redis_url
from ops.embedded.errors import StartFailed
from ops.embedded.pgpass import read_passwords
from ops.embedded.platform import Platform
from ops.embedded.postgres import PostgresCluster
from ops.embedded.processes import Daemon
from ops.embedded.programs import PostgresTools, valkey_server
from ops.embedded.valkey import ADMIN, Valkey, password_name
from ops.waiting import wait_until

SERVICES = ("shop", "crm", "mes", "board", "pricing")
"""The relay and the consumer of each database are in the process of its service."""
VALKEY = "valkey"
MENDED_SECONDS = 90


class Kind(StrEnum):
    """What is done to a process."""

    KILL = "kill -9"
    FREEZE = "SIGSTOP"
    WIPE = "FLUSHALL"


@dataclass(frozen=True, order=True)
class Fault:
    """One fault: it begins so long after the first order, and is mended when it has lasted."""

    at_seconds: float
    target: str
    kind: Kind
    lasts_seconds: float

    @property
    def line(self) -> str:
        """What is said of it."""
        return f"{self.at_seconds:6.1f} s  {self.kind} {self.target}, for {self.lasts_seconds:.1f} s"


def plan_faults(
    targets: Sequence[str],
    *,
    seed: int,
    seconds: float,
    every_seconds: float,
    wipes: int = 2,
    longest_seconds: float = 4.0,
) -> list[Fault]:
    """Draw the faults of a run; the same seed, the same faults. Pure.

    Every target is killed and frozen once before any is a second time. Redis is wiped `wipes` times, in
    the middle of each of so many equal parts of the run. Faults of different targets overlap.

    Parameters:
        targets: the processes.
        seconds: how long the run is: the last fault begins before that.
        every_seconds: the mean time from one fault to the next.
        longest_seconds: how long a fault lasts at most.
    """
    random = Random(seed)
    deck = _shuffled(random, list(product(targets, (Kind.KILL, Kind.FREEZE))))
    faults = [Fault(seconds * (number + 0.5) / wipes, VALKEY, Kind.WIPE, 0.0) for number in range(wipes)]
    free_at = dict.fromkeys(targets, 0.0)
    at = random.uniform(0, every_seconds)
    while at < seconds:
        target, kind = next(deck)
        lasts = random.uniform(0.2, longest_seconds)
        starts = max(at, free_at[target])
        faults.append(Fault(starts, target, kind, lasts))
        # A server that has just come up is to be at work before it is struck again.
        free_at[target] = starts + lasts + longest_seconds
        at += random.uniform(0.5, 1.5) * every_seconds
    return sorted(faults)


def _shuffled(random: Random, cards: list[tuple[str, Kind]]) -> Iterator[tuple[str, Kind]]:
    while True:
        random.shuffle(cards)
        yield from cards


class Breaker:
    """Breaks and mends the processes of an embedded platform. Every call blocks; calls may overlap."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        topology = platform.topology()
        self._valkey_url = redis_url(topology, ADMIN)
        servers = [
            *((name, database.primary.port) for name, database in topology.databases.items()),
            *(
                (each.name, each.port)
                for database in topology.databases.values()
                for each in database.replicas
            ),
        ]
        self._clusters = {name: (self._cluster(name), port) for name, port in servers}
        # One process at a time may change the platform.
        self._starting = threading.Lock()

    @property
    def targets(self) -> tuple[str, ...]:
        """Everything that can be broken: services, Redis, primaries and replicas."""
        return (*SERVICES, VALKEY, *(f"{name} server" for name in self._clusters))

    def strike(self, fault: Fault) -> None:
        """Break something, and mend it when the fault has lasted.

        Raises:
            EmbeddedError: it did not come up again.
        """
        if fault.kind is Kind.WIPE:
            self._wipe()
            return
        processes = self._processes(fault.target)
        for process in processes:
            _send(process, signal.SIGKILL if fault.kind is Kind.KILL else signal.SIGSTOP)
        time.sleep(fault.lasts_seconds)
        if fault.kind is Kind.KILL:
            self._start(fault.target)
        for process in processes:
            _send(process, signal.SIGCONT)

    def _wipe(self) -> None:
        """Have Redis forget everything; while it is away itself, it is waited for."""

        def is_wiped() -> bool:
            try:
                with Redis.from_url(self._valkey_url, socket_timeout=2) as redis:
                    return bool(redis.flushall())
            except RedisError:
                return False

        wait_until(is_wiped, timeout_seconds=MENDED_SECONDS)

    def _processes(self, target: str) -> list[psutil.Process]:
        """Return the processes of a target, its children first: a postmaster mends what dies alone."""
        pid = self._pid(target)
        if pid is None:
            return []
        try:
            first = psutil.Process(pid)
            return [*first.children(recursive=True), first]
        except psutil.NoSuchProcess:
            return []

    def _pid(self, target: str) -> int | None:
        home = self._platform.home
        if target in SERVICES:
            name = f"{target}-service"
            return Daemon(target, pidfile=home.pidfile(name), log=home.log(name)).pid()
        if target == VALKEY:
            return self._valkey().pid()
        return self._clusters[target.removesuffix(" server")][0].pid()

    def _start(self, target: str) -> None:
        if target in SERVICES:
            with self._starting:
                self._start_service(target)
        elif target == VALKEY:
            port = urlsplit(self._valkey_url).port
            assert port is not None
            users = (self._platform.home.valkey / "users.acl").read_text().splitlines()
            self._valkey().start(program=valkey_server(), port=port, users=users)
        else:
            cluster, port = self._clusters[target.removesuffix(" server")]
            cluster.start(port=port)

    def _start_service(self, name: str) -> None:
        """Start it; what it needs may be broken at this moment, and then it is tried again."""
        deadline = time.monotonic() + MENDED_SECONDS
        while True:
            try:
                self._platform.start_service(name)
            except StartFailed:
                if time.monotonic() > deadline:
                    raise
            else:
                return

    def _valkey(self) -> Valkey:
        home = self._platform.home
        return Valkey(
            folder=home.valkey,
            pidfile=home.pidfile(VALKEY),
            log=home.log(VALKEY),
            password=read_passwords(home.passfile)[password_name(ADMIN)],
        )

    def _cluster(self, name: str) -> PostgresCluster:
        home = self._platform.home
        return PostgresCluster(
            name,
            tools=PostgresTools(),
            data=home.data(name),
            log=home.log(name),
            passfile=home.passfile,
        )


def _send(process: psutil.Process, number: int) -> None:
    """Send a signal to a process that may have ended already."""
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
