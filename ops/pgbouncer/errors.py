"""What can go wrong with the pooler, and what to do about it."""

from collections.abc import Sequence

from ops.errors import ExitStatus, OpsError


class PgBouncerError(OpsError):
    """Base of the errors of `mesctl pgbouncer`."""


class NoPooler(PgBouncerError):
    """The topology has no section [pgbouncer]."""

    exit_status = ExitStatus.USAGE

    def __init__(self, topology: str) -> None:
        self.topology = topology
        super().__init__(f"{topology} has no pooler: add a section [pgbouncer] with host and port")


class UnknownVersion(PgBouncerError):
    """The version of PgBouncer to write for is not known."""

    exit_status = ExitStatus.USAGE

    def __init__(self, said: str) -> None:
        self.said = said
        super().__init__(
            f"PgBouncer's version is not known ({said}): give --for-version, or set pgbouncer.version in the "
            "topology"
        )


class PoolsDoNotFit(PgBouncerError):
    """A server has fewer connections than its pools need."""

    exit_status = ExitStatus.REFUSED

    def __init__(self, server: str, *, arithmetic: str, needed: str) -> None:
        self.server = server
        self.arithmetic = arithmetic
        super().__init__(
            f"the pools of {server} do not fit: {arithmetic}; {needed}. Raise max_connections there, or "
            "lower pgbouncer.reserve_connections, pgbouncer.processes or a pool_size in the topology"
        )


class ServerSilent(PgBouncerError):
    """A server does not answer a query about its limits or secrets."""

    def __init__(self, server: str, *, role: str, said: str) -> None:
        self.server = server
        super().__init__(
            f"{server} does not answer {role} ({said}): start it, or give --max-connections and "
            'pgbouncer.secrets = "plain", which need no look at the servers'
        )


class RoleUnusable(PgBouncerError):
    """Base of the reasons why a role cannot log in through the pooler."""

    exit_status = ExitStatus.REFUSED

    def __init__(self, role: str, message: str) -> None:
        self.role = role
        super().__init__(message)


class SecretsDiffer(RoleUnusable):
    """One role has several SCRAM secrets, and a userlist has one line for a role."""

    def __init__(self, role: str, servers: Sequence[str]) -> None:
        self.servers = tuple(servers)
        super().__init__(
            role,
            f"role {role} has not the same SCRAM secret on {', '.join(servers)}, and PgBouncer can log in "
            "only where it is the same to the salt: `mesctl pgbouncer secrets` gives one to all (no password "
            "changes), "
            'or set pgbouncer.secrets = "plain" in the topology',
        )


class SecretUnusable(RoleUnusable):
    """A role's password cannot be used by the pooler."""

    def __init__(self, role: str, where: str, why: str) -> None:
        fix = "set its password there with password_encryption = 'scram-sha-256'"
        super().__init__(role, f"role {role} {why} on {where}: {fix}")


class PasswordMissing(RoleUnusable):
    """The password of a role is not known."""

    def __init__(self, role: str) -> None:
        super().__init__(
            role,
            f"no password of role {role}: add a line to the topology's passfile, or set "
            f"MES_STORAGE_PASSWORD_{role.upper()}",
        )


class ConsoleSilent(PgBouncerError):
    """The admin console cannot be reached, or refuses."""

    def __init__(self, place: str, said: str) -> None:
        self.place = place
        super().__init__(
            f"PgBouncer's console on {place} does not answer: {said}. Start the pooler, or look at "
            "pgbouncer.admin and its password"
        )


class UnknownPool(PgBouncerError):
    """The pooler has no pool for this database."""

    exit_status = ExitStatus.USAGE

    def __init__(self, name: str, known: Sequence[str]) -> None:
        self.name = name
        super().__init__(f"no pool leads to {name!r}: there are pools to {', '.join(known) or 'nothing'}")


class PauseTimedOut(PgBouncerError):
    """Open transactions did not end in time; the pools were resumed."""

    def __init__(self, entries: Sequence[str], timeout_seconds: float) -> None:
        self.entries = tuple(entries)
        super().__init__(
            f"{', '.join(entries)} did not come to rest within {timeout_seconds:g} s and was resumed: "
            "end the open transactions (pg_stat_activity, state 'idle in transaction'), or give more time"
        )


class CommandRefused(PgBouncerError):
    """PgBouncer refused a command of its console."""

    def __init__(self, command: str, place: str, said: str) -> None:
        self.command = command
        super().__init__(f"PgBouncer on {place} refused {command}: {said}")


class Differences(PgBouncerError):
    """The running pooler is not what the topology asks for."""

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(f"{count} finding{'s' if count > 1 else ''}: see above")
