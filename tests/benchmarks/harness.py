"""What a benchmark needs: a way to register, a platform to run on, and a fair comparison.

@benchmark(name="pages", target=15, unit="pages")
async def pages() -> Measured:
    with platform() as topology:
        ...
    return Measured(11, "one index scan")
"""

import asyncio
import inspect
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Literal, NamedTuple

from sharding.topology import Topology
from tests.platform_topology import cloned, migrate_templates, write_topology
from tests.servers import run_postgres, run_valkey

Better = Literal["lower", "higher"]


class Measured(NamedTuple):
    """What a benchmark found: a ratio or a count, and how it came about."""

    value: float
    detail: str = ""


class CannotRun(Exception):
    """The benchmark needs something that this machine does not have; it is reported with `met: null`."""


@dataclass(frozen=True)
class Benchmark:
    """A registered benchmark."""

    name: str
    target: float
    better: Better
    unit: str
    measure: Callable[[], Any]


@dataclass(frozen=True)
class Outcome:
    """One line of build/bench.json."""

    name: str
    value: float | None
    unit: str
    target: float
    better: Better
    met: bool | None
    detail: str

    def as_json(self) -> dict[str, Any]:
        """Give the line as the contract has it."""
        return asdict(self)


registry: dict[str, Benchmark] = {}


def benchmark(
    *, name: str, target: float, better: Better = "lower", unit: str = "ratio"
) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register a function, sync or async, that returns a `Measured` or a bare number.

    Parameters:
        name: its name in build/bench.json and for `--only`.
        target: the value that is good enough.
        better: whether lower or higher values are better.
        unit: what the value counts.
    """

    def register(measure: Callable[[], Any]) -> Callable[[], Any]:
        if name in registry:
            raise ValueError(f"two benchmarks are named {name!r}")
        registry[name] = Benchmark(name, target, better, unit, measure)
        return measure

    return register


def run(subject: Benchmark) -> tuple[Outcome, BaseException | None]:
    """Run a benchmark.

    Returns:
        Its outcome, and the error if it crashed.
    """
    try:
        result = subject.measure()
        if inspect.isawaitable(result):
            result = asyncio.run(_awaited(result))
    except CannotRun as reason:
        return _outcome(subject, None, None, f"not run: {reason}"), None
    except Exception as error:
        return _outcome(subject, None, None, f"crashed: {type(error).__name__}: {error}"), error
    value, detail = result if isinstance(result, tuple) else (result, "")
    met = value <= subject.target if subject.better == "lower" else value >= subject.target
    return _outcome(subject, value, met, detail), None


def _outcome(subject: Benchmark, value: float | None, met: bool | None, detail: str) -> Outcome:
    return Outcome(subject.name, value, subject.unit, subject.target, subject.better, met, detail)


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result


@contextmanager
def platform() -> Iterator[Topology]:
    """Run PostgreSQL with a replica, Valkey and migrated databases, in a folder for one benchmark."""
    with (
        tempfile.TemporaryDirectory(prefix="mes-storage-bench-") as folder,
        run_postgres(Path(folder)) as servers,
        run_valkey(Path(folder)) as valkey,
    ):
        templates = migrate_templates(servers, valkey, Path(folder))
        with cloned(servers, templates, prefix="bench") as dbnames:
            yield Topology.load(write_topology(Path(folder) / "topology.toml", dbnames, servers, valkey))


@dataclass(frozen=True)
class Comparison:
    """Two things timed alternately in one run."""

    ratio: float
    subject_seconds: float
    reference_seconds: float


async def compare(
    subject: Callable[[], Awaitable[object]],
    reference: Callable[[], Awaitable[object]],
    *,
    rounds: int,
    calls: int,
) -> Comparison:
    """Time two things alternately, so that whatever else the machine does hits both alike.

    Parameters:
        subject: what is measured.
        reference: what it is compared with.
        rounds: how many pairs of timings are made.
        calls: how many calls of each one pair sums up.

    Returns:
        The median over the rounds of subject / reference, and the medians of the seconds per call.
    """
    await _time_alternately(subject, reference, calls)  # fills pools and statement caches
    pairs = [await _time_alternately(subject, reference, calls) for _ in range(rounds)]
    return Comparison(
        median(first / second for first, second in pairs),
        median(first for first, _ in pairs),
        median(second for _, second in pairs),
    )


async def _time_alternately(
    subject: Callable[[], Awaitable[object]], reference: Callable[[], Awaitable[object]], calls: int
) -> tuple[float, float]:
    """Call both by turns and give the seconds per call of each."""
    spent = [0.0, 0.0]
    for call in range(calls):
        # Who goes first changes too: the second one finds the caches of the processor warm.
        for which in (0, 1) if call % 2 else (1, 0):
            start = perf_counter()
            await (subject, reference)[which]()
            spent[which] += perf_counter() - start
    return spent[0] / calls, spent[1] / calls
