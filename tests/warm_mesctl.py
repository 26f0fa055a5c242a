"""`mesctl` and `alembic` from a process that has imported them: a start is a fork, a tenth of a cold one.

For tests that run many commands and whose subject is not the start. A command has arguments, folder,
environment, files and exit status of its own, as a process has; it alone imports the project's modules.
README's page and the tests of `up`, `init`, `doctor` and the wheels run the real program.
"""

import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NoReturn

ROOT = Path(__file__).parents[1]

# What the verbs import, and what the order system's own verbs import of other packages: `app` is a name that
# a team's package may have.
LIBRARIES = (
    "alembic.command",
    "alembic.autogenerate",
    "httpx",
    "opentelemetry.sdk.trace",
    "redis.asyncio",
    "structlog",
)

PROGRAMS = ("mesctl", "alembic")

_CLIENT = """\
#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
    server.connect({address!r})
    words = json.dumps([[{name!r}, *sys.argv[1:]], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [words], [0, 1, 2])
    status = server.recv(9)
if not status:
    sys.exit("{name}: was killed")
sys.exit(int(status))
"""

_LONGEST_BYTES = 150_000


@contextmanager
def start_warm_mesctl(
    folder: Path, *, python: Path = Path(sys.executable), ops: Path = ROOT / "ops"
) -> Iterator[Path]:
    """Start the process that imports; give the program `mesctl` that has its commands run there.

    Beside it is `alembic`, which does the same.

    Parameters:
        folder: an empty one, whose path is short: a socket's may have 107 bytes.
        python: the interpreter of the commands.
        ops: the package that is installed for it.
    """
    address = folder / "socket"
    for name in PROGRAMS:
        client = folder / name
        client.write_text(_CLIENT.format(python=sys.executable, address=str(address), name=name))
        client.chmod(0o755)
    # -P: no folder of ours in front of what is installed.
    command = [str(python), "-P", __file__, str(address), str(ops / "__main__.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        yield folder / "mesctl"


def serve(address: str, program: str) -> None:
    """Fork for each command until standard input ends.

    Parameters:
        address: of the socket.
        program: the module of which `mesctl` is the function `main`.
    """
    start = runpy.run_path(program)
    start["own_package"]()
    from ops.verbs import VERBS

    for module in (*(verb.reference.partition(":")[0] for verb in VERBS.values()), *LIBRARIES):
        import_module(module)
    mains = {"mesctl": start["main"], "alembic": import_module("alembic.config").main}
    # multiprocessing would import this module again in each process that a command starts.
    sys.modules["__main__"] = ModuleType("__main__")
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(address)
        listener.listen(16)
        os.write(sys.stdout.fileno(), b"ready\n")
        while sys.stdin not in select.select([sys.stdin, listener], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _run_command(connection, mains)
            connection.close()


def _run_command(connection: socket.socket, mains: Mapping[str, Callable[[], object]]) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    words, files, _, _ = socket.recv_fds(connection, _LONGEST_BYTES, 3)
    argv, folder, environment = json.loads(words)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = argv
    status = 1
    try:
        mains[argv[0]]()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.send(str(status).encode())
        os._exit(status)


if __name__ == "__main__":
    serve(*sys.argv[1:])
