"""What an OpenID provider says is believed only if all of it is right."""

import hmac
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from app.access.errors import OidcLogoutWrong, OidcRefused, OidcTokenWrong, OidcUnavailable
from app.access.oidc import (
    AGAIN_SECONDS,
    KEYS_SECONDS,
    LARGEST_ANSWER,
    LOGOUT_EVENT,
    OidcOptions,
    OidcProvider,
    SessionEnd,
    check_url,
    read_keys,
    read_metadata,
)

ISSUER, CLIENT, NONCE = "https://login.example", "mes", "the nonce of this login"
OPTIONS = OidcOptions(
    issuer=ISSUER,
    client_id=CLIENT,
    client_secret="what only we know",
    callback="https://mes/v1/oidc/callback",
)
KEY = RSAKey.generate_key(2048, {"kid": "1", "use": "sig", "alg": "RS256"})
NEXT = ECKey.generate_key("P-256", {"kid": "2", "use": "sig"})
METADATA: dict[str, Any] = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/auth",
    "token_endpoint": f"{ISSUER}/token",
    "jwks_uri": f"{ISSUER}/keys",
    "id_token_signing_alg_values_supported": ["RS256", "ES256", "HS256", "none"],
}


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    made = {"iss": ISSUER, "sub": "rosa", "aud": CLIENT, "nonce": NONCE, "iat": now, "exp": now + 60}
    return {name: value for name, value in (made | changes).items() if value is not None}


def signed(key: Any = KEY, *, alg: str = "RS256", kid: str | None = "1", **changes: Any) -> str:
    header = {"alg": alg} | ({} if kid is None else {"kid": kid})
    return jwt.encode(header, claims(**changes), key, algorithms=[alg])


def _signed_with_the_public_key() -> str:
    """Make a token as those do who take what is published for a secret; libraries refuse to."""
    header = urlsafe_b64encode(b'{"alg":"HS256","kid":"1"}').decode()
    content = f"{header}.{signed().split('.')[1]}"
    digest = hmac.digest(KEY.as_pem(private=False), content.encode(), "sha256")
    return f"{content}.{urlsafe_b64encode(digest).decode().rstrip('=')}"


@dataclass
class Fake:
    """A provider that answers what a test wants."""

    token: str = ""
    status: int = 200
    answer: Mapping[str, Any] | None = None
    keys: list[Any] = field(default_factory=lambda: [KEY])
    metadata: Mapping[str, Any] = field(default_factory=lambda: METADATA)
    away: frozenset[str] = frozenset()
    asked: list[str] = field(default_factory=list)
    form: dict[str, list[str]] = field(default_factory=dict)
    moment: float = 1000.0

    def handle(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.rpartition("/")[2]
        self.asked.append(path)
        if path in self.away:
            raise httpx.ConnectError("no one is there")
        if path == "openid-configuration":
            return httpx.Response(200, json=self.metadata)
        if path == "keys":
            return httpx.Response(200, json={"keys": [key.as_dict(private=False) for key in self.keys]})
        self.form = parse_qs(request.content.decode())
        assert request.headers["authorization"].startswith("Basic ")
        return httpx.Response(self.status, json=self.answer or {"id_token": self.token})

    def provider(self) -> OidcProvider:
        client = httpx.AsyncClient(transport=httpx.MockTransport(self.handle))
        return OidcProvider(OPTIONS, client, clock=lambda: self.moment)

    async def finish(self, *, issuer: str | None = None) -> str:
        found = await self.provider().finish(code="c", verifier="v", nonce=NONCE, issuer=issuer)
        return found.subject


async def test_a_login_asks_with_a_challenge_a_state_and_a_nonce_that_are_new_each_time() -> None:
    provider = Fake().provider()
    first, second = await provider.begin(), await provider.begin()
    asked = {name: values[0] for name, values in parse_qs(urlsplit(first.url).query).items()}
    assert asked["code_challenge_method"] == "S256"
    assert asked["code_challenge"] != first.verifier
    assert (asked["state"], asked["nonce"], asked["scope"]) == (first.state, first.nonce, "openid")
    assert (asked["response_type"], asked["redirect_uri"]) == ("code", OPTIONS.callback)
    assert len({first.state, second.state, first.nonce, second.nonce, first.verifier, second.verifier}) == 6


async def test_who_the_token_names_has_logged_in() -> None:
    fake = Fake(signed())
    assert await fake.finish() == "rosa"
    assert (fake.form["code_verifier"], fake.form["redirect_uri"]) == (["v"], [OPTIONS.callback])
    assert await Fake(signed(kid=None)).finish() == "rosa"  # the only key there is
    assert await Fake(signed(aud=[CLIENT])).finish() == "rosa"
    assert await Fake(signed(aud=[CLIENT, "wiki"], azp=CLIENT)).finish() == "rosa"


WRONG: Mapping[str, Callable[[], Fake]] = {
    "nonce of another login": lambda: Fake(signed(nonce="another")),
    "no nonce": lambda: Fake(signed(nonce=None)),
    "other issuer": lambda: Fake(signed(iss="https://evil.example")),
    "no issuer": lambda: Fake(signed(iss=None)),
    "other audience": lambda: Fake(signed(aud="wiki")),
    "two audiences without azp": lambda: Fake(signed(aud=[CLIENT, "wiki"])),
    "azp is another": lambda: Fake(signed(azp="wiki")),
    "no audience": lambda: Fake(signed(aud=None)),
    "expired": lambda: Fake(signed(exp=int(time.time()) - 60)),
    "never expires": lambda: Fake(signed(exp=None)),
    "not yet valid": lambda: Fake(signed(nbf=int(time.time()) + 90)),
    "issued in the future": lambda: Fake(signed(iat=int(time.time()) + 90)),
    "no subject": lambda: Fake(signed(sub=None)),
    "empty subject": lambda: Fake(signed(sub="")),
    "subject is a number": lambda: Fake(signed(sub=7)),
    "subject with a line end": lambda: Fake(signed(sub="ro\nsa")),
    "at_hash of another token": lambda: Fake(
        answer={"id_token": signed(at_hash="AAAAAAAAAAAAAAAAAAAAAA"), "access_token": "a"}
    ),
    "alg none": lambda: Fake("eyJhbGciOiJub25lIn0." + signed().split(".")[1] + "."),
    "HS256 with the public key": lambda: Fake(_signed_with_the_public_key()),
    "HS256 with the client's secret": lambda: Fake(
        signed(OctKey.import_key("what only we know, as a key of 32 bytes"), alg="HS256")
    ),
    "a key that is not published": lambda: Fake(signed(RSAKey.generate_key(2048))),
    "key id that is not published": lambda: Fake(signed(kid="7")),
    "algorithm that the key is not for": lambda: Fake(
        signed(RSAKey.import_key(KEY.as_pem(private=True)), alg="PS256"),
        metadata=METADATA | {"id_token_signing_alg_values_supported": ["PS256"]},
    ),
    "no id and two keys": lambda: Fake(
        signed(kid=None), keys=[KEY, RSAKey.generate_key(2048, {"kid": "3", "alg": "RS256"})]
    ),
    "no JWT": lambda: Fake("a.b.c"),
    "no token": lambda: Fake(answer={"access_token": "a"}),
}


@pytest.mark.parametrize("fault", WRONG)
async def test_a_token_that_is_not_right_lets_no_one_in(fault: str) -> None:
    with pytest.raises(OidcTokenWrong):
        await WRONG[fault]().finish()


async def test_who_answers_must_be_the_provider_that_was_asked() -> None:
    names = METADATA | {"authorization_response_iss_parameter_supported": True}
    assert await Fake(signed(), metadata=names).finish(issuer=ISSUER) == "rosa"
    for issuer in (None, "https://evil.example"):
        fake = Fake(signed(), metadata=names)
        with pytest.raises(OidcTokenWrong, match="issuer"):
            await fake.finish(issuer=issuer)
        assert "token" not in fake.asked  # nor does it get the code


async def test_keys_are_rotated_without_a_restart_and_asked_for_no_more_often_than_that() -> None:
    fake = Fake(signed())
    provider = fake.provider()

    async def finish() -> str:
        return (await provider.finish(code="c", verifier="v", nonce=NONCE, issuer=None)).subject

    assert await finish() == "rosa"
    fake.moment += AGAIN_SECONDS
    fake.keys, fake.token = [KEY, NEXT], signed(NEXT, alg="ES256", kid="2")
    assert await finish() == "rosa"
    assert fake.asked.count("keys") == 2
    for kid in ("x", "y", "z"):
        fake.token = signed(kid=kid)
        with pytest.raises(OidcTokenWrong):
            await finish()
    assert fake.asked.count("keys") == 2
    fake.moment += KEYS_SECONDS
    fake.keys, fake.token = [NEXT], signed()
    with pytest.raises(OidcTokenWrong, match="publish"):
        await finish()


@pytest.mark.parametrize("away", ["openid-configuration", "keys", "token"])
async def test_a_provider_that_is_away_is_named(away: str) -> None:
    with pytest.raises(OidcUnavailable):
        await Fake(signed(), away=frozenset({away})).finish()


async def test_a_code_that_was_used_or_is_of_another_is_refused_and_a_wrong_secret_is_ours() -> None:
    with pytest.raises(OidcRefused, match="invalid_grant"):
        await Fake(status=400, answer={"error": "invalid_grant"}).finish()
    with pytest.raises(OidcUnavailable, match="invalid_client"):
        await Fake(status=401, answer={"error": "invalid_client"}).finish()
    for status in (302, 404, 500):
        with pytest.raises(OidcUnavailable, match=str(status)):
            await Fake(status=status, answer={"a": 1}).finish()


@pytest.mark.parametrize(
    "content", [b"[]", b"no JSON", b"[" * 100_000, b'{"a": "' + b"x" * LARGEST_ANSWER + b'"}']
)
async def test_metadata_that_cannot_be_read(content: bytes) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=content))
    with pytest.raises(OidcUnavailable, match="metadata"):
        await OidcProvider(OPTIONS, httpx.AsyncClient(transport=transport)).begin()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"issuer": "https://evil.example"}, "evil"),
        ({"jwks_uri": "http://login.example/keys"}, "no https URL"),
        ({"token_endpoint": "file:///etc/passwd"}, "no https URL"),
        ({"authorization_endpoint": None}, "no https URL"),
        ({"id_token_signing_alg_values_supported": ["HS256", "none"]}, "none of these is good"),
    ],
)
def test_metadata_of_another_or_that_is_not_safe(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_metadata(METADATA | changes, ISSUER)


def test_secrets_go_by_tls_or_stay_on_this_machine() -> None:
    for url in ("https://login.example", "http://127.0.0.1:4711", "http://[::1]/", "http://localhost:1"):
        assert check_url(url) == url
    for url in ("http://login.example", "http://127.0.0.1.evil.example", "//login.example", "https://", ""):
        with pytest.raises(ValueError, match="https"):
            check_url(url)


def test_keys_that_may_not_sign_are_left_out() -> None:
    good = KEY.as_dict(private=False)
    others = [{"kty": "oct", "k": "AAAA"}, {**good, "use": "enc"}, {"kty": "RSA"}, {"kty": "new"}, 7, None]
    assert [key.kid for key in read_keys(json.loads(json.dumps({"keys": [*others, good]})))] == ["1"]
    assert read_keys({"keys": "none"}) == []


def logout(**changes: Any) -> str:
    """Make a logout token; what is changed to None is left out."""
    made: dict[str, Any] = {"events": {LOGOUT_EVENT: {}}, "jti": "1", "sid": "s", "nonce": None}
    return signed(**(made | changes))


async def test_a_logout_token_says_what_is_ended() -> None:
    provider = Fake().provider()
    assert await provider.read_logout(logout()) == SessionEnd("1", "rosa", "s")
    assert await provider.read_logout(logout(sid=None)) == SessionEnd("1", "rosa", None)
    assert await provider.read_logout(logout(sub=None)) == SessionEnd("1", None, "s")


@pytest.mark.parametrize(
    "token",
    [
        signed(),  # an ID token
        logout(nonce=NONCE),
        logout(events={}),
        logout(events={LOGOUT_EVENT: None}),
        logout(events=LOGOUT_EVENT),
        logout(sub=None, sid=None),
        logout(sid=["s"]),
        logout(sid="a\nb"),
        logout(jti=None),
        logout(aud="wiki"),
        logout(iss="https://evil.example"),
        logout(exp=int(time.time()) - 60),
        logout(exp=None),
        logout(iat=int(time.time()) + 600),
        logout(key=NEXT, alg="ES256", kid="2"),
        logout()[:-4] + "AAAA",
        "x",
        "a.b.c",
        "..",
    ],
)
async def test_a_logout_token_that_is_not_right_ends_nothing(token: str) -> None:
    with pytest.raises(OidcLogoutWrong):
        await Fake().provider().read_logout(token)
