"""Where servers listen, and what Patroni says about that. Pure, and shared by asyncio and threads."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from readreplica.errors import NothingDiscovered

# https://patroni.readthedocs.io/en/latest/rest_api.html, GET /cluster: `running` is a leader, or a replica
# that does not stream yet.
_UP = frozenset({"running", "streaming", "in archive recovery"})


class Address(NamedTuple):
    """Where a server, or the pooler in front of it, listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def read_patroni(document: Mapping[str, Any]) -> Sequence[Address]:
    """Read the answer to Patroni's `GET /cluster`.

    Its leader is ignored: the servers are asked themselves, and Patroni may be late or cut off.

    Raises:
        NothingDiscovered: it names no member that runs.
    """
    members = document.get("members")
    if not isinstance(members, list):
        raise NothingDiscovered("Patroni", "its answer has no list of members")
    found = [
        Address(str(member["host"]), int(member["port"]))
        for member in members
        if member.get("state") in _UP and "host" in member and "port" in member
    ]
    if not found:
        raise NothingDiscovered("Patroni", f"none of its {len(members)} members runs")
    return found
