"""One PostgreSQL cluster on loopback: created, configured, started and stopped."""

import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg

from ops.connect import ServerUnresponsive, connected
from ops.embedded.errors import ClusterSilent, CommandFailed, StartFailed, StopFailed
from ops.embedded.processes import end_processes_naming, is_alive, last_lines, resume, send_signal, size_of
from ops.embedded.programs import PostgresTools
from ops.ports import LOOPBACK, PortTaken, holder_of, is_free
from ops.waiting import wait_until

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


REPLICATOR = "replicator"

SUPERUSER = "postgres"


def include_own_settings(data: Path) -> None:
    """Include `OWN_FILE` behind everything that initdb wrote to postgresql.conf."""
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
    """Return a line of pg_hba.conf: `roles` may connect to `database`, from this machine, with a password.

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


class PostgresCluster:
    """A cluster, known by its data folder. Nothing is remembered: what runs is read from postmaster.pid."""

    def __init__(
        self,
        name: str,
        *,
        tools: PostgresTools,
        data: Path,
        log: Path,
        passfile: Path,
        host: str = LOOPBACK,
    ) -> None:
        self.name = name
        self.host = host
        self.data = data
        self.log = log
        self.passfile = passfile
        self._tools = tools

    @property
    def partial(self) -> Path:
        """Where the data folder stands until it is complete."""
        return self.data.with_name(f"{self.data.name}.partial")

    def exists(self) -> bool:
        """Whether there is a complete data folder."""
        return self.data.exists()

    def create(self, *, superuser_password: str, safe: bool = True) -> None:
        """Make the data folder. A kill midway leaves only the partial folder.

        Parameters:
            safe: wait until the disk has it.

        Raises:
            CommandFailed: initdb failed.
        """
        self.data.parent.mkdir(parents=True, exist_ok=True)
        password_file = self.partial.with_suffix(".password")
        password_file.touch(mode=0o600)
        password_file.write_text(superuser_password)
        options = ["-D", str(self.partial), "-U", SUPERUSER, "-E", "UTF8", "--auth=scram-sha-256"]
        options += ["--pwfile", str(password_file), *self._tools.locale_options()]
        options += [] if safe else ["--no-sync"]
        try:
            self._tools.run("initdb", *options, timeout_seconds=120)
        finally:
            password_file.unlink(missing_ok=True)
        include_own_settings(self.partial)
        self.partial.rename(self.data)

    def remove_partial(self) -> bool:
        """Remove what a killed run left half made; False when there is nothing."""
        if not self.partial.exists():
            return False
        # The killed run's initdb or pg_basebackup may be at work in it still.
        end_processes_naming(self.partial)
        wait_until(lambda: _removed(self.partial), timeout_seconds=5)
        return True

    def configure(
        self, *, port: int, access: Sequence[str], settings: Mapping[str, str] | None = None
    ) -> None:
        """Write the settings and the access rules; they hold from the next start.

        Parameters:
            access: lines of pg_hba.conf.
            settings: beside the usual ones.
        """
        own = {"listen_addresses": self.host, "port": str(port), "cluster_name": self.name}
        write_own_settings(self.data, own | dict(settings or {}))
        self._access_file.write_text(_lines(access))

    @property
    def _access_file(self) -> Path:
        return self.data / "pg_hba.conf"

    def allow(self, access: Sequence[str], *, timeout_seconds: float = 10.0) -> bool:
        """Load these lines of pg_hba.conf into the running server; return False when it has them already.

        Raises:
            CommandFailed: it does not read them.
        """
        if self._access_file.read_text() == _lines(access):
            return False
        before = self._loaded_at()
        self._access_file.write_text(_lines(access))
        self.reload()
        if not wait_until(lambda: self._loaded_at() != before, timeout_seconds=timeout_seconds):
            raise CommandFailed("postgres", "pg_hba.conf was not read again", self.name)
        return True

    def _loaded_at(self) -> object:
        # Of a new session: it goes by what the postmaster has read when it began.
        with self.connect() as connection:
            return connection.execute("SELECT pg_conf_load_time()").fetchone()

    def start(self, *, port: int, timeout_seconds: float = 60.0) -> bool:
        """Start the server, configured for `port`, and wait until it is ready; False when it ran already.

        Raises:
            PortTaken: another program listens on `port`.
            StartFailed: the server ended, or was not ready in time.
        """
        if self.pid() is not None:
            return False
        if not is_free(port, self.host):
            raise PortTaken(self.name, port, holder_of(port))
        self._clear_after_crash()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        log_start = size_of(self.log)
        try:
            self._pg_ctl_start(timeout_seconds)
        except CommandFailed as error:
            said = last_lines(self.log, from_byte=log_start)
            if "Address already in use" in said:
                raise PortTaken(self.name, port, holder_of(port)) from error
            raise StartFailed(self.name, str(error), self.log, said) from error
        return True

    def _pg_ctl_start(self, timeout_seconds: float) -> None:
        wait = ["--wait", "--timeout", str(int(timeout_seconds))]
        arguments = ["start", "-D", str(self.data), "--log", str(self.log), *wait]
        self._tools.run("pg_ctl", *arguments, timeout_seconds=timeout_seconds + 5)

    def stop(self, *, timeout_seconds: float = 30.0) -> bool:
        """Stop the server: sessions end, nothing is lost. False when it did not run.

        Raises:
            StopFailed: it runs still, even after an immediate shutdown.
        """
        pid = self.pid()
        if pid is None:
            return False
        # SIGINT is a fast shutdown, SIGQUIT an immediate one (recovery at the next start).
        for shutdown in (signal.SIGINT, signal.SIGQUIT):
            send_signal(pid, shutdown)
            resume(pid)
            if wait_until(lambda: not is_alive(pid), timeout_seconds=timeout_seconds):
                return True
        raise StopFailed(self.name, pid, 2 * timeout_seconds)

    def settle(self, *, timeout_seconds: float = 60.0) -> bool:
        """Wait until a server that is starting is ready, or one that is stopping has stopped.

        For what a killed mesctl has begun.

        Returns:
            whether the server runs.
        """
        wait_until(lambda: self.pid() is None or self._status() == "ready", timeout_seconds=timeout_seconds)
        return self.pid() is not None

    def reload(self) -> None:
        """Reload the configuration of the running server."""
        pid = self.pid()
        if pid is not None:
            send_signal(pid, signal.SIGHUP)

    def pid(self) -> int | None:
        """Return the postmaster's pid, None when the server does not run."""
        pid = self._pidfile_line(0)
        return pid if pid is not None and is_alive(pid) and self._is_own(pid) else None

    def port(self) -> int | None:
        """Return the port of the running server, None when it does not run."""
        return self._pidfile_line(3) if self.pid() is not None else None

    def is_on(self, port: int) -> bool:
        """Whether the running server listens on `port` of its host."""
        # Line 6 is the first of listen_addresses.
        return self.port() == port and "".join(self._pidfile_lines()[5:6]).strip() == self.host

    def _pidfile_line(self, number: int) -> int | None:
        lines = self._pidfile_lines()
        return int(lines[number]) if len(lines) > number else None

    def _status(self) -> str:
        # starting, ready or stopping
        return "".join(self._pidfile_lines()[7:8]).strip()

    def _pidfile_lines(self) -> list[str]:
        try:
            return (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return []

    @contextmanager
    def connect(self) -> Iterator[psycopg.Connection]:
        """Connect to the database `postgres` as superuser; each statement is a transaction of its own.

        Raises:
            ClusterSilent: the server cannot be connected to, or has stopped answering.
        """
        is_open = False
        try:
            with connected(
                host=self.host,
                port=self.port(),
                dbname="postgres",
                user=SUPERUSER,
                passfile=str(self.passfile),
                application_name="mesctl",
            ) as connection:
                is_open = True
                yield connection
        except psycopg.OperationalError as error:
            if is_open and not isinstance(error, ServerUnresponsive):
                raise  # an error of a statement
            raise ClusterSilent(self.name, self.port(), " ".join(str(error).split())) from error

    def _is_own(self, pid: int) -> bool:
        # The pid of a killed postmaster may be anybody's by now. A postmaster works in its data folder;
        # where that may not be read (another user's process), the program's name has to do.
        try:
            process = psutil.Process(pid)
            return process.name() == "postgres" and Path(process.cwd()) == self.data.resolve()
        except psutil.AccessDenied:
            return True
        except psutil.NoSuchProcess:
            return False

    def _clear_after_crash(self) -> None:
        # A killed postmaster leaves its pid file, and children that notice within moments.
        pid = self._pidfile_line(0)
        if pid is None:
            return
        wait_until(lambda: not self._has_processes(), timeout_seconds=10)
        # PostgreSQL replaces the file of a dead pid. But it believes a pid that another program has by now,
        # and one that is a zombie because no parent waits for it (a container without an init).
        if psutil.pid_exists(pid):
            (self.data / "postmaster.pid").unlink()

    def _has_processes(self) -> bool:
        data = str(self.data.resolve())
        return any(process.info["cwd"] == data for process in psutil.process_iter(["cwd"]))


def _lines(access: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in access)


def _removed(folder: Path) -> bool:
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()
