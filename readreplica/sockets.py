"""Ending a connection from outside, when its server may never answer again."""

import socket
from typing import Any


def shut(connection: Any) -> None:
    """Shut a psycopg connection's socket: whoever waits for an answer gets an OperationalError at once.

    A frozen or unreachable server answers neither a query nor its cancellation, so nothing is sent to it.

    Parameters:
        connection: a psycopg connection of either kind; it may be closed already.
    """
    try:
        descriptor = connection.fileno()
        # A copy of the descriptor: the connection closes its own.
        with socket.socket(fileno=socket.dup(descriptor)) as copy:
            copy.shutdown(socket.SHUT_RDWR)
    except Exception:
        return
