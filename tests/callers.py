"""Who calls the services of tests: the token of a service on behalf of a person, made for each request."""

from collections.abc import Generator

import httpx

from app.access.credentials import TokenKeys, TokenUse
from app.kit.caller import Role

ACCESS_KEYS = "test=what signs the tokens of callers"
"""For the settings of services of tests."""
KEYS = TokenKeys({"test": "what signs the tokens of callers"})


def acting(name: str, role: Role = Role.ADMIN) -> dict[str, str]:
    """Make the header by which a request is somebody's."""
    token = KEYS.sign(TokenUse.SERVICE, {"sub": name, "role": role.value, "iss": "tests"})
    return {"Authorization": f"Bearer {token}"}


def by_operator(name: str = "Rosa") -> dict[str, str]:
    """Make the header of an operator."""
    return acting(name, Role.OPERATOR)


def by_seller(name: str = "Sara") -> dict[str, str]:
    """Make the header of a seller."""
    return acting(name, Role.SELLER)


class ActingAs(httpx.Auth):
    """Makes requests somebody's that say nothing of it themselves."""

    def __init__(self, name: str = "tests", role: Role = Role.ADMIN) -> None:
        self._name = name
        self._role = role

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Add the header."""
        if "Authorization" not in request.headers:
            request.headers.update(acting(self._name, self._role))
        yield request


def caller_of(service: str) -> ActingAs:
    """Return who calls a service unless a request says otherwise: of the CRM its seller, else an admin."""
    return ActingAs("Sara", Role.SELLER) if service == "crm" else ActingAs()
