"""What keeps a caller out."""

from app.kit.caller import Door, Role
from app.kit.errors import AppError, DependencyUnavailable
from app.kit.problem import Statuses


class AccessError(AppError):
    """Base of everything that keeps a caller out."""


class NotAuthenticated(AccessError):
    """The request has no credential, or none that is good. It does not say why: that would help to guess."""

    def __init__(self) -> None:
        super().__init__(
            "this needs a credential: send an API key, a token or an order's link as `Authorization: Bearer`"
        )


class NotAllowed(AccessError):
    """The caller is known, and his role, his key's scopes or the door do not allow this."""

    def __init__(self, role: Role, door: Door, route: str) -> None:
        self.role = role
        self.door = door
        super().__init__(f"{role} may not do this at the door {door}: {route}")


class KeyOfOtherKind(AccessError):
    """An API key of a sandbox is sent to what is none, or the reverse."""

    def __init__(self, *, in_sandbox: bool) -> None:
        self.sandbox = in_sandbox
        super().__init__(
            "this is a sandbox, where a key begins with mt_: the one that was sent is in earnest"
            if in_sandbox
            else "a key that begins with mt_ is good in the sandbox alone, and this is none"
        )


class SandboxOrder(AccessError):
    """The key is for trying out, and there is no place for orders that no one is to make."""

    def __init__(self) -> None:
        super().__init__("this key is for trying out, and an order would be made in earnest: ask for a quote")


class DoorUnknown(AccessError):
    """A request came from a proxy that is believed, and that names no door: it might be an outer one."""

    def __init__(self, header: str) -> None:
        super().__init__(f"the proxy in front names no door: it sets {header} in every request")


class UnknownPartner(AccessError):
    """The path names a partner that does not exist, or is not the caller."""

    def __init__(self, partner: str) -> None:
        self.partner = partner
        super().__init__(f"there is no partner {partner!r}: check the name")


class CrossSiteRequest(AccessError):
    """Another site's page asked a browser to send this, with the cookie that the browser keeps for us."""

    def __init__(self) -> None:
        super().__init__("a change by cookie comes from our own pages only: this request has another origin")


class TooManyAttempts(AccessError):
    """Too many bad credentials came from one address."""

    def __init__(self, retry_after_seconds: int) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(f"too many bad credentials: wait {retry_after_seconds} seconds")


class IdentitiesUnknown(AccessError, DependencyUnavailable):
    """The identities could not be read for long, so that a revoked one might be let in."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"the identities could not be read for {seconds:.0f} s")


class UnknownIdentity(AccessError):
    """No identity has this name."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"there is no identity {name!r}: `mesctl identities list` shows all")


class UnknownCredential(AccessError):
    """No credential has this id."""

    def __init__(self, credential_id: str) -> None:
        self.credential_id = credential_id
        super().__init__(f"there is no API key {credential_id!r}: `mesctl identities list` shows all")


class IdentityExists(AccessError):
    """The name is taken."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"there is an identity {name!r} already: `mesctl identities rotate` makes a new key")


class SubjectRefused(AccessError):
    """A subject of an OpenID provider cannot be linked to an identity."""


class TooManyKeys(AccessError):
    """An identity has as many API keys as it may have."""

    def __init__(self, name: str, most: int) -> None:
        self.name = name
        self.most = most
        super().__init__(f"{name!r} has {most} API keys, the most: revoke one first")


class LoginFailed(AccessError):
    """Name and password do not belong together, or client and secret. It does not say which is wrong."""

    def __init__(self) -> None:
        super().__init__("name and password do not belong together: check both")


class NoTokens(AccessError, DependencyUnavailable):
    """There is no key to sign tokens with."""

    def __init__(self) -> None:
        super().__init__("tokens cannot be signed: set MES_STORAGE_ACCESS_KEYS in every process")


class IdempotencyKeyGuessable(AccessError):
    """A customer without a credential sends an Idempotency-Key that another might guess."""

    def __init__(self, shortest: int) -> None:
        self.shortest = shortest
        super().__init__(f"the Idempotency-Key has fewer than {shortest} characters: send a UUID, say")


class OidcOff(AccessError):
    """No provider is set."""

    def __init__(self) -> None:
        super().__init__("no OpenID provider is set here: log in by name and password, POST /v1/login")


class OidcStateWrong(AccessError):
    """The browser did not begin this login, or too long ago."""

    def __init__(self) -> None:
        super().__init__("this login was not begun by this browser, or too long ago: begin again")


class OidcRefused(AccessError):
    """The provider says no: to the person, or to the code."""

    def __init__(self, error: str) -> None:
        self.error = error
        super().__init__(f"the OpenID provider refused the login: {error}")


class OidcTokenWrong(AccessError):
    """The provider's answer, or its ID token, is not what it must be."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        super().__init__(f"the OpenID provider's answer is not good: {fault}")


class OidcLogoutWrong(AccessError):
    """A logout token is not what the provider's must be: it ends nothing."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        super().__init__(f"the logout token is not good: {fault}")


class OidcUnlinked(AccessError):
    """No identity is linked to the person whom the provider names."""

    def __init__(self, issuer: str, subject: str) -> None:
        self.issuer, self.subject = issuer, subject
        super().__init__(
            f"no identity is linked to the subject {subject!r} of {issuer}: "
            "an admin links one by `mesctl identities oidc`"
        )


class OidcUnavailable(AccessError, DependencyUnavailable):
    """The provider does not answer, or not so that it can be used."""

    def __init__(self, what: str, why: str) -> None:
        self.what, self.why = what, why
        super().__init__(f"the OpenID provider's {what} cannot be used: {why}")


STATUSES: Statuses = {
    OidcOff: 404,
    OidcStateWrong: 400,
    OidcRefused: 401,
    OidcTokenWrong: 401,
    OidcLogoutWrong: 400,
    OidcUnlinked: 403,
    IdempotencyKeyGuessable: 422,
    NotAuthenticated: 401,
    KeyOfOtherKind: 401,
    LoginFailed: 401,
    NotAllowed: 403,
    SandboxOrder: 403,
    CrossSiteRequest: 403,
    DoorUnknown: 403,
    UnknownPartner: 404,
    TooManyAttempts: 429,
}
"""What they are worth in HTTP."""
