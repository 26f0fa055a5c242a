"""All databases of a tree: the canary first, then the others, several at once.

`python -P -m ops.migrate.fleet REQUEST TOPOLOGY PARALLEL DATABASE...` migrates the others: alembic's `op` is
one for the process, so each database needs a process of its own. To load alembic, SQLAlchemy and the rest
takes more CPU than most migrations (2.4 s, measured), so it is loaded once, there, and a process for each is
forked. That is safe in this program alone: it has one thread and no connection.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple, TextIO

from ops.migrate.outcome import MigrationOutcome, Request
from ops.migrate.single import Report, migrate_database
from sharding.topology import Topology

PARALLEL = 4


# A folder `ops` in the working directory or on PYTHONPATH must not be imported instead of this package.
_MAIN = Path(__file__).parents[1] / "__main__.py"
_RUN = """\
import runpy, sys
runpy.run_path(sys.argv.pop(1))["own_package"]()
from ops.migrate.fleet import main
main()
"""
FORK = multiprocessing.get_context("fork")


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
        report: is called with a line about each revision and each database.

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
    command = [sys.executable, "-P", "-c", _RUN, str(_MAIN), request.model_dump_json()]
    done = subprocess.run(
        [*command, str(topology.path), str(parallel), *names],
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=False,
    )
    outcomes = {
        outcome.database: outcome
        for outcome in map(MigrationOutcome.model_validate_json, done.stdout.split("\n")[:-1])
    }
    return [outcomes.get(name) or _unreported(name, request, done.returncode) for name in names]


def _unreported(name: str, request: Request, status: int) -> MigrationOutcome:
    error = f"the process of all databases ended with status {status} before it reported on this one"
    return MigrationOutcome(database=name, tree=request.tree, state="failed", error=error)


def _not_started(database: str, request: Request) -> MigrationOutcome:
    return MigrationOutcome(database=database, tree=request.tree, state="not started")


class _Child(NamedTuple):
    database: str
    process: BaseProcess


def migrate_each(
    topology: Topology, request: Request, databases: Sequence[str], *, parallel: int
) -> Iterator[MigrationOutcome]:
    """Migrate databases, `parallel` at once, each in a process of its own.

    Returns:
        an outcome for each, in the order in which they end; a process that is killed is one as well.
    """
    waiting, running = deque(databases), dict[Connection, _Child]()
    while waiting or running:
        while waiting and len(running) < parallel:
            database = waiting.popleft()
            receiver, process = _start(topology, request, database)
            running[receiver] = _Child(database, process)
        for ready in wait(list(running)):
            assert isinstance(ready, Connection)
            yield _outcome(ready, running.pop(ready), request)


def _start(topology: Topology, request: Request, database: str) -> tuple[Connection, BaseProcess]:
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_migrate, args=(topology, request, database, sender))
    process.start()
    sender.close()  # or the end of the child would not be seen
    return receiver, process


def _migrate(topology: Topology, request: Request, database: str, sender: Connection) -> None:
    with _interruptible():
        sender.send(migrate_database(topology, database, request, report=_report))


def _outcome(receiver: Connection, child: _Child, request: Request) -> MigrationOutcome:
    try:
        outcome = receiver.recv()
    except EOFError:
        outcome = None
    child.process.join()
    if isinstance(outcome, MigrationOutcome):
        return outcome
    error = f"its process ended with status {child.process.exitcode} and reported no outcome"
    return MigrationOutcome(database=child.database, tree=request.tree, state="failed", error=error)


@contextmanager
def _interruptible() -> Iterator[None]:
    """End the process without a traceback at Ctrl-C, which reaches all of them: `mesctl` says it once."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _keep_stdout() -> TextIO:
    """Return a copy of stdout; what a revision or its programs print from here on goes to stderr."""
    stdout = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for stream in (sys.stdout, sys.stderr):
        # A line of one process is not torn by that of another, with PYTHONUNBUFFERED either.
        assert isinstance(stream, TextIOWrapper)
        stream.reconfigure(line_buffering=True, write_through=False)
    return stdout


def main() -> None:
    """Do it as a process: progress on stderr, the outcomes as JSON on stdout, a line each."""
    request, topology, parallel, *databases = sys.argv[1:]
    stdout = _keep_stdout()
    outcomes = migrate_each(
        Topology.load(topology),
        Request.model_validate_json(request),
        databases,
        parallel=int(parallel),
    )
    with _interruptible():
        for outcome in outcomes:
            stdout.write(f"{outcome.model_dump_json()}\n")
            stdout.flush()


if __name__ == "__main__":
    main()
