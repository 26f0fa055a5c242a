"""Staff log in with their organisation's OpenID provider: the authorization code flow, with PKCE.

(OpenID Connect Core 1.0, 3.1; Discovery 1.0; RFC 7636; RFC 9207.) The provider says who somebody is, and no
more: what he may do is the role of the identity that is linked to his subject. Nothing is kept here between
the two requests: state, nonce and verifier are in a signed cookie of the browser.
"""

import asyncio
import hmac
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import httpx
from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.claims import JWTClaims
from authlib.oauth2.client import OAuth2Client
from authlib.oidc.core import CodeIDToken
from authlib.oidc.discovery import get_well_known_url
from joserfc import jws, jwt
from joserfc.errors import ClaimError, JoseError
from joserfc.jwk import JWKRegistry, Key

from app.access.errors import OidcLogoutWrong, OidcRefused, OidcTokenWrong, OidcUnavailable

ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
"""What an ID token may be signed by: never `none`, and nothing with a secret that others know."""
KEY_TYPES = frozenset({"RSA", "EC", "OKP"})
METADATA_SECONDS = 3600.0
KEYS_SECONDS = 3600.0
AGAIN_SECONDS = 5.0
"""Keys are not asked for more often, whatever tokens name them."""
LARGEST_ANSWER = 1024 * 1024
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"
LOGOUT_TYPE = "logout+jwt"
LONGEST_SUBJECT = 255
_LEEWAY_SECONDS = 30
_HTTP_SECONDS = 3.0


@dataclass(frozen=True, kw_only=True)
class OidcOptions:
    """A provider, and the client that we are to it.

    Parameters:
        issuer: its URL, as its tokens have it.
        client_id: our name there.
        client_secret: what we prove it with.
        callback: the URL of `/v1/oidc/callback`, as browsers reach it and as it is registered there.
    """

    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    callback: str


def check_url(url: str) -> str:
    """Return a URL by which secrets may go: TLS, or this machine.

    Raises:
        ValueError: it is another.
    """
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return url
    if parts.scheme == "http" and _is_loopback(parts.hostname or ""):
        return url
    raise ValueError(f"{url!r} is no https URL")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, kw_only=True)
class _Metadata:
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    algorithms: frozenset[str]
    auth_method: str
    names_issuer: bool


def read_metadata(document: Mapping[str, Any], issuer: str) -> _Metadata:
    """Return what is needed of a provider's metadata.

    Raises:
        ValueError: it is another issuer's, or something is missing or not safe.
    """
    if document.get("issuer") != issuer:
        raise ValueError(f"it is of the issuer {document.get('issuer')!r}, and not {issuer!r}")
    urls = {}
    for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
        urls[name] = check_url(str(document.get(name, "")))
    given = document.get("id_token_signing_alg_values_supported", ["RS256"])
    algorithms = ALGORITHMS & set(map(str, given))
    if not algorithms:
        raise ValueError(f"it signs by {given}, and none of these is good")
    methods = document.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
    method = "client_secret_basic" if "client_secret_basic" in methods else "client_secret_post"
    names_issuer = document.get("authorization_response_iss_parameter_supported") is True
    return _Metadata(**urls, algorithms=algorithms, auth_method=method, names_issuer=names_issuer)


@dataclass(frozen=True)
class Begun:
    """A login that was begun: where the browser goes, and what it must bring back."""

    url: str
    state: str
    nonce: str
    verifier: str


@dataclass(frozen=True)
class OidcSession:
    """Who has logged in; and the session at the provider, which it may end later. None if it names none."""

    subject: str
    sid: str | None


@dataclass(frozen=True)
class SessionEnd:
    """What has ended: a session by its `sid`, or else all of a subject. `jti`: of what says so."""

    jti: str
    subject: str | None
    sid: str | None


class OidcProvider:
    """An OpenID provider: its metadata and its keys are kept for an hour."""

    def __init__(
        self,
        options: OidcOptions,
        client: httpx.AsyncClient,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Know of a provider; it is asked when the first person logs in.

        Parameters:
            options: which one.
            client: for requests to it; it follows no redirects.
            clock: a monotonic clock, in seconds.
        """
        self.options = options
        self._client, self._clock = client, clock
        self._metadata: tuple[float, _Metadata] | None = None
        self._keys: tuple[float, list[Key]] | None = None
        self._fetching = asyncio.Lock()

    async def begin(self) -> Begun:
        """Begin a login.

        Raises:
            OidcUnavailable: the provider does not answer.
        """
        metadata = await self._known()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        asks = OAuth2Client(
            None,
            client_id=self.options.client_id,
            redirect_uri=self.options.callback,
            scope="openid",
            code_challenge_method="S256",
        )
        url, _ = asks.create_authorization_url(
            metadata.authorization_endpoint, state=state, nonce=nonce, code_verifier=verifier
        )
        return Begun(str(url), state, nonce, verifier)

    async def finish(self, *, code: str, verifier: str, nonce: str, issuer: str | None) -> OidcSession:
        """Turn the code that a browser brings into who has logged in.

        Parameters:
            code: of the callback; it is good once.
            verifier: what was made for this login; the provider has its SHA-256.
            nonce: what the ID token must have.
            issuer: who answered, as the callback has it; None if it does not say.

        Raises:
            OidcRefused: the provider does not take the code.
            OidcTokenWrong: its ID token is not good.
            OidcUnavailable: it does not answer, or not so that it can be used.
        """
        metadata = await self._known()
        if issuer != self.options.issuer and (issuer is not None or metadata.names_issuer):
            raise OidcTokenWrong("the callback names another issuer, or none")
        answer = await self._exchange(metadata, code, verifier)
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise OidcTokenWrong("it has no ID token")
        return await self._session(metadata, token, nonce=nonce, access_token=answer.get("access_token"))

    async def read_logout(self, token: str) -> SessionEnd:
        """Return what a logout token ends (OpenID Connect Back-Channel Logout 1.0, 2.6).

        Raises:
            OidcLogoutWrong: it is not good.
            OidcUnavailable: the provider's keys cannot be read.
        """
        try:
            read = await self._verified(await self._known(), token)
            claims = JWTClaims(read.claims, read.header, self._essential())
            claims.validate(leeway=_LEEWAY_SECONDS)
            return _checked_logout(claims, read.header, self.options.client_id)
        except OidcTokenWrong as error:
            raise OidcLogoutWrong(error.fault) from error
        except ClaimError as error:
            raise OidcLogoutWrong(f"its claim {error.claim!r} is not good") from error
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise OidcLogoutWrong(type(error).__name__) from error

    async def _known(self) -> _Metadata:
        async with self._fetching:
            if self._metadata is not None and self._clock() - self._metadata[0] < METADATA_SECONDS:
                return self._metadata[1]
            document = await self._get(get_well_known_url(self.options.issuer, external=True), "metadata")
            try:
                found = read_metadata(document, self.options.issuer)
            except ValueError as error:
                raise OidcUnavailable("metadata", str(error)) from error
            self._metadata = self._clock(), found
            return found

    async def _exchange(self, metadata: _Metadata, code: str, verifier: str) -> Mapping[str, Any]:
        """Ask for tokens (RFC 6749, 4.1.3)."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.options.callback,
            "code_verifier": verifier,
        }
        body = str(httpx.QueryParams(form))
        ours = ClientAuth(self.options.client_id, self.options.client_secret, metadata.auth_method)
        kind = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        url, headers, body = ours.prepare("POST", metadata.token_endpoint, kind, body)
        status, answer = await self._ask(
            self._client.build_request("POST", url, headers=headers, content=body), "token endpoint"
        )
        error = str(answer.get("error", ""))[:60]
        if status in {400, 401} and error and error != "invalid_client":
            raise OidcRefused(error)
        if status != httpx.codes.OK:
            raise OidcUnavailable("token endpoint", f"it answers {status} {error}".strip())
        return answer

    async def _session(
        self, metadata: _Metadata, token: str, *, nonce: str, access_token: object
    ) -> OidcSession:
        try:
            read = await self._verified(metadata, token)
            asked = {"nonce": nonce, "client_id": self.options.client_id, "access_token": access_token}
            claims = CodeIDToken(read.claims, read.header, self._essential(), asked)
            claims.validate(leeway=_LEEWAY_SECONDS)
        except ClaimError as error:
            raise OidcTokenWrong(f"the claim {error.claim!r} of its ID token is not good") from error
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise OidcTokenWrong(f"its ID token: {type(error).__name__}") from error
        return _checked_session(claims, nonce, self.options.client_id)

    async def _verified(self, metadata: _Metadata, token: str) -> jwt.Token:
        """Return a token whose signature is the provider's."""
        header = jws.extract_compact(token.encode()).headers()
        algorithm = header.get("alg")
        if algorithm not in metadata.algorithms:
            raise OidcTokenWrong(f"it is signed by {str(algorithm)[:20]!r}")
        key = await self._key_of(metadata, header.get("kid"), str(algorithm))
        return jwt.decode(token, key, algorithms=[str(algorithm)])

    def _essential(self) -> dict[str, Any]:
        return {
            "iss": {"essential": True, "value": self.options.issuer},
            "aud": {"essential": True, "value": self.options.client_id},
            "exp": {"essential": True},
            "iat": {"essential": True},
        }

    async def _key_of(self, metadata: _Metadata, kid: object, algorithm: str) -> Key:
        """Return the key of a token. One that is not known yet is looked for again: keys are rotated."""
        asked_at = self._keys[0] if self._keys is not None else None
        if found := _find_key(await self._read_keys(metadata, None), kid, algorithm):
            return found
        if found := _find_key(await self._read_keys(metadata, asked_at), kid, algorithm):
            return found
        raise OidcTokenWrong("its ID token is signed by a key that it does not publish")

    async def _read_keys(self, metadata: _Metadata, older_than: float | None) -> list[Key]:
        async with self._fetching:
            now = self._clock()
            if self._keys is not None:
                at, keys = self._keys
                is_stale = older_than is not None and at <= older_than and now - at >= AGAIN_SECONDS
                if now - at < KEYS_SECONDS and not is_stale:
                    return keys
            document = await self._get(metadata.jwks_uri, "keys")
            keys = read_keys(document)
            self._keys = now, keys
            return keys

    async def _get(self, url: str, what: str) -> Mapping[str, Any]:
        status, answer = await self._ask(self._client.build_request("GET", url), what)
        if status != httpx.codes.OK:
            raise OidcUnavailable(what, f"it answers {status}")
        return answer

    async def _ask(self, request: httpx.Request, what: str) -> tuple[int, Mapping[str, Any]]:
        try:
            async with asyncio.timeout(_HTTP_SECONDS):
                answer = await self._client.send(request, stream=True, follow_redirects=False)
                try:
                    content = await _read_limited(answer)
                finally:
                    await answer.aclose()
            found = json.loads(content)
        except (httpx.HTTPError, TimeoutError, ValueError, RecursionError) as error:
            raise OidcUnavailable(what, type(error).__name__) from error
        if not isinstance(found, dict):
            raise OidcUnavailable(what, "it is no JSON object")
        return answer.status_code, found


@asynccontextmanager
async def open_provider(options: OidcOptions | None) -> AsyncIterator[OidcProvider | None]:
    """Open what talks to a provider, for the block; None where there is none."""
    if options is None:
        yield None
        return
    async with httpx.AsyncClient(timeout=_HTTP_SECONDS) as client:
        yield OidcProvider(options, client)


async def _read_limited(answer: httpx.Response) -> bytes:
    content = b""
    async for chunk in answer.aiter_bytes():
        content += chunk
        if len(content) > LARGEST_ANSWER:
            raise ValueError(f"it is larger than {LARGEST_ANSWER} bytes")
    return content


def read_keys(document: Mapping[str, Any]) -> list[Key]:
    """Return the public keys of a key set that may sign; those of a kind that is not known are left out."""
    given = document.get("keys")
    found = []
    for each in given if isinstance(given, list) else []:
        if not isinstance(each, dict) or each.get("kty") not in KEY_TYPES or each.get("use", "sig") != "sig":
            continue
        try:
            found.append(JWKRegistry.import_key(each))
        except (JoseError, ValueError, TypeError, KeyError):
            continue
    return found


def _find_key(keys: list[Key], kid: object, algorithm: str) -> Key | None:
    """Find the key of an id; without an id, the only one there is (OpenID Connect Core 1.0, 10.1)."""
    good = [key for key in keys if key.get("alg", algorithm) == algorithm]
    if kid is None:
        return good[0] if len(good) == 1 else None
    return next((key for key in good if key.kid == kid), None)


def _checked_session(claims: Mapping[str, Any], nonce: str, client_id: str) -> OidcSession:
    """Return who logs in. What authlib lets pass where a claim is missing is looked at once more."""
    if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
        raise OidcTokenWrong("the claim 'nonce' of its ID token is not good")
    _check_audience(claims, client_id)
    subject = _named(claims, "sub")
    if subject is None:
        raise OidcTokenWrong("the claim 'sub' of its ID token is not good")
    return OidcSession(subject, _named(claims, "sid"))


def _checked_logout(claims: Mapping[str, Any], header: Mapping[str, Any], client_id: str) -> SessionEnd:
    """Return what is ended. No other token of the provider is one of these: they have no such event."""
    events, jti = claims.get("events"), _named(claims, "jti")
    if str(header.get("typ", LOGOUT_TYPE)).lower() not in {LOGOUT_TYPE, "jwt"} or "nonce" in claims:
        raise OidcTokenWrong("it is a token of another kind")
    if not isinstance(events, dict) or not isinstance(events.get(LOGOUT_EVENT), dict):
        raise OidcTokenWrong("its claim 'events' has no logout")
    _check_audience(claims, client_id)
    subject, sid = _named(claims, "sub"), _named(claims, "sid")
    if jti is None or (subject is None and sid is None):
        raise OidcTokenWrong("it has no 'jti', or neither 'sub' nor 'sid'")
    return SessionEnd(jti, subject, sid)


def _check_audience(claims: Mapping[str, Any], client_id: str) -> None:
    if claims.get("aud") not in (client_id, [client_id]) and claims.get("azp") != client_id:
        raise OidcTokenWrong("the claim 'aud' is not good")


def _named(claims: Mapping[str, Any], name: str) -> str | None:
    """Return a claim that names something; None if there is none that can be kept.

    Raises:
        OidcTokenWrong: there is one that cannot.
    """
    found = claims.get(name)
    if found is None:
        return None
    if not isinstance(found, str) or not 0 < len(found) <= LONGEST_SUBJECT or not found.isprintable():
        raise OidcTokenWrong(f"the claim {name!r} is not good")
    return found
