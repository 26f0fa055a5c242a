"""The load test's runs against a platform of its own: capacity, a sweep of limits, and the profiles."""

import asyncio
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import httpx
import psycopg

from app.console.demo.day import wait_until_known
from app.console.identities import create_all
from app.kit.caller import Role
from app.topology import services_of
from ops.embedded.platform import Platform
from ops.project.project import Project
from tests.load.arrivals import MIX, Arrival, Caller, Kind, Outcome, arrivals
from tests.load.faults import Breaker, Fault
from tests.load.faults import Kind as FaultKind
from tests.load.fixed_mes import FIXED_REQUESTS
from tests.project import PROJECT

FIXED_LIMITS = (4, 8, 16, 32, 64)
OVERLOAD = 3.0
SEEDED_ORDERS = 40


def limiter_environment(limiter: str) -> dict[str, str]:
    """Return the variable by which the MES limits what it works on: `adaptive`, or `fixed:N` at once."""
    return {} if limiter == "adaptive" else {FIXED_REQUESTS: limiter.removeprefix("fixed:")}


def _project() -> Project:
    """Return the project, with a MES whose limit can be fixed."""
    mes = PROJECT.file.services["mes"].model_copy(update={"module": "tests.load.fixed_mes"})
    services = {**PROJECT.file.services, "mes": mes}
    return Project(PROJECT.path, PROJECT.file.model_copy(update={"services": services}))


@dataclass
class Bench:
    """A platform under load.

    Parameters:
        platform: it is up.
        order_ids: orders to ask for.
    """

    platform: Platform
    order_ids: list[str] = field(default_factory=list)

    @cached_property
    def keys(self) -> Mapping[Role, str]:
        """The API key of each role that asks."""
        roles = (Role.OPERATOR, Role.SERVICE, Role.ADMIN)
        made = create_all(self.platform.topology(), {f"load test, {role}": role for role in roles})
        found = {role: made[f"load test, {role}"] for role in roles}
        for key in found.values():
            wait_until_known(self.platform.topology(), {"mes": key})
        return found

    @property
    def url(self) -> str:
        """Where the MES is."""
        return services_of(self.platform.topology())["mes"].url

    def restart(self, limiter: str) -> None:
        """Have the MES begin anew, with another limit."""
        changed = limiter_environment(limiter)
        self.platform.kill_service("mes")
        with _environment(changed):
            self.platform.start_service("mes")

    def fill(self, orders: int = SEEDED_ORDERS) -> None:
        """Make some orders to ask for."""
        keys = self.keys  # here: the command that makes them runs a loop of its own

        async def make() -> None:
            caller = Caller(self.url, self.order_ids, keys)
            answers = [await caller.one(Kind.CREATION) for _ in range(orders)]
            caller.close()
            assert all(answer.status in {201, 202} for answer in answers), answers

        asyncio.run(make())
        self.order_ids = self._wait_for_orders()

    def _wait_for_orders(self) -> list[str]:
        """Return the ids of orders that are priced."""
        deadline = time.monotonic() + 60
        while True:
            found = httpx.get(
                f"{self.url}/v1/orders",
                params={"status": "PRICE_CALCULATED", "limit": 200},
                headers={"Authorization": f"Bearer {self.keys[Role.ADMIN]}"},
            ).json()
            if len(found["orders"]) >= SEEDED_ORDERS // 2 or time.monotonic() > deadline:
                return [str(order["order_id"]) for order in found["orders"]]
            time.sleep(0.2)

    def settle(self) -> None:
        """Leave nothing to do behind that the next run would pay for: orders that were taken in, and jobs."""
        topology, deadline = self.platform.topology(), time.monotonic() + 60
        owed = "SELECT (SELECT count(*) FROM pricing_jobs) + (SELECT count(*) FROM outbox)"
        with ExitStack() as opened:
            shards = []
            for name in topology.databases_of("mes"):
                url = topology.url(name, role="mes").set(drivername="postgresql")
                text = url.render_as_string(hide_password=False)
                shards.append(opened.enter_context(psycopg.connect(text, autocommit=True)))
            for shard in shards:
                shard.execute("DELETE FROM intake")
            while any(shard.execute(owed).fetchone() != (0,) for shard in shards):
                assert time.monotonic() < deadline, "what was ordered is not done with"
                time.sleep(0.2)

    def capacity(self, *, seconds: float, callers: int = 12) -> float:
        """Return how many requests of the usual mix are done in a second, by so many who never pause."""
        planned = iter(arrivals(lambda _: 1000, seconds=60, seed=3))

        async def measure() -> float:
            caller, done, over = Caller(self.url, self.order_ids, self.keys), 0, time.monotonic() + seconds

            async def call() -> None:
                nonlocal done
                while time.monotonic() < over:
                    answer = await caller.one(next(planned).kind)
                    done += 200 <= answer.status < 300

            await asyncio.gather(*(call() for _ in range(callers)))
            caller.close()
            return done / seconds

        return asyncio.run(measure())

    def load(
        self,
        rate: Callable[[float], float],
        *,
        seconds: float,
        seed: int,
        more: tuple[Arrival, ...] = (),
        mix: Mapping[Kind, float] = MIX,
    ) -> Outcome:
        """Let requests arrive at a rate, and those besides."""
        planned = sorted(
            (*arrivals(rate, seconds=seconds, seed=seed, mix=mix), *more), key=lambda each: each.at_seconds
        )
        return asyncio.run(Caller(self.url, self.order_ids, self.keys).run(planned, seconds=seconds))


@contextmanager
def _environment(changed: Mapping[str, str]) -> Iterator[None]:
    """Have variables set for processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@contextmanager
def open_bench(folder: Path) -> Iterator[Bench]:
    """Start a platform with some orders in it, and remove it at the end."""
    platform = Platform(folder, _project(), safe=False)
    try:
        platform.up()
        bench = Bench(platform)
        bench.fill()
        yield bench
    finally:
        platform.delete()


@dataclass(frozen=True)
class Overload:
    """One limiter at rest and under three times the capacity."""

    limiter: str
    unloaded: Outcome
    loaded: Outcome

    @property
    def latency_ratio(self) -> float:
        """The p99 of what is admitted, against the same without load."""
        return self.loaded.p99_seconds() / max(self.unloaded.p99_seconds(), 1e-9)

    def as_row(self) -> dict[str, object]:
        """Return a line of the published sweep."""
        return {
            "limiter": self.limiter,
            "goodput /s": self.loaded.goodput,
            "p99 s": self.loaded.p99_seconds(),
            "unloaded p99 s": self.unloaded.p99_seconds(),
            "ratio": self.latency_ratio,
            **{f"refused: {kind.value}": self.loaded.refused_share(kind) for kind in Kind},
        }


@dataclass(frozen=True)
class Sweep:
    """All limiters in one run, and the capacity that they were loaded by."""

    capacity: float
    runs: Mapping[str, Overload]

    @property
    def best_fixed(self) -> Overload:
        """The fixed limit with the most done in time."""
        fixed = [run for name, run in self.runs.items() if name != "adaptive"]
        return max(fixed, key=lambda run: run.loaded.goodput)


def sweep(bench: Bench, *, seconds: float, limits: tuple[int, ...] = FIXED_LIMITS, rounds: int = 1) -> Sweep:
    """Load the MES by three times its capacity under each limit, the adaptive one between the others."""
    bench.settle()
    bench.load(lambda _: 20, seconds=2, seed=1)  # fills pools and statement caches
    capacity = bench.capacity(seconds=min(4.0, seconds))
    names = [f"fixed:{number}" for number in limits]
    names.insert(len(names) // 2, "adaptive")
    found: dict[str, list[Overload]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            found[name].append(_overload(bench, name, capacity, seconds=seconds))
    middle = {
        name: sorted(runs, key=lambda run: run.loaded.goodput)[len(runs) // 2] for name, runs in found.items()
    }
    return Sweep(capacity, middle)


def _overload(bench: Bench, limiter: str, capacity: float, *, seconds: float) -> Overload:
    bench.settle()
    bench.restart(limiter)
    bench.load(lambda _: capacity / 4, seconds=2, seed=1)  # fills pools and statement caches
    unloaded = bench.load(lambda _: capacity / 5, seconds=seconds, seed=2)
    if limiter == "adaptive":
        # It is to have found its limit before it is measured, as a fixed one has it from the beginning.
        bench.load(lambda _: OVERLOAD * capacity, seconds=seconds / 2, seed=4)
    loaded = bench.load(lambda _: OVERLOAD * capacity, seconds=seconds, seed=3)
    return Overload(limiter, unloaded, loaded)


def day(bench: Bench, capacity: float, *, seconds: float, seed: int) -> Outcome:
    """A day from night to night, scaled: its peak is 0.9 of the capacity."""

    def rate(at: float) -> float:
        return capacity * (0.05 + 0.85 * math.sin(math.pi * at / seconds) ** 2)

    return bench.load(rate, seconds=seconds, seed=seed)


def overload(bench: Bench, capacity: float, *, seconds: float, seed: int) -> Outcome:
    """Half the capacity, three times the capacity, half of it again."""

    def rate(at: float) -> float:
        return capacity * (OVERLOAD if seconds / 3 <= at < 2 * seconds / 3 else 0.5)

    return bench.load(rate, seconds=seconds, seed=seed)


def burst(bench: Bench, capacity: float, *, seconds: float, seed: int) -> Outcome:
    """Half the capacity, and in the middle one partner's orders of ten seconds at once."""
    size = min(300, round(10 * capacity * MIX[Kind.CREATION]))
    at_once = tuple(
        Arrival(seconds / 2 + number / size, Kind.CREATION, "bijoux-sud") for number in range(size)
    )
    return bench.load(lambda _: capacity / 2, seconds=seconds, seed=seed, more=at_once)


def slow_database(bench: Bench, capacity: float, *, seconds: float, seed: int) -> Outcome:
    """Half the capacity, while a shard's server gets a third of the time in the middle third of the run."""
    over = threading.Event()
    slow = threading.Thread(target=_slow_down, args=(bench.platform, "mes_0 server", seconds / 3, over))
    slow.start()
    try:
        return bench.load(lambda _: capacity / 2, seconds=seconds, seed=seed)
    finally:
        over.set()
        slow.join()


def _slow_down(platform: Platform, target: str, seconds: float, over: threading.Event) -> None:
    breaker = Breaker(platform)
    over.wait(seconds)
    until = time.monotonic() + seconds
    while time.monotonic() < until and not over.is_set():
        breaker.strike(Fault(0, target, FaultKind.FREEZE, 0.05))
        over.wait(0.025)


def dead_worker(bench: Bench, capacity: float, *, seconds: float, seed: int) -> Outcome:
    """Half the capacity, while there is no pricing worker in the middle third of the run."""
    breaker = Breaker(bench.platform)
    timer = threading.Timer(
        seconds / 3, breaker.strike, args=(Fault(0, "pricing", FaultKind.KILL, seconds / 3),)
    )
    timer.start()
    try:
        return bench.load(lambda _: capacity / 2, seconds=seconds, seed=seed)
    finally:
        timer.join()


PROFILES: Mapping[str, Callable[..., Outcome]] = {
    "day": day,
    "overload": overload,
    "burst": burst,
    "slow-database": slow_database,
    "dead-worker": dead_worker,
}
