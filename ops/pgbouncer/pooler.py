"""The pooler of a topology: what it should be, its files and its consoles, and the servers behind it."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
from psycopg import sql
from sqlalchemy import URL

from ops.connect import connected
from ops.pgbouncer.admin import Console, ConsoleAddress
from ops.pgbouncer.check import PoolerFinding, RunningPooler, compare
from ops.pgbouncer.errors import NoPooler, PasswordMissing, ServerSilent, UnknownPool
from ops.pgbouncer.files import existing_secrets
from ops.pgbouncer.plan import Server, ServerLimits, named, plan_pools, servers_of
from ops.pgbouncer.render import PoolerConfig, render, socket_dir
from ops.pgbouncer.userlist import (
    StoredSecrets,
    common_secrets,
    kept_secret,
    make_secret,
    password_for,
    unequal_roles,
)
from ops.pgbouncer.versions import Version, ask_version, find_program, parse_version
from readreplica.errors import one_line
from sharding.topology import PgBouncer, ServicePool, Topology, pools_of

# reserved_connections came with PostgreSQL 16; current_setting(..., true) is NULL before.
_LIMITS = """
    SELECT current_setting('max_connections')::int,
           current_setting('superuser_reserved_connections')::int,
           coalesce(current_setting('reserved_connections', true)::int, 0)
"""

_SECRETS = "SELECT rolname, rolpassword FROM pg_authid WHERE rolname = ANY(%s)"


class Servers:
    """The servers of a topology, past the pooler.

    Parameters:
        topology: where they are.
        pools: the pools to each server, with the name of the database there.
        superuser: the role that reads secrets, and needs no more than pg_authid.
    """

    def __init__(
        self, topology: Topology, pools: dict[Server, list[tuple[ServicePool, str]]], *, superuser: str
    ) -> None:
        self._topology = topology
        self._pools = pools
        self._superuser = superuser

    def limits(self, server: Server) -> ServerLimits:
        """Ask a server for its limits, as the first role of its pools that can log in.

        Raises:
            ServerSilent: it answers none of them.
        """
        *others, last = dict.fromkeys(pool.role for pool, _ in self._pools[server])
        for role in others:
            with suppress(ServerSilent):
                return self._limits(server, role)
        return self._limits(server, last)

    def _limits(self, server: Server, role: str) -> ServerLimits:
        with self._connect(server, role) as connection:
            [row] = connection.execute(_LIMITS).fetchall()
        return ServerLimits(*row)

    def secrets(self, server: Server, roles: Iterable[str]) -> dict[str, str | None]:
        """Read the stored secrets of roles.

        Raises:
            ServerSilent: it does not answer, or does not let the superuser read them.
        """
        with self._connect(server, self._superuser) as connection:
            return dict(connection.execute(_SECRETS, [sorted(roles)]).fetchall())

    def set_secret(self, server: Server, role: str, secret: str) -> None:
        """Store a secret for a role; the password that it was made of still logs in.

        Raises:
            ServerSilent: it does not answer, or refuses.
        """
        with self._connect(server, self._superuser) as connection:
            change = sql.SQL("ALTER ROLE {} PASSWORD {}")
            connection.execute(change.format(sql.Identifier(role), sql.Literal(secret)))

    def url(self, server: Server, role: str) -> URL:
        """Return the URL of a server for a role."""
        own = [pool for pool, _ in self._pools[server]]
        # The role's own database, where it has one: another may refuse it.
        pool = next((pool for pool in own if pool.role == role), own[0])
        return self._topology.url(pool.database, role=role, replica=pool.replica, direct=True)

    @contextmanager
    def _connect(self, server: Server, role: str) -> Iterator[psycopg.Connection]:
        url = self.url(server, role)
        words = {key: str(value) for key, value in url.query.items()}
        try:
            with connected(
                host=url.host,
                port=url.port,
                dbname=url.database,
                user=url.username,
                password=url.password,
                application_name="mesctl pgbouncer",
                **words,  # passfile, which libpq reads
            ) as connection:
                yield connection
        except psycopg.Error as error:
            raise ServerSilent(named(server, self._pools[server]), role=role, said=one_line(error)) from error


class Pooler:
    """The pooler that a topology describes.

    Parameters:
        topology: has a section [pgbouncer].
        superuser: the role that reads and stores the secrets of roles.

    Raises:
        NoPooler: it has none.
    """

    def __init__(self, topology: Topology, *, superuser: str = "postgres") -> None:
        if topology.pgbouncer is None:
            raise NoPooler(topology.path.name)
        self.topology = topology
        self.section: PgBouncer = topology.pgbouncer
        self.servers = servers_of(topology)
        self._ask = Servers(topology, self.servers, superuser=superuser)

    def version(self, requested: str | None = None) -> Version:
        """Return the version to write for: the requested one, else the topology's, else the program's.

        Raises:
            UnknownVersion: none of them has one.
        """
        said = requested or self.section.version
        return parse_version(said) if said else ask_version(find_program())

    def config(self, version: Version, *, max_connections: int | None = None) -> PoolerConfig:
        """Work out what the pooler should be.

        Parameters:
            version: of PgBouncer.
            max_connections: of every server; without it, each is asked.

        Raises:
            ServerSilent: a server does not answer.
            PoolsDoNotFit: a server has not enough connections.
        """
        limits = {
            server: ServerLimits(max_connections) if max_connections is not None else self._ask.limits(server)
            for server in self.servers
        }
        plans = plan_pools(
            self.servers,
            limits,
            reserve=self.section.reserve_connections,
            processes=self.section.processes,
        )
        return PoolerConfig(self.section, version, tuple(plans))

    def files(self, wanted: PoolerConfig, folder: Path) -> dict[str, str]:
        """Return the text of every file.

        Raises:
            ServerSilent: a server does not answer, or refuses.
            SecretsDiffer, SecretUnusable, PasswordMissing: a role cannot log in through the pooler.
        """
        standing = existing_secrets(folder)
        admin = self.section.admin
        secrets = self._role_secrets()
        secrets[admin] = kept_secret(standing.get(admin), admin, self._admin_password())
        return render(wanted, secrets, folder=folder.resolve())

    def _role_secrets(self) -> dict[str, str]:
        if self.section.secrets == "plain":
            return {
                role: self._password(role, servers[0]) for role, servers in self._servers_of_roles().items()
            }
        return common_secrets(self.found_secrets())

    def found_secrets(self) -> StoredSecrets:
        """Read the secret of each role on each primary where it has a pool: a replica has its primary's."""
        roles = self._servers_of_roles()
        read = {
            server: self._ask.secrets(server, roles)
            for server in sorted({server for servers in roles.values() for server in servers})
        }
        return {
            role: {server: read[server].get(role) for server in servers} for role, servers in roles.items()
        }

    def equalise(self, *, dry_run: bool) -> dict[str, list[Server]]:
        """Store one SCRAM secret for every role that has several; its password stays what it is.

        Returns:
            The servers of each role that was changed, or would be.

        Raises:
            ServerSilent: a server does not answer, or refuses.
            PasswordMissing: a role's password is not known here.
        """
        roles = self._servers_of_roles()
        unequal = {role: roles[role] for role in unequal_roles(self.found_secrets())}
        secrets = {role: make_secret(role, self._password(role, at[0])) for role, at in unequal.items()}
        for role, servers in unequal.items():
            for server in () if dry_run else servers:
                self._ask.set_secret(server, role, secrets[role])
        return unequal

    def _servers_of_roles(self) -> dict[str, list[Server]]:
        found: dict[str, set[Server]] = {}
        for server, pools in self.servers.items():
            for pool, _ in pools:
                if pool.replica is None:
                    found.setdefault(pool.role, set()).add(server)
        return {role: sorted(servers) for role, servers in sorted(found.items())}

    def _password(self, role: str, server: Server) -> str:
        password = password_for(self._ask.url(server, role))
        if password is None:
            raise PasswordMissing(role)
        return password

    def _admin_password(self) -> str:
        """Look the console's password up as libpq would: by the pooler's host, port and database."""
        query: Mapping[str, str] = {}
        if self.topology.passfile:
            query = {"passfile": str(self.topology.path.parent / self.topology.passfile)}
        role = self.section.admin
        url = URL.create(
            "postgresql", role, None, self.section.host, self.section.port, "pgbouncer", dict(query)
        )
        password = self.topology.password(role) or password_for(url)
        if password is None:
            raise PasswordMissing(role)
        return password

    def consoles(self) -> list[Console]:
        """Return the console of each process of the pooler."""
        section, password = self.section, self._admin_password()
        hosts = [section.host]
        if section.processes > 1:
            hosts = [socket_dir(section, number) for number in range(1, section.processes + 1)]
        return [Console(ConsoleAddress(host, section.port, section.admin, password)) for host in hosts]

    def check(self, wanted: PoolerConfig) -> list[PoolerFinding]:
        """Compare every process that runs with what it should be.

        Raises:
            ConsoleSilent: one does not answer.
        """
        return [finding for console in self.consoles() for finding in compare(wanted, inspect(console))]

    def entries(self, name: str | None) -> list[str]:
        """List the entries that lead to a database's primary, or to a replica; without a name, all.

        Raises:
            UnknownPool: none does.
        """
        pools = pools_of(self.topology)
        found = sorted(pool.entry for pool in pools if name in (None, pool.node, pool.entry))
        if not found:
            raise UnknownPool(str(name), sorted({pool.node for pool in pools}))
        return found


def inspect(console: Console) -> RunningPooler:
    """Ask a console for all that `compare` looks at."""
    [version] = console.show("VERSION")
    return RunningPooler(
        str(console.address),
        parse_version(str(version["version"])),
        *(console.show(what) for what in ("CONFIG", "DATABASES", "POOLS", "USERS")),
    )
