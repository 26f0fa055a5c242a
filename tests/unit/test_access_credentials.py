"""API keys, passwords and tokens: what is taken, and what attackers send."""

import base64
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

from app.access.credentials import (
    AUDIENCE,
    LIFETIMES,
    TokenKeys,
    TokenUse,
    digest_of,
    hash_password,
    is_password,
    new_api_key,
    read_api_key,
)
from app.kit.caller import network_of

SECRET = "a secret of thirty-two bytes or more"
KEYS = TokenKeys({"new": SECRET, "old": "another secret of thirty-two bytes"})
NOW = datetime(2026, 12, 2, 12, tzinfo=UTC)
CLAIMS = {"sub": "Rosa", "role": "operator"}


def token(header: dict[str, Any] | None = None, *, secret: str = SECRET, **claims: Any) -> str:
    """Sign what an attacker would like."""
    second = int(NOW.timestamp())
    whole = {
        "sub": "Rosa",
        "use": "service",
        "aud": AUDIENCE,
        "iat": second,
        "nbf": second,
        "exp": second + 60,
    }
    whole = {name: value for name, value in (whole | claims).items() if value is not None}
    key = OctKey.import_key(secret.encode())
    algorithms = ["HS256", "HS512"]
    return jwt.encode({"alg": "HS256", "kid": "new"} | (header or {}), whole, key, algorithms=algorithms)


def b64(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_a_key_is_known_by_its_digest_alone() -> None:
    made = new_api_key()
    assert read_api_key(made.text) == (made.credential_id, made.digest)
    tried = new_api_key(is_sandbox=True)
    assert (tried.text[:3], read_api_key(tried.text)) == ("mt_", (tried.credential_id, tried.digest))
    assert made.text.partition(made.credential_id)[2].removeprefix("_") not in repr(made.digest)
    assert made.digest == digest_of(made.text[16:])
    assert len({new_api_key().text for _ in range(1000)}) == 1000


@pytest.mark.parametrize("text", ["", "mk_", "mk_abcdefghijkl_short", "MK_abcdefghijkl_" + "a" * 43, "a.b.c"])
def test_what_is_no_key(text: str) -> None:
    assert read_api_key(text) is None


def test_a_password_is_checked_as_long_where_there_is_none() -> None:
    hashed = hash_password("correct horse")
    assert hashed.startswith("$argon2id$")
    assert is_password("correct horse", hashed)
    assert not is_password("correct house", hashed)
    assert not is_password("correct horse", None)
    assert not is_password("correct horse", "no hash")


@pytest.mark.parametrize("use", TokenUse)
def test_a_token_says_what_it_was_made_for(use: TokenUse) -> None:
    found = KEYS.read(KEYS.sign(use, CLAIMS, now=NOW), now=NOW + LIFETIMES[use] - timedelta(seconds=1))
    assert found is not None
    assert (found[0], found[1]["sub"]) == (use, "Rosa")
    assert KEYS.read(KEYS.sign(use, CLAIMS, now=NOW), now=NOW + LIFETIMES[use]) is None


def test_all_keys_are_taken_and_the_first_signs() -> None:
    old = TokenKeys({"old": "another secret of thirty-two bytes"})
    assert KEYS.read(old.sign(TokenUse.LINK, {"sub": "17"})) is not None
    assert old.read(KEYS.sign(TokenUse.LINK, {"sub": "17"})) is None  # rotated away


def test_what_was_signed_by_us_is_taken() -> None:
    assert KEYS.read(token(), now=NOW) is not None


BAD: dict[str, str] = {
    "no algorithm": f"{b64({'alg': 'none', 'kid': 'new'})}.{b64(CLAIMS | {'use': 'service'})}.",
    "no signature": token().rpartition(".")[0] + ".",
    "another algorithm": token({"alg": "HS512"}),
    "another key": token(secret="a secret that an attacker has made up"),
    "unknown kid": token({"kid": "other"}),
    "kid of another key": token({"kid": "old"}),
    "kid as a path": token({"kid": "../../dev/null"}),
    "no kid": f"{b64({'alg': 'HS256'})}.{token().partition('.')[2]}",
    "a key in the header": token({"jku": "https://evil.example/keys.json"}),
    "critical header": f"{b64({'alg': 'HS256', 'kid': 'new', 'crit': ['b64']})}.{token().partition('.')[2]}",
    "expired": token(exp=int(NOW.timestamp())),
    "not yet valid": token(nbf=int(NOW.timestamp()) + 60),
    "made in the future": token(iat=int(NOW.timestamp()) + 60, exp=int(NOW.timestamp()) + 120),
    "wrong audience": token(aud="another system"),
    "several audiences": token(aud=[AUDIENCE, "another system"]),
    "no end": token(exp=None),
    "an end as text": token(exp="9999999999"),
    "an end as a boolean": token(exp=True),
    "good for too long": token(exp=int(NOW.timestamp()) + 3600),
    "no use": token(use=None),
    "unknown use": token(use="god"),
    "no subject": token(sub=None),
    "a subject that is no text": token(sub=17),
    "two parts": "a.b",
    "five parts": "a.b.c.d.e",
    "not base64": "ä.ö.ü",
    "a list": f"{b64({'alg': 'HS256', 'kid': 'new'})}.{b64([1])}.c2ln",
    "very long": token(more="x" * 5000),
    "a payload that was changed": ".".join(
        (token().split(".")[0], b64(CLAIMS | {"use": "service", "role": "admin"}), token().split(".")[2])
    ),
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_what_attackers_send_is_refused(text: str) -> None:
    assert KEYS.read(text, now=NOW) is None


def test_a_token_of_a_sandbox_is_no_token_in_earnest() -> None:
    secrets = {"new": SECRET}
    for signs, reads in ((True, False), (False, True)):
        token = TokenKeys(secrets, is_sandbox=signs).sign(TokenUse.ACCESS, {"sub": "atelier-nord"})
        assert TokenKeys(secrets, is_sandbox=signs).read(token) is not None
        assert TokenKeys(secrets, is_sandbox=reads).read(token) is None


def test_a_public_key_is_no_secret() -> None:
    """A verifier that believes `alg` takes the text of a public key for the secret of HMAC."""
    public = RSAKey.generate_key(2048).as_pem(private=False).decode()
    keys = TokenKeys({"new": SECRET})
    signed = token().rpartition(".")[0]
    mac = (
        base64.urlsafe_b64encode(hmac.digest(public.encode(), signed.encode(), "sha256"))
        .rstrip(b"=")
        .decode()
    )
    assert keys.read(f"{signed}.{mac}", now=NOW) is None


@pytest.mark.parametrize("text", ["a", "a=short", "a=" + "x" * 32 + ",a", "=" + "x" * 32, "a b=" + "x" * 32])
def test_keys_that_are_not_good_are_named_without_their_secret(text: str) -> None:
    with pytest.raises(ValueError, match=r"key|NAME") as caught:
        TokenKeys.parse(text)
    assert "x" * 8 not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("a host", "a host"),
        (None, "unknown"),
    ],
)
def test_what_counts_as_one_address(address: str | None, network: str) -> None:
    assert network_of(address) == network
