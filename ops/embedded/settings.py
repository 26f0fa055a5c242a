"""The settings of an embedded PostgreSQL server, and the file in its data folder that holds them."""

from collections.abc import Mapping
from pathlib import Path

from ops.ports import LOOPBACK

OWN_FILE = "platform.conf"

USUAL: Mapping[str, str] = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "shared_buffers": "32MB",
    "max_connections": "200",
    "wal_level": "logical",
    "max_prepared_transactions": "64",
    "hot_standby_feedback": "on",
    # A replica that finds its primary gone asks again after this; the default of 5 s is long on one machine.
    "wal_retrieve_retry_interval": "500ms",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}

UNSAFE: Mapping[str, str] = {"fsync": "off", "full_page_writes": "off"}
"""For tests: nothing waits for the disk, and a power cut loses the cluster."""


def include_own_settings(data: Path) -> None:
    """Let the server read `OWN_FILE` after everything that initdb wrote."""
    with (data / "postgresql.conf").open("a") as settings:
        settings.write(f"\ninclude '{OWN_FILE}'  # written by mesctl\n")


def write_own_settings(data: Path, settings: Mapping[str, str]) -> None:
    """Write the usual settings, overridden by `settings`; they hold from the server's next start."""
    lines = [f"{key} = {quoted(value)}\n" for key, value in {**USUAL, **settings}.items()]
    (data / OWN_FILE).write_text("".join(lines))


def quoted(value: str) -> str:
    """Quote a value for postgresql.conf, where a backslash begins an escape."""
    escaped = value.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"


def access_line(database: str, roles: tuple[str, ...], *, host: str = LOOPBACK) -> str:
    """Give a line of pg_hba.conf: `roles` may connect to `database`, from this machine, with a password.

    Parameters:
        host: the address at which the server listens.
    """
    return f"host {database} {','.join(roles)} {_clients_of(host)} scram-sha-256"


def _clients_of(host: str) -> str:
    """Return the addresses from which a client on this machine may come to `host`."""
    if host == LOOPBACK:
        return f"{LOOPBACK}/32"
    # Beside 127.0.0.1, the kernel chooses which of 127.0.0.0/8 a connection comes from.
    return f"{host}/128" if ":" in host else "127.0.0.0/8"
