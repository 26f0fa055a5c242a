"""The token bucket that a grant fills."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.flow.grants import Allowance, Grant

AT = datetime(2026, 11, 3, 9, 30, tzinfo=UTC)


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def grant(per_second: float, burst: int = 10) -> Grant:
    return Grant(
        sender="shop",
        per_second=per_second,
        burst=burst,
        issued_at=AT,
        expires_at=AT + timedelta(seconds=10),
        reason="a test",
    )


def test_the_floor_holds_before_any_grant_is_heard() -> None:
    clock = Clock()
    allowance = Allowance(floor_per_second=2.0, clock=clock)
    assert allowance.take(100) == 2
    assert allowance.take(100) == 0
    clock.now += 1
    assert allowance.take(100) == 2


def test_a_grant_fills_the_bucket_up_to_its_burst() -> None:
    clock = Clock()
    allowance = Allowance(floor_per_second=1.0, clock=clock)
    allowance.hear(grant(64, burst=20))
    clock.now += 60
    assert allowance.take(100) == 20
    clock.now += 0.125
    assert allowance.take(100) == 8


def test_a_pause_sends_nothing_and_has_no_end_of_its_own() -> None:
    clock = Clock()
    allowance = Allowance(floor_per_second=5.0, clock=clock)
    allowance.hear(grant(0))
    clock.now += 1000
    assert allowance.take(1) == 0
    assert allowance.seconds_for(1) is None
    allowance.hear(None)
    clock.now += 1
    assert allowance.take(1) == 1


def test_what_is_given_back_can_be_sent() -> None:
    allowance = Allowance(floor_per_second=4.0, clock=Clock())
    assert allowance.take(4) == 4
    allowance.give_back(3)
    assert allowance.take(10) == 3


def test_the_wait_of_what_lies_in_the_outbox_follows_from_the_rate() -> None:
    allowance = Allowance(floor_per_second=1.0, clock=Clock())
    allowance.hear(grant(10, burst=1))
    assert allowance.seconds_for(101) == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("per_second", "burst"), [(-1, 1), (float("nan"), 1), (float("inf"), 1), (1, 0), (1, 10**9)]
)
def test_numbers_that_make_no_sense_are_refused(per_second: float, burst: int) -> None:
    with pytest.raises(ValueError, match="and not"):
        grant(per_second, burst)


@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(0, 50), st.none() | st.floats(0, 100)), max_size=50),
)
def test_no_more_is_sent_than_rate_and_burst_allow(steps: list[tuple[float, int, float | None]]) -> None:
    clock = Clock()
    allowance = Allowance(floor_per_second=2.0, clock=clock)
    sent, allowed = 0, 10.0
    for seconds, wanted, rate in steps:
        clock.now += seconds
        allowed += seconds * allowance.per_second
        allowance.hear(None if rate is None else grant(rate, burst=10))
        sent += allowance.take(wanted)
        assert sent <= allowed + 1e-6
