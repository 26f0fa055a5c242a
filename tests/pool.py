"""Migrated databases that tests borrow, one set after another, and give back as clean as a new clone.

A clone costs its weight in files, on the primary and on the replica; emptying the few tables that a test has
written costs a tenth of that. A database that a test has changed in any other way is dropped instead.

Every borrower gets names of its own. What an earlier one left running (a process that connects again)
knows old names only, and never meets another's rows.
"""

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

import psycopg
from psycopg import sql

from ops.embedded.postgres import SUPERUSER, PostgresCluster
from ops.embedded.servers import grant_connect
from ops.embedded.shape import DatabaseShape
from ops.waiting import wait_until
from tests.contents import Contents, read_contents, restore
from tests.fingerprint import Fingerprint, differences, read_local, read_shared
from tests.project import DATABASES
from tests.servers import PostgresServers

# Of all pools of a process: two of them may lend on one server.
_NUMBERS = count(1)


@dataclass
class PooledDatabase:
    """A clone: its name of the moment, and how it was when it was last known to be clean."""

    shape: DatabaseShape
    oid: int
    name: str
    shared: tuple[object, ...] | None
    local: Fingerprint
    use: tuple[object, ...] | None = None
    """What the server had counted of its use when it was lent; None when that is not known."""


class LastingSession:
    """A superuser's session that goes from one borrower to the next: to connect takes longer than to ask."""

    def __init__(self, cluster: PostgresCluster) -> None:
        self._cluster = cluster
        self._session: psycopg.Connection | None = None

    def get(self) -> psycopg.Connection:
        """Give the session, another one if the server has ended it."""
        if self._session is None or not _answers(self._session):
            cluster = self._cluster
            self._session = psycopg.connect(
                host=cluster.host,
                port=cluster.port(),
                dbname="postgres",
                user=SUPERUSER,
                passfile=str(cluster.passfile),
                autocommit=True,
            )
        return self._session

    def close(self) -> None:
        """End the session."""
        if self._session is not None:
            self._session.close()


def _answers(session: psycopg.Connection) -> bool:
    try:
        session.execute("SELECT 1")
    except psycopg.OperationalError:
        session.close()
        return False
    return True


@dataclass
class DatabasePool:
    """The clones of one pair of servers."""

    servers: PostgresServers
    templates: Mapping[str, str]
    shapes: tuple[DatabaseShape, ...] = DATABASES
    dropped: Counter[str] = field(default_factory=Counter)
    """How often a database was not taken back, by what was found in it."""

    def __post_init__(self) -> None:
        self._free: dict[str, deque[PooledDatabase]] = {shape.name: deque() for shape in self.shapes}
        self._contents: dict[str, Contents] = {}
        self._fingerprints: dict[str, Fingerprint] = {}
        self._primary = LastingSession(self.servers.primary)
        self._replica = LastingSession(self.servers.replica)
        for shape in self.shapes:
            with self._connect(self.templates[shape.name]) as connection:
                self._contents[shape.name] = read_contents(connection)
                self._fingerprints[shape.name] = read_local(connection)

    @contextmanager
    def borrow(self, prefix: str | None = None) -> Iterator[Mapping[str, str]]:
        """Lend a database of each shape, visible on the replica as well; give their names.

        Parameters:
            prefix: of the names, which no borrower before may have had; None for one that is made up.
        """
        prefix = prefix or f"t{next(_NUMBERS)}"
        names = {shape.name: f"{prefix}_{shape.name}" for shape in self.shapes}
        server, replica = self._primary.get(), self._replica.get()
        lent = [self._find(server, shape, names[shape.name]) for shape in self.shapes]
        self.servers.wait_for_replay(server, replica)
        # Who connected there again before it knew the new name.
        _end_sessions(replica, [database.oid for database in lent])
        try:
            yield names
        finally:
            self._take_back(self._primary.get(), lent)

    def drop_all(self) -> None:
        """Drop what nobody has borrowed."""
        server = self._primary.get()
        for free in self._free.values():
            while free:
                drop(server, self.servers, free.pop().oid)

    def close(self) -> None:
        """End the pool's own sessions; its databases end with the servers."""
        self._primary.close()
        self._replica.close()

    def _find(self, server: psycopg.Connection, shape: DatabaseShape, name: str) -> PooledDatabase:
        free = self._free[shape.name]
        if not free:
            return self._clone(server, shape, name)
        database = free.popleft()
        _rename(server, database, name)
        database.use = _use(server, database)
        return database

    def _clone(self, server: psycopg.Connection, shape: DatabaseShape, name: str) -> PooledDatabase:
        # FILE_COPY: with fsync off its checkpoints cost nothing, and the replica has little to replay.
        clone = sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {} STRATEGY file_copy")
        words = (name, self.templates[shape.name], shape.owner)
        server.execute(clone.format(*map(sql.Identifier, words)))
        # A clone does not get its template's rights on the database itself.
        grant_connect(server, name, shape.services)
        [oid] = server.execute("SELECT oid FROM pg_database WHERE datname = %s", [name]).fetchone() or [0]
        return PooledDatabase(shape, oid, name, read_shared(server, oid), self._fingerprints[shape.name])

    def _take_back(self, server: psycopg.Connection, lent: list[PooledDatabase]) -> None:
        oids = [database.oid for database in lent]
        _end_sessions(self._replica.get(), oids)
        _end_sessions(server, oids)
        _reset_roles(server)
        for database in lent:
            found = self._judge(server, database)
            if found:
                self.dropped.update(found)
                drop(server, self.servers, database.oid)
            else:
                self._free[database.shape.name].append(database)

    def _judge(self, server: psycopg.Connection, database: PooledDatabase) -> list[str]:
        """Clean a database; name what makes that impossible."""
        shared = read_shared(server, database.oid)
        if shared is None or shared != database.shared:
            return ["shared catalogs"]
        # Out of reach of whoever knows its name, before anybody looks at what is in it.
        _rename(server, database, f"free_{database.oid}")
        if database.use is not None and database.use == _use(server, database):
            return []
        try:
            with self._connect(database.name) as connection:
                return self._clean(connection, database)
        except psycopg.Error as error:
            return [type(error).__name__]

    def _clean(self, connection: psycopg.Connection, database: PooledDatabase) -> list[str]:
        found = differences(database.local, read_local(connection))
        if not found:
            if restore(connection, self._contents[database.shape.name]):
                database.local = read_local(connection)
            # A clone begins without any; and `_use` is told apart by the time of this.
            connection.execute("SELECT pg_stat_reset()")
        return found

    def _connect(self, dbname: str) -> psycopg.Connection:
        return psycopg.connect(self.servers.conninfo(dbname), autocommit=True, application_name="pool")


def drop(server: psycopg.Connection, servers: PostgresServers, oid: int) -> None:
    """Drop a database with what would keep it from being dropped; nothing when there is none."""
    name = _name(server, oid)
    if name is None:
        return
    identifier = sql.Identifier(name)
    server.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true CONNECTION LIMIT -1").format(identifier))
    with psycopg.connect(servers.conninfo(name), autocommit=True) as inside:
        for (gid,) in inside.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"):
            inside.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
        for (subscription,) in inside.execute(
            "SELECT subname FROM pg_subscription WHERE subdbid = %s", [oid]
        ):
            # Without its slot, which is another server's business.
            for end in ("ALTER SUBSCRIPTION {} DISABLE", "ALTER SUBSCRIPTION {} SET (slot_name = NONE)"):
                inside.execute(sql.SQL(end).format(sql.Identifier(subscription)))
            inside.execute(sql.SQL("DROP SUBSCRIPTION {}").format(sql.Identifier(subscription)))
        inside.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
            " WHERE database = current_database()"
        )
    server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(identifier))


def _name(server: psycopg.Connection, oid: int) -> str | None:
    row = server.execute("SELECT datname FROM pg_database WHERE oid = %s", [oid]).fetchone()
    return row[0] if row else None


def _rename(server: psycopg.Connection, database: PooledDatabase, name: str) -> None:
    rename = sql.SQL("ALTER DATABASE {} RENAME TO {}").format(*map(sql.Identifier, (database.name, name)))

    def renamed() -> bool:
        # Refused while anybody is connected: somebody may have come between.
        _end_sessions(server, [database.oid])
        try:
            server.execute(rename)
        except psycopg.errors.ObjectInUse:
            return False
        return True

    if not wait_until(renamed, timeout_seconds=60):
        raise TimeoutError(f"{database.name} is never without a session")
    database.name = name


def _end_sessions(server: psycopg.Connection, oids: list[int]) -> None:
    """End every session of some databases, and return when none is left."""
    end = (
        "SELECT pg_terminate_backend(pid, 20000) FROM pg_stat_activity"
        " WHERE datid = ANY(%s) AND pid <> pg_backend_pid()"
    )
    if not wait_until(
        lambda: not server.execute(end, [oids]).rowcount, timeout_seconds=60, every_seconds=0.001
    ):
        raise TimeoutError(f"sessions of databases {oids} do not end")


def _reset_roles(server: psycopg.Connection) -> None:
    """Take back `ALTER ROLE ... SET`, which holds in every database; no role has a setting otherwise."""
    query = "SELECT setrole::regrole::text FROM pg_db_role_setting WHERE setdatabase = 0"
    for (role,) in server.execute(query):
        server.execute(f"ALTER ROLE {role} RESET ALL".encode())


def _use(server: psycopg.Connection, database: PooledDatabase) -> tuple[object, ...] | None:
    """Give the number of sessions that a database has had since when; None after a crash, which forgets it.

    A session that has ended is in it: it is counted before it leaves pg_stat_activity.
    """
    query = "SELECT sessions, stats_reset FROM pg_stat_database WHERE datid = %s AND stats_reset IS NOT NULL"
    return server.execute(query, [database.oid]).fetchone()
