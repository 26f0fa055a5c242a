"""What of psycopg is used here and psycopg does not document: how its own connection sends a query and waits.

A test holds `PRIVATE_NAMES` to the version that is installed.
"""

from collections.abc import Mapping, Sequence

from psycopg.generators import fetch, send
from psycopg.waiting import wait, wait_async

__all__ = ["PRIVATE_NAMES", "fetch", "send", "wait", "wait_async"]

PRIVATE_NAMES: Mapping[str, Sequence[str]] = {
    "psycopg.generators": ("fetch", "send"),
    "psycopg.waiting": ("wait", "wait_async"),
}
"""Each name that is used, by module."""
