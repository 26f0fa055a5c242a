"""Reading bounds as PostgreSQL prints them."""

import pytest

from partitions.bounds import DefaultBound, KeyRange, ValueList, parse_bound
from partitions.errors import UnknownBound


@pytest.mark.parametrize(
    ("printed", "bound"),
    [
        ("DEFAULT", DefaultBound()),
        ("FOR VALUES IN ('CLOSED')", ValueList(frozenset({"CLOSED"}))),
        ("FOR VALUES IN ('A', 'B, C', 'it''s')", ValueList(frozenset({"A", "B, C", "it's"}))),
        ("FOR VALUES IN (1, -2)", ValueList(frozenset({"1", "-2"}))),
        ("FOR VALUES FROM ('-5') TO ('9223372036854775807')", KeyRange(-5, 2**63 - 1)),
        ("FOR VALUES FROM (1) TO (20)", KeyRange(1, 20)),
    ],
)
def test_bound_is_read(printed: str, bound: object) -> None:
    assert parse_bound("part", printed) == bound


@pytest.mark.parametrize(
    "printed",
    [
        "FOR VALUES FROM ('1', '2') TO ('3', '4')",
        "FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')",
        "FOR VALUES WITH (modulus 4, remainder 1)",
        "FOR VALUES IN (NULL)",
    ],
)
def test_bound_of_another_kind_is_named(printed: str) -> None:
    with pytest.raises(UnknownBound, match="partition part has a bound of an unknown kind"):
        parse_bound("part", printed)
