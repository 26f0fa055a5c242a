"""Keeps Envoy's access log within bounds, which Envoy does not: `python -m ops.gateway.rotation FILE PORT`.

It runs beside Envoy, as a child of it, and ends with it. It imports nothing large.
"""

import os
import sys
import time
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from itertools import pairwise
from pathlib import Path

MAX_BYTES = 64 * 1024 * 1024
KEPT = 4
LOOK_SECONDS = 5.0


def rotate(log: Path, admin_port: int, *, max_bytes: int = MAX_BYTES, kept: int = KEPT) -> bool:
    """Begin the log anew if it has grown large; return whether that was so.

    Envoy goes on writing to the file that it has open, under its new name, until it has opened the new one.
    So no line is lost.

    Parameters:
        log: the access log.
        admin_port: Envoy's own.
        max_bytes: its size at most, but for what is written between two looks.
        kept: how many older files stay, NAME.1 being the newest.

    Raises:
        OSError, HTTPException: Envoy does not answer; the file has its new name, and Envoy writes to it.
    """
    if not log.exists() or log.stat().st_size <= max_bytes:
        return False
    older = [log.with_name(f"{log.name}.{number}") for number in range(1, kept + 1)]
    for newer, name in reversed(list(pairwise([log, *older]))):
        with suppress(FileNotFoundError):
            newer.replace(name)
    connection = HTTPConnection("127.0.0.1", admin_port, timeout=5)
    try:
        connection.request("POST", "/reopen_logs")
        connection.getresponse().read()
    finally:
        connection.close()
    return True


def main(log: Path, admin_port: int, *, max_bytes: int = MAX_BYTES) -> None:
    """Look every few seconds, for as long as the process runs that has started this one."""
    parent = os.getppid()
    while os.getppid() == parent:
        with suppress(OSError, HTTPException):  # Envoy may start, or end; it is looked again
            rotate(log, admin_port, max_bytes=max_bytes)
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
