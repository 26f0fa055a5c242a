"""The grace period as people type it."""

from datetime import timedelta

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from ops.options import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("0s", timedelta(0)),
        ("90m", timedelta(minutes=90)),
        ("12h", timedelta(hours=12)),
        ("30d", timedelta(days=30)),
        ("2w", timedelta(days=14)),
    ],
)
def test_duration_is_read(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1.5h", "30 d", "1y", "9999999d"])
def test_text_that_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no duration: write it like 30d"):
        parse_duration(text)


@given(st.integers(0, 999_999).map(lambda seconds: timedelta(seconds=seconds)))
def test_duration_reads_back(duration: timedelta) -> None:
    assert parse_duration(format_duration(duration)) == duration
