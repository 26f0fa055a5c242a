"""`python -m tests.benchmarks [--only NAME,...]`: run the benchmarks, write build/bench.json, print a table.

Exit status: 0 all ran (a missed target is printed, and is `met: false` in the file), 1 one crashed,
2 an unknown name.
"""

import argparse
import importlib
import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks.harness import Benchmark, Outcome, registry, run

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "build" / "bench.json"


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="make bench", description="Run the benchmarks.")
    parser.add_argument("--only", metavar="NAME,...", help="run these only")
    asked = parser.parse_args().only
    discover()
    names = asked.split(",") if asked else sorted(registry)
    unknown = [name for name in names if name not in registry]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(sorted(registry))}")
    return _run_all([registry[name] for name in names])


def discover() -> None:
    """Import every bench_*.py beside this file; each registers its benchmarks."""
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        importlib.import_module(f"tests.benchmarks.{path.stem}")


def _run_all(benchmarks: Sequence[Benchmark]) -> int:
    outcomes: list[Outcome] = []
    crashed = False
    for subject in benchmarks:
        print(f"{subject.name} ...", file=sys.stderr)
        outcome, error = run(subject)
        if error is not None:
            crashed = True
            traceback.print_exception(error)
        outcomes.append(outcome)
        # After each one: a benchmark that is killed does not take the others' results along.
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps([each.as_json() for each in outcomes], indent=2) + "\n")
    Console().print(_table(outcomes))
    return 1 if crashed else 0


def _table(outcomes: Sequence[Outcome]) -> Table:
    table = Table(title=f"Benchmarks ({RESULT.relative_to(ROOT)})")
    for column in ("benchmark", "value", "target", "met", "detail"):
        table.add_column(column)
    marks = {True: "yes", False: "MISSED", None: "not run"}
    for each in outcomes:
        value = "-" if each.value is None else f"{each.value:g} {each.unit}"
        bound = "at most" if each.better == "lower" else "at least"
        table.add_row(each.name, value, f"{bound} {each.target:g}", marks[each.met], each.detail)
    return table


if __name__ == "__main__":
    sys.exit(main())
