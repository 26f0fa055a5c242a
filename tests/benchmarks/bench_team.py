"""What another team has to do for partitions, shards and replicas: measured on examples/payments."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.harness import CannotRun, Measured, benchmark
from tests.benchmarks.team_lines import team_lines, workarounds
from tests.benchmarks.team_verbs import ROWS, run_verbs, verbs
from tests.integration.payments_rig import PaymentsTeam, build_wheels, payments_team
from tests.memory import roomy_memory


@contextmanager
def team() -> Iterator[PaymentsTeam]:
    """Give the example in a folder, with the built wheels."""
    with (
        tempfile.TemporaryDirectory(prefix="mes-storage-bench-", dir=roomy_memory()) as folder,
        payments_team(Path(folder), build_wheels(Path(folder, "wheels"))) as made,
    ):
        yield made


@benchmark(name="team_workarounds", target=0, unit="places")
def count_workarounds() -> Measured:
    """Count private names, SQL of the library, silenced checks and patches, and the errors of mypy strict."""
    found = workarounds()
    with team() as made:
        typed = made.run(made.python, "-P", "-m", "mypy", "--no-error-summary")
    if typed.returncode not in {0, 1}:
        raise CannotRun(typed.stderr)
    errors = [line for line in typed.stdout.splitlines() if ": error:" in line]
    detail = "; ".join([f"{len(errors)} errors of mypy strict against the wheels", *found, *errors])
    return Measured(len(found) + len(errors), detail)


@benchmark(name="team_lines", target=75, unit="lines")
def count_lines() -> Measured:
    """Count the lines that are written for partitions with an archive, for shards, and for replicas."""
    counts = team_lines()
    return Measured(sum(counts.values()), "; ".join(f"{part} {lines}" for part, lines in counts.items()))


@benchmark(name="team_verbs", target=1, better="higher")
def count_verbs() -> Measured:
    """Count the verbs that work on the example's topology."""
    has_pooler = shutil.which("pgbouncer") is not None
    wanted = {verb for verb in verbs() if has_pooler or not verb.startswith("pgbouncer")}
    with team() as made:
        runs = list(run_verbs(made, has_pooler=has_pooler))
    faults = [str(run) for run in runs if not run.works]
    faults += [f"`{verb}` has no row" for verb in sorted(wanted - ROWS.keys())]
    failed = {run.verb for run in runs if not run.works} | (wanted - ROWS.keys())
    refused = sorted({run.verb for run in runs if run.works and run.status})
    count = f"{len(wanted - failed)} of {len(wanted)} verbs"
    notes = [f"refused by a check: {', '.join(refused)}"] if refused else []
    if not has_pooler:
        notes.append("those of the pooler were not run: PgBouncer is not on PATH")
    return Measured(len(wanted - failed) / len(wanted), "; ".join([count, *notes, *faults]))
