"""What the PostgreSQL servers behind the pooler say of themselves: their limits, and the secrets of roles."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import psycopg
from psycopg import sql
from sqlalchemy import URL

from ops.connect import connected
from ops.pgbouncer.errors import ServerSilent
from ops.pgbouncer.plan import Limits, Server, named
from sharding.topology import ServicePool, Topology

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

    def limits(self, server: Server) -> Limits:
        """Ask a server for its limits, as the first role of its pools that can log in.

        Raises:
            ServerSilent: it answers none of them.
        """
        *others, last = dict.fromkeys(pool.role for pool, _ in self._pools[server])
        for role in others:
            with suppress(ServerSilent):
                return self._limits(server, role)
        return self._limits(server, last)

    def _limits(self, server: Server, role: str) -> Limits:
        with self._connect(server, role) as connection:
            [row] = connection.execute(_LIMITS).fetchall()
        return Limits(*row)

    def secrets(self, server: Server, roles: Iterable[str]) -> dict[str, str | None]:
        """Read the stored secrets of roles.

        Raises:
            ServerSilent: it does not answer, or does not let the superuser read them.
        """
        with self._connect(server, self._superuser) as connection:
            return dict(connection.execute(_SECRETS, [sorted(roles)]).fetchall())

    def set_secret(self, server: Server, role: str, secret: str) -> None:
        """Store a secret for a role; whoever knows the password that it was made of still logs in.

        Raises:
            ServerSilent: it does not answer, or refuses.
        """
        with self._connect(server, self._superuser) as connection:
            change = sql.SQL("ALTER ROLE {} PASSWORD {}")
            connection.execute(change.format(sql.Identifier(role), sql.Literal(secret)))

    def url(self, server: Server, role: str) -> URL:
        """Give the URL of a server for a role."""
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
            raise ServerSilent(
                named(server, self._pools[server]), role=role, said=" ".join(str(error).split())
            ) from error
