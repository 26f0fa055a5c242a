"""Three times the capacity, by open-loop arrivals, under the adaptive limiter and a sweep of fixed limits.

And a day of chaos: what it has lost.
"""

import tempfile
from functools import cache
from pathlib import Path

from tests.benchmarks.harness import CannotRun, Measured, benchmark
from tests.load.arrivals import Kind
from tests.load.chaos import run_chaos
from tests.load.runs import Sweep, open_bench, sweep

SECONDS = 8.0
CHAOS_ORDERS = 200


@cache
def _swept() -> Sweep:
    """Load one platform once for all three figures."""
    with (
        tempfile.TemporaryDirectory(prefix="mes-storage-bench-") as folder,
        open_bench(Path(folder) / "platform") as bench,
    ):
        return sweep(bench, seconds=SECONDS)


def _published(swept: Sweep) -> str:
    """Return the whole sweep in a line."""
    runs = (
        f"{name}: {run.loaded.goodput:.0f}/s, p99 {run.loaded.p99_seconds() * 1000:.0f} ms"
        for name, run in swept.runs.items()
    )
    return f"capacity {swept.capacity:.0f}/s; at three times that " + "; ".join(runs)


@benchmark(name="goodput_overload", target=0.9, better="higher")
def goodput_overload() -> Measured:
    swept = _swept()
    best = swept.best_fixed
    ratio = swept.runs["adaptive"].loaded.goodput / max(best.loaded.goodput, 1e-9)
    return Measured(ratio, f"against {best.limiter}, the best of the sweep; {_published(swept)}")


@benchmark(name="overload_latency", target=3.0)
def overload_latency() -> Measured:
    adaptive = _swept().runs["adaptive"]
    unloaded, loaded = adaptive.unloaded.p99_seconds(), adaptive.loaded.p99_seconds()
    return Measured(adaptive.latency_ratio, f"p99 {loaded * 1000:.0f} ms, unloaded {unloaded * 1000:.0f} ms")


@benchmark(name="shed_creation", target=0.01, unit="share")
def shed_creation() -> Measured:
    loaded = _swept().runs["adaptive"].loaded
    history = loaded.refused_share(Kind.HISTORY)
    if history < 0.05:
        raise CannotRun(f"only {history:.1%} of the history was shed: there was no overload")
    return Measured(loaded.refused_share(Kind.CREATION), f"while {history:.0%} of the history was shed")


@benchmark(name="chaos_lost", target=0, unit="orders")
def chaos_lost() -> Measured:
    with tempfile.TemporaryDirectory(prefix="mes-storage-bench-") as folder:
        verdict = run_chaos(
            Path(folder) / "platform", orders=CHAOS_ORDERS, seed=1, seconds=60, every_seconds=4
        )
    return Measured(verdict.wrong, verdict.line)
