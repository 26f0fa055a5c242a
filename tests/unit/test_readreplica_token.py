"""WAL positions and causal tokens."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readreplica.errors import LsnMalformed, TokenMalformed
from readreplica.token import CausalToken
from readreplica.wal import UNKNOWN_SYSTEM, Lsn, Position

MEGABYTE = 1 << 20
POSITIONS = st.builds(
    Position, st.integers(0, 2**64 - 1), st.integers(1, 2**32 - 1), st.integers(0, 2**64 - 1).map(Lsn)
)
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True)
TOKENS = st.builds(CausalToken, st.dictionaries(NAMES, POSITIONS))


def at(lsn: int, *, timeline: int = 1, system: int = 7) -> CausalToken:
    return CausalToken({"mes_0": Position(system, timeline, Lsn(lsn))})


@given(st.integers(0, 2**64 - 1).map(Lsn))
def test_an_lsn_is_read_back(lsn: Lsn) -> None:
    assert Lsn.parse(str(lsn)) == lsn


def test_an_lsn_is_ordered_as_a_number() -> None:
    assert Lsn.parse("0/FFFFFFFF") < Lsn.parse("1/0")
    assert str(Lsn.parse("16/b374d848")) == "16/B374D848"


@pytest.mark.parametrize("text", ["", "1", "1/", "x/1", "1/123456789", " 1/1", "1/1\n"])
def test_what_is_no_lsn_is_refused(text: str) -> None:
    with pytest.raises(LsnMalformed):
        Lsn.parse(text)


@pytest.mark.parametrize(
    ("position", "end"),
    [
        (3 * 8192 + 24, 3 * 8192),
        (3 * 8192 + 32, 3 * 8192 + 32),
        (16 * MEGABYTE + 40, 16 * MEGABYTE),
        # 24 and 40 bytes are headers only where such a header stands.
        (3 * 8192 + 40, 3 * 8192 + 40),
        (MEGABYTE + 40, MEGABYTE + 40),
    ],
)
def test_a_page_header_is_no_record(position: int, end: int) -> None:
    assert Lsn(position).before_page_header(block_bytes=8192, segment_bytes=16 * MEGABYTE) == end


@given(TOKENS)
def test_a_token_is_read_back(token: CausalToken) -> None:
    assert CausalToken.decode(token.encode()) == token


@given(TOKENS)
def test_a_token_is_safe_in_headers_cookies_and_urls(token: CausalToken) -> None:
    assert set(token.encode()) <= set("abcdefghijklmnopqrstuvwxyz0123456789_.~")


def test_the_format_of_version_1_stays() -> None:
    token = CausalToken({"mes_0": Position(0x6B04, 1, Lsn.parse("1/45450B8"))})
    assert token.encode() == "1~mes_0.6b04.1.1045450b8"
    assert CausalToken().encode() == "1"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "version"),
        ("2~mes_0.1.1.1", "version is not 1"),
        ("1~", "is not cluster.system.timeline.lsn"),
        ("1~mes_0.1.1", "is not cluster"),
        ("1~mes_0.1.1.-1", "is not cluster"),
        ("1~mes_0.1.1.1_0", "is not cluster"),
        ("1~mes_0.1.1.1~mes_0.1.1.2", "twice"),
        ("1~mes_0.1.1.12345678901234567", "is not cluster"),
        ("1" * 5000, "longer than 4096"),
    ],
)
def test_what_is_no_token_is_refused(text: str, fault: str) -> None:
    with pytest.raises(TokenMalformed, match=fault):
        CausalToken.decode(text)


@given(st.text(max_size=60))
def test_any_text_is_a_token_or_malformed(text: str) -> None:
    with suppress(TokenMalformed):
        assert CausalToken.decode(text).encode()


def test_a_token_cannot_be_changed() -> None:
    positions = {"mes_0": Position(1, 1, Lsn(1))}
    token = CausalToken(positions)
    positions.clear()
    assert token
    assert hash(token) == hash(at(1, system=1))
    with pytest.raises(TypeError):
        token.positions["mes_1"] = Position(1, 1, Lsn(1))  # type: ignore[index]


@given(TOKENS, TOKENS)
def test_a_merged_token_asks_for_every_cluster_of_both(one: CausalToken, other: CausalToken) -> None:
    assert one.merge(other).positions.keys() == one.positions.keys() | other.positions.keys()


@pytest.mark.parametrize(
    ("one", "other", "merged"),
    [
        (at(5), at(9), at(9)),
        (at(9), at(5), at(9)),
        (at(9), at(5, timeline=2), at(5, timeline=2)),
        (at(5, timeline=2), at(9), at(5, timeline=2)),
        (at(9), at(5, system=8), at(5, system=8)),
    ],
)
def test_of_one_cluster_the_later_position_wins(
    one: CausalToken, other: CausalToken, merged: CausalToken
) -> None:
    assert one.merge(other) == merged


UNKNOWN = at(50, system=UNKNOWN_SYSTEM)


@pytest.mark.parametrize("real", [at(5), at(500), at(5, timeline=2), at(5, system=8)])
def test_a_position_of_no_known_system_stays_in_a_merge(real: CausalToken) -> None:
    assert UNKNOWN.merge(real) == real.merge(UNKNOWN) == UNKNOWN


def test_a_commit_known_to_come_after_it_stands_for_a_position_of_no_known_system() -> None:
    assert UNKNOWN.followed_by(at(5)) == at(5)
    assert UNKNOWN.followed_by(at(5, timeline=2)) == at(5, timeline=2)
    newer = at(50, timeline=2, system=UNKNOWN_SYSTEM)
    assert newer.followed_by(at(500)) == newer
    assert at(500).followed_by(UNKNOWN) == UNKNOWN
    assert at(9).followed_by(at(5)) == at(9)
    assert UNKNOWN.followed_by(CausalToken()) == UNKNOWN


@pytest.mark.parametrize(
    ("node", "covered"),
    [
        (Position(7, 2, Lsn(100)), True),
        (Position(7, 2, Lsn(99)), False),
        (Position(7, 3, Lsn(100)), True),
        # The same LSN on an older timeline is another record.
        (Position(7, 1, Lsn(500)), False),
        (Position(8, 2, Lsn(500)), False),
    ],
)
def test_a_node_covers_what_its_history_holds(node: Position, covered: bool) -> None:
    assert node.covers(Position(7, 2, Lsn(100))) is covered
