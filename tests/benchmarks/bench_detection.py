"""How many evaluations pass from a stop to its alert, by real Prometheus on a running platform."""

import tempfile
from pathlib import Path

from tests.benchmarks.harness import CannotRun, Measured, benchmark
from tests.needs import NEEDS
from tests.watched_platform import MOST_EVALUATIONS, REPLICA_DOWN, process_down, watched_platform


@benchmark(name="detect_evals", target=MOST_EVALUATIONS, unit="evaluations")
def detect_evals() -> Measured:
    """Stop a replica, the service with the relay, and the pricing worker, one after the other."""
    for name in ("prometheus", "alertmanager"):
        if NEEDS[name].find() is None:
            raise CannotRun(f"{NEEDS[name].program} is not here: apt-get install {NEEDS[name].package}")
    with (
        tempfile.TemporaryDirectory(prefix="mes-storage-bench-") as folder,
        watched_platform(Path(folder) / "home") as watched,
    ):
        found = {"replica": watched.detect(watched.replica().stop, REPLICA_DOWN)}
        for service, what in (("mes", "relay"), ("pricing", "pricing worker")):
            stop = lambda name=service: watched.platform.kill_service(name)  # noqa: E731  # it is called at once
            found[what] = watched.detect(stop, process_down(service))
    return Measured(max(found.values()), ", ".join(f"{what} {count}" for what, count in found.items()))
