"""All databases of a tree: the canary first, then the others, several at once."""

import subprocess
import sys
from collections.abc import Sequence

from ops.migrate.outcome import MigrationOutcome, Request
from ops.migrate.single import Report, migrate_database
from sharding.topology import Topology

PARALLEL = 4


def migrate_tree(
    topology: Topology, request: Request, *, parallel: int = PARALLEL, report: Report
) -> list[MigrationOutcome]:
    """Do what is asked with every database of the request's tree.

    The first in name order is the canary: if it fails, no other is touched. When one of the others fails,
    the rest still come to their ends. Databases that are where they should be are left alone, so that the
    same call again goes on where one stopped.

    Parameters:
        topology: where the databases are.
        request: what to bring them to.
        parallel: how many databases at once, after the canary.
        report: is told a line about each revision and each database.

    Returns:
        an outcome for each database, in name order.
    """
    names = list(topology.databases_of(request.tree))
    if not names:
        return []
    canary = migrate_database(topology, names[0], request, report=report)
    others = names[1:]
    if not canary.done:
        return [canary, *(_not_started(name, request) for name in others)]
    return [canary, *_migrate_others(topology, others, request, parallel=parallel, report=report)]


def _migrate_others(
    topology: Topology, names: Sequence[str], request: Request, *, parallel: int, report: Report
) -> list[MigrationOutcome]:
    if min(parallel, len(names)) <= 1:
        return [migrate_database(topology, name, request, report=report) for name in names]
    # -P: or a folder `ops` in the working directory would be imported instead of this one.
    command = [sys.executable, "-P", "-m", "ops.migrate.fleet", request.model_dump_json()]
    done = subprocess.run(
        [*command, str(topology.path), str(parallel), *names],
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=False,
    )
    told = {
        outcome.database: outcome
        for outcome in map(MigrationOutcome.model_validate_json, done.stdout.split("\n")[:-1])
    }
    return [told.get(name) or _untold(name, request, done.returncode) for name in names]


def _untold(name: str, request: Request, status: int) -> MigrationOutcome:
    error = f"the process of all databases ended with status {status} before it told of this one"
    return MigrationOutcome(database=name, tree=request.tree, state="failed", error=error)


def _not_started(database: str, request: Request) -> MigrationOutcome:
    return MigrationOutcome(database=database, tree=request.tree, state="not started")
