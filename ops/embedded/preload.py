"""Starts the project's services from one process that has imported their modules: a start is a fork.

    python -P preload.py MODULE...        (started by `mesctl up`, spoken to by its standard streams)

Seven services that import the same libraries spend most of their start on that, and each keeps them in memory
for itself. This process imports the modules of `[tool.mes-storage.up] preload` once; a service is a child of
it, which becomes `python -m MODULE` in a session of its own, as gunicorn's `preload_app` does it.

The first line out says whether that went well. Then one JSON line in makes one child, and one JSON line out
says which. The end of standard input ends the process, and no service.
"""

import gc
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

ANSWER_SECONDS = 60.0
"""How long it may take to import the modules."""

_FEWEST = 2
STDIN, STDOUT, STDERR = 0, 1, 2


class Preloader:
    """The process, from `begin` to the end of the context.

    Parameters:
        modules: are imported, in this order; without one there is no process.
        environment: variables beside ours, with the project's folder in PYTHONPATH.
        report: is called with a line where a module cannot be imported; services start without this, then.
    """

    def __init__(
        self, modules: Sequence[str], environment: Mapping[str, str], *, report: Callable[[str], None]
    ) -> None:
        self._modules = modules
        self._environment = environment
        self._report = report
        self._process: subprocess.Popen[str] | None = None
        self._lock = Lock()
        self._works: bool | None = None

    def __enter__(self) -> Self:
        return self

    def begin(self, *, services: int) -> None:
        """Start the process, once, which imports while its caller does something else.

        Parameters:
            services: how many are to be started. For a single one it would import more than that one needs.
        """
        if not self._modules or self._process or services < _FEWEST:
            return
        # A session of its own: a Ctrl-C in the middle of `up` must not end a child before it has its own.
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, *self._modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **self._environment},
            start_new_session=True,
            text=True,
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def start(self, command: Sequence[str], pidfile: Path, log: Path, environment: Mapping[str, str]) -> bool:
        """Make a child which writes its pid file and becomes a module; False where there is no such process.

        Parameters:
            command: `PYTHON -m MODULE ARGUMENT...`.
            pidfile: as `ops.embedded.processes.Daemon` reads it.
            log: what it prints is appended to it.
            environment: all of its variables.
        """
        if self._process is None or list(command[:2]) != [sys.executable, "-m"]:
            return False
        wanted = {
            "words": command[2:],
            "pidfile": str(pidfile),
            "log": str(log),
            "environment": {**environment},
        }
        with self._lock:
            return self._is_ready() and "pid" in self._ask(json.dumps(wanted))

    def _is_ready(self) -> bool:
        if self._works is None and self._process is not None:
            said = self._ask("")
            self._works = "ready" in said
            if not self._works:
                self._report(f"preload: {said.get('error', 'no answer')}; each service imports for itself")
        return bool(self._works)

    def _ask(self, line: str) -> dict[str, Any]:
        """Send a line, if there is one, and read the next one of the process; nothing where it has ended."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if line:
                process.stdin.write(f"{line}\n")
                process.stdin.flush()
            if not select.select([process.stdout], [], [], ANSWER_SECONDS)[0]:
                return {}
            said: dict[str, Any] = json.loads(process.stdout.readline())
        except (OSError, ValueError):
            return {}
        return said


def serve(modules: Sequence[str]) -> dict[str, Any] | None:
    """Import the modules, and fork for each line in; return the line in each child, None at the end.

    A child leaves by returning: what ends it later ends the whole interpreter, as everywhere.
    """
    try:
        for module in modules:
            import_module(module)
    except Exception as error:  # a module of anybody's may fail in any way
        _say({"error": f"{module}: {type(error).__name__}: {error}"})
        return None
    # The children share the pages of what was imported until one writes to them.
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    _say({"ready": True})
    # Unbuffered: a child finds nothing read ahead that was meant for this one.
    with open(STDIN, "rb", buffering=0, closefd=False) as lines:
        while line := lines.readline():
            wanted: dict[str, Any] = json.loads(line)
            if (pid := os.fork()) == 0:
                return wanted
            _say({"pid": pid})
    return None


def _say(what: Mapping[str, object]) -> None:
    os.write(STDOUT, json.dumps(what).encode() + b"\n")


def become(words: Sequence[str], *, pidfile: str, log: str, environment: Mapping[str, str]) -> None:
    """Run a module as `python -m` does, as a daemon with a pid file."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    _redirect(os.devnull, os.O_RDONLY, STDIN)
    _redirect(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, STDOUT, STDERR)
    _write_pid(pidfile)
    # Have `ps` show the service, and not what it was forked from.
    setproctitle(" ".join((sys.executable, "-m", *words)))
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    sys.argv[1:] = words[1:]
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


def _redirect(path: str, flags: int, *to: int) -> None:
    opened = os.open(path, flags, 0o644)
    for number in to:
        os.dup2(opened, number)
    os.close(opened)


def _write_pid(pidfile: str) -> None:
    """Write what `ops.embedded.processes.WRITE_PID_THEN_EXEC` does: the pid, and when it started."""
    started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[22 - 3]
    new = Path(f"{pidfile}.new")
    new.write_text(f"{os.getpid()} {started}\n")
    new.replace(pidfile)


if __name__ == "__main__":
    from setproctitle import getproctitle, setproctitle  # which mesctl itself does without

    getproctitle()  # it finds the words of the command only while the environment is as it was
    # As `python -m` in this folder has it.
    sys.path.insert(0, str(Path.cwd()))
    if (service := serve(sys.argv[1:])) is not None:
        become(service.pop("words"), **service)
