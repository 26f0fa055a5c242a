"""Every database of a topology: what is done to one is done to all, and one that is down stops no other."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import psycopg
from psycopg.conninfo import make_conninfo
from sqlalchemy import URL, Engine, ExceptionContext, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool

from ops.connect import SILENT_SECONDS, ServerUnresponsive, Watchdog, open_connection
from ops.errors import ExitStatus, OpsError, command_for
from ops.project.project import Project, ProjectTree
from partitions.errors import ManualChangeRefused, PartitionError
from readreplica.errors import one_line
from sharding.citus.distribute import PROPAGATE_SET_LOCAL
from sharding.errors import ShardingError, UnknownTree
from sharding.topology import Database, Topology

Result = TypeVar("Result")


@contextmanager
def open_engine(topology: Topology, database: Database, *, role: str, **options: Any) -> Iterator[Engine]:
    """Open an engine on a database's primary; it keeps no connection between uses.

    Parameters:
        topology: where the databases are.
        database: one of them.
        role: the PostgreSQL role that connects.
        options: of `create_engine`.
    """
    words = {"application_name": "mesctl"}
    if database.is_coordinator:
        words["options"] = PROPAGATE_SET_LOCAL
    with open_watched(topology.url(database, role=role, direct=True), words, **options) as engine:
        yield engine


@contextmanager
def open_watched(url: URL, words: Mapping[str, Any], **options: Any) -> Iterator[Engine]:
    """Open an engine whose connections are cut when the server no longer answers; see `ops.connect`.

    Parameters:
        url: the server and its database.
        words: psycopg's, beside those of the URL.
        options: of `create_engine`.
    """
    engine = create_engine(
        url, poolclass=NullPool, connect_args=dict(words), **{"hide_parameters": True, **options}
    )
    arguments, named = engine.dialect.create_connect_args(url)
    again = partial(open_connection, *arguments, **{**named, **words, "autocommit": True})

    def connect(_dialect: object, _record: object, cargs: list[Any], cparams: dict[str, Any]) -> object:
        connection = open_connection(*cargs, **cparams)
        watch.add(connection)
        return connection

    def explain(context: ExceptionContext) -> BaseException | None:
        error = context.original_exception
        if not watch.has_shut or not isinstance(error, psycopg.OperationalError):
            return None
        silent = ServerUnresponsive(SILENT_SECONDS)
        return OperationalError(context.statement, None, silent, connection_invalidated=True)

    event.listen(engine, "do_connect", connect)
    event.listen(engine, "handle_error", explain, retval=True)
    with Watchdog(again) as watch:
        try:
            yield engine
        finally:
            engine.dispose()


def connect_line(topology: Topology, database: Database, *, role: str) -> str:
    """Return psql's command that connects to a database, so that one script reaches several."""
    url = topology.url(database, role=role, direct=True)
    # Not the password, should the topology have one from the environment: psql asks for it.
    words = {key: value for key, value in url.query.items() if isinstance(value, str)}
    conninfo = make_conninfo(host=url.host, port=url.port, dbname=url.database, user=role, **words)
    quoted = conninfo.replace("\\", "\\\\").replace("'", "''")
    return f"\\connect '{quoted}'\n"


class Member(NamedTuple):
    """A database of the topology, and its tree in the project."""

    database: Database
    tree: ProjectTree


def members(topology: Topology, project: Project, *, tree: str | None = None) -> list[Member]:
    """List the databases of all trees of the project, or of one of them, tree by tree and in name order.

    Raises:
        UnknownProjectTree: the project has no such tree.
        UnknownTree: the topology has no such tree.
    """
    if tree is not None and project.tree(tree).name not in topology.trees:
        raise UnknownTree(tree, topology.trees)
    trees = project.trees.values() if tree is None else [project.tree(tree)]
    return [
        Member(database, each) for each in trees for database in topology.databases_of(each.name).values()
    ]


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Result]):
    """What came of the work on one database: a result, or an error of one line; `refused` changed nothing."""

    database: Database
    result: Result | None = None
    error: str | None = None
    refused: bool = False


class DatabasesFailed(OpsError):
    """Some databases could not be worked on; the others are done, and the same command does the rest."""

    def __init__(self, outcomes: Iterable[Outcome[Result]]) -> None:
        failed = [each for each in outcomes if each.error is not None]
        self.errors = {each.database.name: each.error for each in failed}
        if all(each.refused for each in failed):
            self.exit_status = ExitStatus.REFUSED
        super().__init__("\nmesctl: ".join(f"{name}: {error}" for name, error in self.errors.items()))


def attempt(database: Database, work: Callable[[], Result]) -> Outcome[Result]:
    """Do something to one database; what is wrong with it is the outcome, and does not stop the others."""
    try:
        return Outcome(database, work())
    except DatabasesFailed as error:
        return Outcome(database, error=error.errors.get(database.name) or str(error))
    except (PartitionError, ShardingError, OpsError) as error:
        command = command_for(error)
        words = f"{error} ({command})" if command else str(error)
        return Outcome(database, error=words, refused=isinstance(error, ManualChangeRefused))
    except (DBAPIError, psycopg.Error) as error:
        return Outcome(database, error=one_line(error))


@contextmanager
def naming(database: Database) -> Iterator[None]:
    """Raise an error of a database's server with the name of the database.

    Raises:
        DatabasesFailed: the server does not answer, or has refused.
    """
    try:
        yield
    except (DBAPIError, psycopg.Error) as error:
        raise DatabasesFailed([Outcome(database, error=one_line(error))]) from error
    except TimeoutError as error:
        raise DatabasesFailed([Outcome(database, error="it does not answer in time")]) from error


def results_of(outcomes: Iterable[Outcome[Result]]) -> list[tuple[Database, Result]]:
    """Return the results of those that did not fail."""
    return [(each.database, each.result) for each in outcomes if each.result is not None]


def raise_failures(outcomes: Iterable[Outcome[Result]]) -> None:
    """Raise if the work on a database failed.

    Raises:
        DatabasesFailed: one line for each.
    """
    failed = [each for each in outcomes if each.error is not None]
    if failed:
        raise DatabasesFailed(failed)
