"""Who sends the request that is worked on: a person, a partner or a service, known by a credential.

Example::

    actor = current_caller().name
"""

import getpass
import ipaddress
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum

from app.kit.errors import AppError


class Role(StrEnum):
    """What somebody may do: `app.access.table` says it for each."""

    PARTNER = "partner"
    CUSTOMER = "customer"
    OPERATOR = "operator"
    SELLER = "seller"
    AUDITOR = "auditor"
    DBA = "dba"
    ADMIN = "admin"
    SERVICE = "service"


class Door(StrEnum):
    """Where a request has come in: a listener of the gateway, or past it, which is the internal one."""

    EXTERNAL = "external"
    CUSTOMER = "customer"
    STAFF = "staff"
    INTERNAL = "internal"


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who sends a request, and how that is known.

    Parameters:
        name: of the person, partner or service, as histories show it.
        role: what it may do.
        door: where the request came in.
        identity_id: of its row in the directory; None of a customer, and of what has no identity there.
        credential: the public part of what it was known by, such as an API key's id; never a secret.
        address: of the client, as a proxy that is believed has named it; None where there is no network.
        order_ids: the only orders that it may see; None if its role says which.
        sandbox: whether its orders are for trying out, and made by no one.
        scopes: what of its role the credential is good for; empty is all of it.
        limits: what differs of its role's limits, by name.
    """

    name: str
    role: Role
    door: Door = Door.INTERNAL
    identity_id: int | None = None
    credential: str | None = None
    address: str | None = None
    order_ids: frozenset[int] | None = None
    sandbox: bool = False
    scopes: frozenset[str] = frozenset()
    limits: Mapping[str, float] = field(default_factory=dict, hash=False)

    @property
    def subject(self) -> str:
        """Whose requests count together: an identity's, a link's, or those of an address."""
        if self.identity_id is not None:
            return f"{self.role}:{self.identity_id}"
        # A service asks on behalf of many persons, by one credential.
        known_by = f"{self.credential}:{self.name}" if self.credential else network_of(self.address)
        return f"{self.role}:{known_by}"


def network_of(address: str | None) -> str:
    """Return what counts as one address: of IPv6 its /64, which one line of one household has."""
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return address or "unknown"
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    return str(found.ipv4_mapped or ipaddress.IPv6Network((int(found), 64), strict=False))


class NoCaller(AppError):
    """Something asks for the caller outside of a request that was let in: a fault of ours."""

    def __init__(self) -> None:
        super().__init__("no caller is known here: this was not called by a request that was let in")


_caller: ContextVar[Caller | None] = ContextVar("caller", default=None)


@contextmanager
def calling(caller: Caller) -> Iterator[None]:
    """Let the block work for a caller."""
    token = _caller.set(caller)
    try:
        yield
    finally:
        _caller.reset(token)


def shell_user() -> Caller:
    """Return who runs a command on this machine, past every door."""
    return Caller(name=getpass.getuser(), role=Role.DBA, credential="mesctl", address=socket.gethostname())


def find_caller() -> Caller | None:
    """Return who sends the request that is worked on; None outside of one, as in a background task."""
    return _caller.get()


def current_caller() -> Caller:
    """Return who sends the request that is worked on.

    Raises:
        NoCaller: no request is.
    """
    caller = _caller.get()
    if caller is None:
        raise NoCaller
    return caller
