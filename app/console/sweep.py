"""Models of orders that were replaced, or of which nothing came: found, and removed from the store.

The objects are listed before the names are read, and an upload writes its object anew before it names it: so
what is old enough, and named by no line that was read afterwards, is wanted by no upload that had begun.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from app.console.audit.databases import FETCH_ROWS, OrderDatabases
from app.files import FilesError, ModelStore, StoredObject
from app.messaging.routing import ServiceName
from ops.errors import ExitStatus, OpsError
from ops.fleet import naming

NAMING = (ServiceName.SHOP, ServiceName.MES)
"""The services whose order lines name models."""

# Whatever names a model, also what was archived, or detached from its table; no partition twice.
_TABLES = text("""
    SELECT c.oid::regclass::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE a.attname = 'model_key' AND NOT a.attisdropped AND c.relkind IN ('r', 'p') AND NOT c.relispartition
      AND n.nspname NOT IN ('pg_catalog', 'information_schema')
    ORDER BY 1
""")


class NothingNamed(OpsError):
    """No order line names any model, though there are some: these are not the databases of this store."""

    exit_status = ExitStatus.REFUSED

    def __init__(self, objects: int) -> None:
        self.objects = objects
        super().__init__(
            f"no order names any of the {objects} models in the store: nothing was deleted; check that "
            "[files] and the databases of the topology belong together"
        )


class StoreFailed(OpsError):
    """The store of models did not answer, or refused."""

    def __init__(self, cause: FilesError) -> None:
        super().__init__(f"{cause}; the same command again continues")


class ServiceMissing(OpsError):
    """The topology has no database of a service whose orders name models."""

    exit_status = ExitStatus.REFUSED

    def __init__(self, service: ServiceName) -> None:
        self.service = service
        super().__init__(f"the topology has no database of {service}: nothing was deleted")


@dataclass(frozen=True, slots=True)
class Sweep:
    """What is in the store, and what of it no order names and is older than the grace period."""

    objects: int
    unnamed: tuple[StoredObject, ...]

    @property
    def size_bytes(self) -> int:
        """The size of all that no order names."""
        return sum(each.size_bytes for each in self.unnamed)


def find_unnamed(store: ModelStore, databases: OrderDatabases, *, before: datetime) -> Sweep:
    """Find the models that no order names.

    Parameters:
        store: the models.
        databases: the databases.
        before: only those that were stored before.

    Raises:
        FilesUnavailable: the store does not answer.
        DatabasesFailed: a database does not answer, so that its orders may name any model.
        NothingNamed, ServiceMissing: the databases cannot be those of the store.
    """
    listed = list(store.listed())
    left = {each.key: each for each in listed if each.stored_at < before}
    named = False
    # Twice: a line that is moved from one database to another may be seen in neither of two snapshots.
    for _ in range(2):
        with _names(databases) as names:
            for key in names:
                named = True
                left.pop(key, None)
    if listed and not named:
        raise NothingNamed(len(listed))
    return Sweep(len(listed), tuple(left.values()))


def delete_unnamed(store: ModelStore, found: Sweep, *, before: datetime) -> Iterator[StoredObject]:
    """Delete what was found, but what was uploaded again since; yield each that is gone.

    Raises:
        FilesUnavailable: the store does not answer; the same again goes on.
    """
    return (each for each in found.unnamed if store.delete(each.key, stored_before=before))


@contextmanager
def naming_store() -> Iterator[None]:
    """Raise an error of the store as one of mesctl's.

    Raises:
        StoreFailed: the store does not answer.
    """
    try:
        yield
    except FilesError as error:
        raise StoreFailed(error) from error


@contextmanager
def _names(databases: OrderDatabases) -> Iterator[Iterator[str]]:
    """Yield the names of models in every database, each read in one snapshot, as long as the block lasts."""
    chosen = [name for name, service in databases.services.items() if service in NAMING]
    for service in NAMING:
        if service not in {databases.services[name] for name in chosen}:
            raise ServiceMissing(service)
    with ExitStack() as stack:
        # A detached partition is its owner's alone.
        owners = {name: databases.topology.database(name).owner for name in chosen}
        opened = {name: stack.enter_context(databases.connect(name, role=owners[name])) for name in chosen}
        tables = {}
        for name, connection in opened.items():
            with naming(databases.topology.database(name)):
                tables[name] = list(connection.scalars(_TABLES))  # all snapshots are taken before any is read
        yield (key for name in chosen for key in _read(databases, name, opened[name], tables[name]))


def _read(databases: OrderDatabases, name: str, connection: Connection, tables: list[str]) -> Iterator[str]:
    with naming(databases.topology.database(name)):
        for table in tables:
            query = text(f"SELECT DISTINCT model_key FROM {table} WHERE model_key IS NOT NULL")
            with connection.execution_options(yield_per=FETCH_ROWS).execute(query) as rows:
                yield from rows.scalars()
