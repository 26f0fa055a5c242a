"""Only a cursor that was handed out for this very query is taken."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import BigInteger, Column, MetaData, Table, Text, select

from sharding.errors import CursorMalformed, CursorOfAnotherQuery
from sharding.scatter.analysis import analyse, fingerprint
from sharding.scatter.pages import CursorKeys, fingerprint_of

KEYS = CursorKeys(b"the key of these tests")
QUERY = fingerprint_of("SELECT 1")
VALUES = [
    *(None, True, 0, -(2**63), "é", Decimal("1.10"), Decimal("-Infinity"), 0.1, float("inf"), b"\x00\xff"),
    UUID(int=5),
]


def test_values_come_back_as_they_were() -> None:
    cursor = KEYS.seal(QUERY, VALUES)
    opened = KEYS.open(cursor, QUERY)
    assert opened == VALUES
    assert [type(value) for value in opened] == [type(value) for value in VALUES]


def test_a_cursor_is_safe_in_a_url() -> None:
    assert set(KEYS.seal(QUERY, VALUES)) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
    )


@given(place=st.integers(min_value=0), bit=st.integers(0, 7))
def test_a_changed_cursor_is_refused(place: int, bit: int) -> None:
    cursor = KEYS.seal(QUERY, [1, "a"])
    raw = bytearray(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    raw[place % len(raw)] ^= 1 << bit
    with pytest.raises(CursorMalformed):
        KEYS.open(urlsafe_b64encode(raw).rstrip(b"=").decode(), QUERY)


@pytest.mark.parametrize("cursor", ["", "k", "k1f", "é", "....", "A" * 21, "A" * 22, "A" * 500, " "])
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(CursorMalformed):
        KEYS.open(cursor, QUERY)


def test_text_around_a_cursor_is_refused() -> None:
    cursor = KEYS.seal(QUERY, [1])
    for changed in (f"{cursor} ", f"{cursor}=", f".{cursor}", cursor[:-1]):
        with pytest.raises(CursorMalformed):
            KEYS.open(changed, QUERY)


def test_a_cursor_of_another_query_is_named_so() -> None:
    with pytest.raises(
        CursorOfAnotherQuery, match="belongs to another query, other parameters or another order"
    ):
        KEYS.open(KEYS.seal(fingerprint_of("SELECT 2"), [1]), QUERY)


def test_the_previous_key_is_taken_and_a_gone_one_is_not() -> None:
    old = CursorKeys(b"an older key, now going")
    rotated = CursorKeys(KEYS.current, previous=old.current)
    assert rotated.open(old.seal(QUERY, [1]), QUERY) == [1]
    with pytest.raises(CursorMalformed):
        KEYS.open(old.seal(QUERY, [1]), QUERY)


def test_a_key_that_could_be_guessed_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 16 bytes; this one has 5"):
        CursorKeys(b"short")


def test_a_key_is_not_shown() -> None:
    assert "these tests" not in repr(KEYS)


orders = Table("orders", MetaData(), Column("order_id", BigInteger, primary_key=True), Column("status", Text))
BASE = select(orders).where(orders.c.status == "a").order_by(orders.c.order_id)
OTHERS: dict[str, Any] = {
    "parameter": select(orders).where(orders.c.status == "b").order_by(orders.c.order_id),
    "order": select(orders).where(orders.c.status == "a").order_by(orders.c.order_id.desc()),
    "columns": select(orders.c.order_id).where(orders.c.status == "a").order_by(orders.c.order_id),
    "list": select(orders).where(orders.c.status.in_(["a"])).order_by(orders.c.order_id),
    "longer list": select(orders).where(orders.c.status.in_(["a", "b"])).order_by(orders.c.order_id),
    "condition": BASE.where(orders.c.order_id > 1),
}


def of(statement: Any) -> bytes:
    return fingerprint(statement, analyse(statement, key="order_id"))


@pytest.mark.parametrize("name", OTHERS)
def test_a_fingerprint_tells_queries_apart(name: str) -> None:
    same = select(orders).where(orders.c.status == "a").order_by(orders.c.order_id)
    assert of(same) == of(BASE)
    others = {other: of(statement) for other, statement in OTHERS.items()}
    assert others[name] != of(BASE)
    assert len(set(others.values())) == len(others)
