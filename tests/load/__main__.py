"""`make load`: how the MES fares under load; build/load.html has the plots, build/load.json the figures."""

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.load.plots import page, plots_of, table
from tests.load.runs import FIXED_LIMITS, PROFILES, open_bench, sweep

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Run the profiles that were asked for, and the sweep of fixed limits."""
    parser = argparse.ArgumentParser(prog="make load", description=__doc__)
    parser.add_argument("--profiles", default=",".join(PROFILES), help="names with commas")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each profile")
    parser.add_argument("--sweep-seconds", type=float, default=6.0, help="of each limit; 0: no sweep")
    parser.add_argument("--capacity", type=float, help="requests in a second; measured if it is not given")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=ROOT / "build")
    given = parser.parse_args()
    names = given.profiles.split(",")
    if unknown := set(names) - set(PROFILES):
        parser.error(f"no profile {', '.join(sorted(unknown))}; there are {', '.join(PROFILES)}")
    report = _run(given, names)
    given.output.mkdir(exist_ok=True)
    (given.output / "load.html").write_text(report.pop("html"))
    (given.output / "load.json").write_text(json.dumps(report, indent=2) + "\n")
    print(given.output / "load.html")
    return 0


def _run(given: argparse.Namespace, names: list[str]) -> dict[str, object]:
    parts: list[str] = []
    found: dict[str, object] = {}
    with (
        TemporaryDirectory(prefix="mes-storage-load-") as folder,
        open_bench(Path(folder) / "platform") as bench,
    ):
        capacity = given.capacity or bench.capacity(seconds=4)
        _say(f"capacity: {capacity:.0f} requests in a second")
        if given.sweep_seconds:
            swept = sweep(bench, seconds=given.sweep_seconds, limits=FIXED_LIMITS)
            rows = [run.as_row() for run in swept.runs.values()]
            found["sweep"] = {"capacity_per_second": swept.capacity, "limits": rows}
            parts += ["<h2>Limits at three times the capacity</h2>", table(rows)]
            bench.restart("adaptive")
        for name in names:
            _say(f"{name} ...")
            outcome = PROFILES[name](bench, capacity, seconds=given.seconds, seed=given.seed)
            found[name] = outcome.as_json()
            parts += [f"<h2>{name}</h2>", plots_of(outcome)]
    title = f"Load test: capacity {capacity:.0f} requests in a second"
    return {"capacity_per_second": capacity, "profiles": found, "html": page(title, *parts)}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
