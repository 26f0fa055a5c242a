"""Runs `ids_rig` with a directory that goes away meanwhile, and counts what was made."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TypeAlias

import numpy as np
import psycopg

from ops.waiting import wait_until
from sharding.ids import NODE_BITS, SEQUENCE_BITS
from tests.integration.ids_rig import GO

Ids: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.int64]]"


def make_ids(
    topology: Path, folder: Path, superuser: str, dbname: str, *, makers: int, each: int, seconds: float
) -> list[Ids]:
    """Have processes make ids through clock faults, freezes, and a directory that is away for a while.

    Parameters:
        topology: the topology file.
        folder: where they write.
        superuser: how to connect to the server of the directory, but to another database of it.
        dbname: the directory's database.
        makers: how many processes.
        each: how many ids each of them makes.
        seconds: how long they take at least.

    Returns:
        The ids of each process.
    """
    words = [str(topology), str(folder), str(makers), str(each), str(seconds)]
    command = [sys.executable, "-m", "tests.integration.ids_rig", *words]
    with (
        psycopg.connect(superuser, autocommit=True) as server,
        subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as rig,
    ):
        try:
            assert wait_until((folder / GO).exists, timeout_seconds=60)
            _take_away(server, dbname)
            # Until a lease must have run out: nobody could renew meanwhile.
            gone = "SELECT clock_timestamp() > %s + interval '1500 ms'"
            [since] = server.execute("SELECT clock_timestamp()").fetchone() or [None]
            assert wait_until(lambda: server.execute(gone, [since]).fetchone() == (True,), timeout_seconds=60)
            _bring_back(server, dbname)
            _, said = rig.communicate(timeout=280)
            assert rig.returncode == 0, said.decode()[-2000:]
        finally:
            _bring_back(server, dbname)
            if rig.poll() is None:
                os.killpg(rig.pid, signal.SIGKILL)  # its makers as well
    return [np.fromfile(path, dtype=np.int64) for path in sorted(folder.glob("*.ids"))]


def duplicates(made: list[Ids]) -> int:
    """Count the ids that were made more than once."""
    ids = np.concatenate(made)
    ids.sort()
    return int((ids[1:] == ids[:-1]).sum())


def handed_over(made: list[Ids]) -> int:
    """Count the node numbers that more than one process has used."""
    nodes = [np.unique((ids >> SEQUENCE_BITS) & ((1 << NODE_BITS) - 1)) for ids in made]
    _, users = np.unique(np.concatenate(nodes), return_counts=True)
    return int((users > 1).sum())


def _take_away(server: psycopg.Connection, dbname: str) -> None:
    server.execute(f"ALTER DATABASE {dbname} ALLOW_CONNECTIONS false")
    server.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [dbname]
    )


def _bring_back(server: psycopg.Connection, dbname: str) -> None:
    server.execute(f"ALTER DATABASE {dbname} ALLOW_CONNECTIONS true")
