"""A test process that is killed leaves no server behind."""

import signal
import subprocess
import sys
from pathlib import Path

from ops.waiting import wait_until

VICTIM = """
import sys
from pathlib import Path
from tests.reaper import reaping
from tests.servers import run_postgres, run_valkey
folder = Path(sys.argv[1])
with reaping(folder), run_postgres(folder), run_valkey(folder):
    print("up", flush=True)
    sys.stdin.read()
"""


def pids(folder: Path) -> set[Path]:
    return {Path("/proc") / path.read_text().split()[0] for path in folder.rglob("*.pid")}


def test_servers_end_with_the_killed_process_that_started_them(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", VICTIM, str(tmp_path)], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == b"up\n"
        servers = pids(tmp_path)
        assert len(servers) == 3
        assert all(server.exists() for server in servers)
        victim.send_signal(signal.SIGKILL)
    assert wait_until(lambda: not any(server.exists() for server in servers), timeout_seconds=60)
