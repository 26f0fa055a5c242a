"""`python -P -m ops.migrate.fleet REQUEST TOPOLOGY PARALLEL DATABASE...`: several databases at once.

alembic's `op` is one for the process, so each database needs a process of its own. To load alembic,
SQLAlchemy and the rest takes more CPU than most migrations (2.4 s, measured), so it is loaded once, here, and
a process for each is forked. That is safe in this program alone: it has one thread and no connection.
"""

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import NamedTuple, TextIO

from ops.migrate.outcome import MigrationOutcome, Request
from ops.migrate.single import migrate_database
from sharding.topology import Topology

FORK = multiprocessing.get_context("fork")


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
        sender.send(migrate_database(topology, database, request, report=_tell))


def _outcome(receiver: Connection, child: _Child, request: Request) -> MigrationOutcome:
    try:
        outcome = receiver.recv()
    except EOFError:
        outcome = None
    child.process.join()
    if isinstance(outcome, MigrationOutcome):
        return outcome
    error = f"its process ended with status {child.process.exitcode} and told no outcome"
    return MigrationOutcome(database=child.database, tree=request.tree, state="failed", error=error)


@contextmanager
def _interruptible() -> Iterator[None]:
    """End the process without a traceback at Ctrl-C, which reaches all of them: `mesctl` says it once."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _keep_stdout() -> TextIO:
    """Give stdout as it is; what a revision or its programs print from here on goes to stderr."""
    told = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return told


def main() -> None:
    """Do it as a process: progress on stderr, the outcomes as JSON on stdout, a line each."""
    request, topology, parallel, *databases = sys.argv[1:]
    told = _keep_stdout()
    outcomes = migrate_each(
        Topology.load(topology),
        Request.model_validate_json(request),
        databases,
        parallel=int(parallel),
    )
    with _interruptible():
        for outcome in outcomes:
            told.write(f"{outcome.model_dump_json()}\n")
            told.flush()


if __name__ == "__main__":
    main()
