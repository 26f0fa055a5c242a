"""The pooler of a topology, put together: what it should be, its files, and its consoles."""

from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import URL

from ops.pgbouncer.admin import Console, Place
from ops.pgbouncer.check import Finding, Running, compare
from ops.pgbouncer.errors import NoPooler, PasswordMissing, UnknownPool
from ops.pgbouncer.files import standing_secrets
from ops.pgbouncer.passwords import password_for
from ops.pgbouncer.plan import Limits, Server, plan_pools, servers_of
from ops.pgbouncer.render import Wanted, render, socket_dir
from ops.pgbouncer.scram import make_secret
from ops.pgbouncer.servers import Servers
from ops.pgbouncer.userlist import Found, common_secrets, kept_secret, unequal_roles
from ops.pgbouncer.versions import Version, ask_version, find_program, parse_version
from sharding.topology import PgBouncer, Topology, pools_of


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

    def version(self, told: str | None = None) -> Version:
        """Tell for which version to write: what was told, else the topology's, else the program's.

        Raises:
            UnknownVersion: nobody says.
        """
        said = told or self.section.version
        return parse_version(said) if said else ask_version(find_program())

    def wanted(self, version: Version, *, max_connections: int | None = None) -> Wanted:
        """Work out what the pooler should be.

        Parameters:
            version: of PgBouncer.
            max_connections: of every server; without it, each is asked.

        Raises:
            ServerSilent: a server does not answer.
            PoolsDoNotFit: a server has not enough connections.
        """
        limits = {
            server: Limits(max_connections) if max_connections is not None else self._ask.limits(server)
            for server in self.servers
        }
        plans = plan_pools(
            self.servers,
            limits,
            reserve=self.section.reserve_connections,
            processes=self.section.processes,
        )
        return Wanted(self.section, version, tuple(plans))

    def files(self, wanted: Wanted, folder: Path) -> dict[str, str]:
        """Give the text of every file.

        Raises:
            ServerSilent: a server does not tell its secrets.
            SecretsDiffer, SecretUnusable, PasswordMissing: a role cannot log in through the pooler.
        """
        standing = standing_secrets(folder)
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

    def found_secrets(self) -> Found:
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
        """Give one SCRAM secret to every role that has several; its password stays what it is.

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
        """Give the console of each process of the pooler."""
        section, password = self.section, self._admin_password()
        hosts = [section.host]
        if section.processes > 1:
            hosts = [socket_dir(section, number) for number in range(1, section.processes + 1)]
        return [Console(Place(host, section.port, section.admin, password)) for host in hosts]

    def check(self, wanted: Wanted) -> list[Finding]:
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


def inspect(console: Console) -> Running:
    """Ask a console for all that `compare` looks at."""
    [version] = console.show("VERSION")
    return Running(
        str(console.place),
        parse_version(str(version["version"])),
        *(console.show(what) for what in ("CONFIG", "DATABASES", "POOLS", "USERS")),
    )
