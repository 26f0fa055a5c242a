"""The files of the pooler as text: pgbouncer.ini, the HBA and the userlist. Pure, and the same each time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ops.pgbouncer.plan import ServerPlan, SizedPool, explain
from ops.pgbouncer.versions import PEERS, PREPARED_STATEMENTS, Version
from sharding.topology import PgBouncer

INI = "pgbouncer.ini"
HBA = "hba.conf"
USERLIST = "userlist.txt"
PREPARED_PER_CONNECTION = 200

Settings = dict[str, str]


@dataclass(frozen=True)
class Wanted:
    """All that decides what the pooler should be."""

    section: PgBouncer
    version: Version
    plans: tuple[ServerPlan, ...]

    @property
    def pools(self) -> list[SizedPool]:
        """Every pool, by the name of its entry."""
        pools = (sized for plan in self.plans for sized in plan.pools)
        return sorted(pools, key=lambda sized: sized.pool.entry)


def settings_of(wanted: Wanted) -> Settings:
    """Give the settings that `check` can compare: all but the places of files."""
    section = wanted.section
    settings = {
        "listen_addr": section.listen or section.host,
        "listen_port": str(section.port),
        "auth_type": "hba",
        "admin_users": section.admin,
        "pool_mode": "transaction",
        "max_client_conn": str(section.max_client_connections),
        "reserve_pool_size": "0",
        "ignore_startup_parameters": ",".join(section.ignore_startup_parameters),
        "server_idle_timeout": _seconds(section.server_idle_seconds),
        "server_lifetime": _seconds(section.server_lifetime_seconds),
        "query_wait_timeout": _seconds(section.query_wait_seconds),
        "idle_transaction_timeout": _seconds(section.idle_transaction_seconds),
        "client_login_timeout": _seconds(section.client_login_seconds),
        # The default of 15 s would add itself to every restart of a server.
        "server_login_retry": "1",
    }
    if wanted.version >= PREPARED_STATEMENTS:
        settings["max_prepared_statements"] = str(PREPARED_PER_CONNECTION)
    if section.processes > 1:
        settings["so_reuseport"] = "1"
    return settings


def render(wanted: Wanted, secrets: Mapping[str, str], *, folder: Path) -> dict[str, str]:
    """Write every file of the pooler.

    Parameters:
        wanted: what the pooler should be.
        secrets: the SCRAM secret or password of each role.
        folder: where the files will stand; the ini names them by it.

    Returns:
        The text of each file by its name.
    """
    return {
        **_inis(wanted, folder),
        HBA: _hba(wanted),
        USERLIST: "".join(f"{_quoted(role)} {_quoted(secrets[role])}\n" for role in sorted(secrets)),
    }


def socket_dir(section: PgBouncer, number: int) -> str:
    """Name the folder of the socket of one of several processes."""
    return f"{section.socket_dir}/{number}"


def _inis(wanted: Wanted, folder: Path) -> dict[str, str]:
    """Write a whole ini for each process: a second [pgbouncer] behind an %include would undo the first."""
    section = wanted.section
    if section.processes == 1:
        return {INI: _ini(wanted, folder, {"unix_socket_dir": section.socket_dir or ""})}
    texts: dict[str, str] = {}
    for number in range(1, section.processes + 1):
        own = {"unix_socket_dir": socket_dir(section, number)}
        if wanted.version >= PEERS:
            own["peer_id"] = str(number)
        texts[f"pgbouncer-{number}.ini"] = _ini(wanted, folder, own)
    return texts


def _ini(wanted: Wanted, folder: Path, own: Settings) -> str:
    files = {"auth_file": str(folder / USERLIST), "auth_hba_file": str(folder / HBA)}
    settings = {**settings_of(wanted), **files, **own}
    lines = [
        f"; Written by `mesctl pgbouncer render` for PgBouncer {wanted.version}; the next one overwrites it.",
        "; Connections of each server, and of each process of the pooler:",
        *(f"; {line}" for line in explain(wanted.plans)),
        "",
        "[databases]",
        *(_entry(sized) for sized in wanted.pools),
        "",
        "[pgbouncer]",
        *(f"{key} = {value}".rstrip() for key, value in settings.items()),
        *_peers(wanted),
    ]
    return "\n".join(lines) + "\n"


def _entry(sized: SizedPool) -> str:
    size = sized.size
    return (
        f"{sized.pool.entry} = host={sized.server.host} port={sized.server.port} dbname={sized.dbname} "
        f"pool_size={size} max_db_connections={size}"
    )


def _peers(wanted: Wanted) -> Sequence[str]:
    section = wanted.section
    if section.processes == 1:
        return ()
    if wanted.version < PEERS:
        return (
            f"; {wanted.version} has no peers: a cancel request reaches its query only when it happens to "
            f"come to the right one of {section.processes} processes.",
        )
    numbers = range(1, section.processes + 1)
    peers = (f"{number} = host={socket_dir(section, number)} port={section.port}" for number in numbers)
    return ("", "[peers]", *peers)


def _hba(wanted: Wanted) -> str:
    section = wanted.section
    rights = [("pgbouncer", section.admin)]
    rights += [(f'"{sized.pool.entry}"', sized.pool.role) for sized in wanted.pools]
    lines = ["# Written by `mesctl pgbouncer render`: each role to its own pools, and nobody else."]
    if section.socket_dir:
        lines.append(f"local pgbouncer {section.admin} scram-sha-256")
    lines += [
        f"host {entry} {role} {network} scram-sha-256"
        for entry, role in rights
        for network in section.clients
    ]
    return "\n".join(lines) + "\n"


def _quoted(word: str) -> str:
    doubled = word.replace('"', '""')
    return f'"{doubled}"'


def _seconds(seconds: float) -> str:
    return f"{seconds:g}"
