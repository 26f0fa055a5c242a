"""Signed tokens: what is refused, by name, and how keys are rotated."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readreplica.errors import (
    ReadReplicaError,
    TokenForged,
    TokenKeyUnknown,
    TokenMalformed,
    TokenUnsigned,
)
from readreplica.signing import KeyRing
from readreplica.token import CausalToken
from readreplica.wal import Lsn, Position

TOKEN = CausalToken({"mes_0": Position(0x6B04, 1, Lsn(0x45450B8)), "crm": Position(9, 2, Lsn(1))})
OLD, NEW = b"o" * 32, b"n" * 32


def test_a_signed_token_is_read_back() -> None:
    ring = KeyRing({"k1": OLD})
    assert ring.verify(ring.sign(TOKEN)) == TOKEN
    assert ring.verify(ring.sign(CausalToken())) == CausalToken()


def test_the_format_stays() -> None:
    assert KeyRing({"k1": OLD}).sign(CausalToken()) == "1!k1.2PlwduEQSXPx9I0uq1Y2Xw"


def test_a_signed_token_is_safe_in_headers_cookies_and_urls() -> None:
    # RFC 6265's cookie-octet and RFC 3986's path and query have all of these.
    text = KeyRing({"k1": OLD}).sign(TOKEN)
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.~!")


def test_keys_are_rotated_without_a_token_lost() -> None:
    before, during, done = KeyRing({"k1": OLD}), KeyRing({"k2": NEW, "k1": OLD}), KeyRing({"k2": NEW})
    text = before.sign(TOKEN)
    assert during.verify(text) == TOKEN
    assert done.verify(during.sign(TOKEN)) == TOKEN
    with pytest.raises(TokenKeyUnknown, match="its key 'k1' is not, or no longer, known") as caught:
        done.verify(text)
    assert caught.value.key == "k1"


@given(st.data())
def test_no_character_can_be_changed(data: st.DataObject) -> None:
    ring = KeyRing({"k1": OLD, "k2": NEW})
    text = ring.sign(TOKEN)
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(codec="ascii").filter(lambda character: character != text[place]))
    changed = text[:place] + other + text[place + 1 :]
    # The last character of 128 bits in base64 holds two bits that mean nothing; the text is compared whole.
    with pytest.raises(TokenMalformed):
        ring.verify(changed)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", TokenUnsigned),
        (TOKEN.encode(), TokenUnsigned),
        (KeyRing({"k1": NEW}).sign(TOKEN), TokenForged),
        (KeyRing({"k9": OLD}).sign(TOKEN), TokenKeyUnknown),
        ("1!k1." + "A" * 22, TokenForged),
        ("1!k1." + "A" * 21 + "é", TokenUnsigned),
        ("1" * 5000, TokenMalformed),
        ("\ud800!k1." + "A" * 22, TokenMalformed),
        ("é!k9." + "A" * 22, TokenMalformed),
    ],
)
def test_each_failure_has_its_name(text: str, error: type[ReadReplicaError]) -> None:
    with pytest.raises(error) as caught:
        KeyRing({"k1": OLD}).verify(text)
    assert type(caught.value) is error


def test_a_ring_shows_no_key() -> None:
    assert repr(KeyRing({"k2": NEW, "k1": OLD})) == "KeyRing(k2, k1)"


@pytest.mark.parametrize("keys", [{}, {"k1": b"short"}, {"k 1": OLD}])
def test_a_ring_of_bad_keys_is_refused(keys: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match="key"):
        KeyRing(keys)
