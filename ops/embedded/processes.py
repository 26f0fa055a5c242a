"""Commands that end, daemons that stay, and the pid files that find them again."""

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from ops.embedded.errors import CommandFailed, EmbeddedError, SeveralFailed, StartFailed, StopFailed
from ops.waiting import wait_until

# The child writes its pid before it becomes the program: `mesctl` may be killed at any moment,
# and the pid file still names every daemon. Field 22 of `stat` is when the process started, in clock
# ticks since boot; exec keeps it. (`$0` is the pid file, `$@` the program.)
WRITE_PID_THEN_EXEC = 'echo "$$ $(cut -d" " -f22 /proc/$$/stat)" > "$0.new" && mv "$0.new" "$0" && exec "$@"'

COMPLAINT = re.compile(r"\b(FATAL|PANIC|ERROR|error):")


def run_command(
    command: Sequence[str], *, timeout_seconds: float, environment: Mapping[str, str] | None = None
) -> str:
    """Run a program to its end and return what it wrote to stdout.

    Parameters:
        environment: variables beside those of this process.

    Raises:
        CommandFailed: it returned a status other than 0, or did not end in time.
    """
    # Fixed locale: messages are searched for words, and a C locale exists everywhere.
    variables = {**os.environ, "LC_ALL": "C", **(environment or {})}
    program = next((Path(word).name for word in command if word.startswith("/")), command[0])
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            env=variables,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(program, f"no end after {timeout_seconds:g} s", "") from error
    except OSError as error:
        raise CommandFailed(program, "not started", str(error)) from error
    if done.returncode != 0:
        raise CommandFailed(program, done.returncode, _complaint(done.stderr or done.stdout))
    return done.stdout


def _complaint(said: str) -> str:
    # Programs say what failed, and then at length what they clean up.
    lines = [line.strip() for line in said.splitlines()]
    complaints = [line for line in lines if COMPLAINT.search(line)]
    return " ".join(complaints[:3] or lines[-3:])


def is_alive(pid: int) -> bool:
    """Whether `pid` runs; a zombie does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def send_signal(pid: int, signal_number: int) -> None:
    """Send a signal to a process that may have ended already."""
    try:
        os.kill(pid, signal_number)
    except ProcessLookupError:
        return


def resume(pid: int) -> None:
    """Send SIGCONT to a process and its children: a frozen one (SIGSTOP) takes no other signal."""
    try:
        process = psutil.Process(pid)
        for each in (*process.children(recursive=True), process):
            each.resume()
    except psutil.NoSuchProcess:
        return


def _start_ticks(pid: int) -> int | None:
    # Not psutil's create_time: that is a wall-clock time, which moves when the clock is set.
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The program's name, in parentheses, may hold spaces: field 3 comes after the last parenthesis.
    return int(stat.rpartition(")")[2].split()[22 - 3])


def last_lines(path: Path, *, count: int = 8, from_byte: int = 0) -> str:
    """Return the end of a log file, indented for a message."""
    try:
        with path.open("rb") as log:
            log.seek(from_byte if size_of(path) >= from_byte else 0)  # it may have been rotated
            lines = log.read().decode(errors="replace").splitlines()
    except OSError as error:
        return f"  ({error})"
    return "\n".join(f"  {line}" for line in lines[-count:]) or "  (nothing)"


def size_of(path: Path) -> int:
    """Return the size of a file in bytes, 0 when there is none."""
    return path.stat().st_size if path.exists() else 0


def end_processes_naming(path: Path, *, timeout_seconds: float = 5.0) -> list[int]:
    """Kill the processes that name `path` in their command line, and their children; return their pids.

    For what a killed mesctl left at work (initdb, pg_basebackup) in a folder that is about to be removed.
    """
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter(["cmdline"]):
        if process.pid != os.getpid() and str(path) in (process.info["cmdline"] or ()):
            found[process.pid] = process
    for process in list(found.values()):
        try:
            found.update({child.pid: child for child in process.children(recursive=True)})
        except psutil.NoSuchProcess:
            continue
    for pid in found:
        send_signal(pid, signal.SIGKILL)
    wait_until(lambda: not any(is_alive(pid) for pid in found), timeout_seconds=timeout_seconds)
    return sorted(found)


def listening_ports(pid: int) -> set[int]:
    """Find the TCP ports on which a process of this user listens."""
    try:
        connections = psutil.Process(pid).net_connections(kind="tcp")
    except psutil.Error:
        return set()
    return {connection.laddr[1] for connection in connections if connection.status == psutil.CONN_LISTEN}


Starts = Callable[[Sequence[str], Path, Path, Mapping[str, str]], bool]
"""Starts a command with a pid file, a log and all of its variables; or returns False."""


class Daemon:
    """A program that runs on its own, in a session of its own, known by its pid file.

    A pid alone proves nothing, for pids are used again: the process must also have started at the clock tick
    that the pid file names, or it is none of ours and is never signalled.
    """

    def __init__(self, name: str, *, pidfile: Path, log: Path) -> None:
        self.name = name
        self.pidfile = pidfile
        self.log = log

    def pid(self) -> int | None:
        """Return the pid of the running daemon, None when it does not run."""
        try:
            pid, started = map(int, self.pidfile.read_text().split())
        except (OSError, ValueError):
            return None
        return pid if _start_ticks(pid) == started and is_alive(pid) else None

    def ports(self) -> set[int]:
        """Find the TCP ports on which the daemon listens."""
        pid = self.pid()
        return listening_ports(pid) if pid is not None else set()

    def stop_unless_on(self, port: int, *, beside: int | None = None) -> bool:
        """Stop the daemon if it listens, but not on `port`: the topology names another by now.

        Parameters:
            port: where it should listen.
            beside: where it may listen before that, and which says nothing.

        Returns:
            whether it runs.

        Raises:
            StopFailed: it survived.
        """
        pid = self.pid()
        if pid is not None and port not in (ports := listening_ports(pid)) and ports - {beside}:
            self.stop()
        return self.pid() is not None

    def launch(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        starts: Starts | None = None,
    ) -> int:
        """Start the program in the background and give its pid.

        Parameters:
            environment: variables beside those of this process.
            starts: starts it in another way, if it can.

        Raises:
            StartFailed: it ended before it could be seen.
        """
        self.pidfile.parent.mkdir(parents=True, exist_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.pidfile.unlink(missing_ok=True)
        variables = {**os.environ, **(environment or {})}
        if starts is None or not starts(command, self.pidfile, self.log, variables):
            self._start(command, variables)
        wait_until(self.pidfile.exists, timeout_seconds=5)
        pid = self.pid()
        if pid is None:
            raise StartFailed(self.name, "it ended at once", self.log, last_lines(self.log))
        return pid

    def _start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        # setsid --fork: a Ctrl-C at the terminal does not reach the daemon, and init inherits it.
        starter = ["setsid", "--fork", "sh", "-c", WRITE_PID_THEN_EXEC, str(self.pidfile), *command]
        with self.log.open("ab") as log:
            subprocess.run(
                starter, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, check=True
            )

    def stop(self, *, timeout_seconds: float = 10.0) -> bool:
        """End the daemon and its children: SIGTERM, then SIGKILL to what is left. False if it did not run.

        Raises:
            StopFailed: it survived even SIGKILL.
        """
        pid = self.pid()
        if pid is None:
            self.pidfile.unlink(missing_ok=True)
            return False
        send_signal(pid, signal.SIGTERM)
        resume(pid)
        wait_until(lambda: not is_alive(pid), timeout_seconds=timeout_seconds)
        self._kill_session(pid)
        if not wait_until(lambda: not is_alive(pid), timeout_seconds=5):
            raise StopFailed(self.name, pid, timeout_seconds + 5)
        self.pidfile.unlink(missing_ok=True)
        return True

    def kill(self) -> int | None:
        """Kill the daemon and its children with SIGKILL, as a crash would; give its pid if it ran."""
        pid = self.pid()
        if pid is not None:
            self._kill_session(pid)
            wait_until(lambda: not is_alive(pid), timeout_seconds=5)
        return pid

    @staticmethod
    def _kill_session(session: int) -> None:
        # The daemon leads its session and its process group; its children inherited both.
        try:
            os.killpg(session, signal.SIGKILL)
        except ProcessLookupError:
            return


def run_all(tasks: Iterable[Callable[[], object]]) -> None:
    """Run all tasks at the same time and wait for all, also when one fails; then raise what failed.

    Raises:
        SeveralFailed: several errors of the embedded topology.
    """
    tasks = list(tasks)
    if not tasks:
        return
    with ThreadPoolExecutor(max_workers=len(tasks)) as pool:
        futures = [pool.submit(task) for task in tasks]
    errors = [error for future in futures if (error := future.exception())]
    for error in errors:
        if len(errors) == 1 or not isinstance(error, EmbeddedError):
            raise error
    if errors:
        raise SeveralFailed([error for error in errors if isinstance(error, EmbeddedError)])
