"""An allowance lets through what its grant says, and the floor where it has none."""

from datetime import UTC, datetime, timedelta
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.flow.grants import LONGEST_GRANT, Allowance, Grant

AT = datetime(2026, 11, 3, 9, 30, tzinfo=UTC)


def grant(per_second: float, burst: int = 1, *, after: float = 0.0, lasts: float = 30.0) -> Grant:
    issued_at = AT + timedelta(seconds=after)
    return Grant(
        sender="crm",
        per_second=per_second,
        burst=burst,
        issued_at=issued_at,
        expires_at=issued_at + timedelta(seconds=lasts),
        reason="test",
    )


class Timer:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def allowance(timer: Timer, *, floor: float = 2.0) -> Allowance:
    return Allowance(floor_per_second=floor, clock=timer)


def test_without_a_grant_it_sends_at_the_floor_and_never_nothing() -> None:
    timer = Timer()
    subject = allowance(timer)
    assert subject.take(100) == 1, "one burst"
    assert subject.take(100) == 0
    sent = 0
    for _ in range(100):
        timer.now += 0.1
        sent += subject.take(100)
    assert sent == 20, "10 s at 2 in a second"


def test_a_grant_is_its_rate_and_its_burst() -> None:
    timer = Timer()
    subject = allowance(timer)
    subject.hear(grant(100, 50))
    assert subject.per_second == 100
    timer.now += 10
    assert subject.take(500) == 50
    timer.now += 0.25
    assert subject.take(500) == 25
    subject.give_back(5)
    assert (subject.take(3), subject.take(100)) == (3, 2)
    subject.give_back(1000)
    assert subject.take(1000) == 50, "no more than a burst comes back"


def test_a_pause_lets_nothing_through_until_its_grant_ends() -> None:
    timer = Timer()
    subject = allowance(timer)
    subject.hear(grant(0, 50, lasts=20))
    assert subject.take(10) == 0
    subject.give_back(1)
    timer.now += 19.9
    assert subject.take(10) == 0
    timer.now += 1.1
    assert subject.grant is None
    assert subject.take(10) == 1, "at the floor again"


def test_a_grant_that_is_heard_again_ends_when_it_did() -> None:
    timer = Timer()
    subject = allowance(timer)
    subject.hear(grant(100, 50, lasts=10))
    timer.now += 8
    subject.hear(grant(100, 50, lasts=10))
    timer.now += 3
    assert subject.per_second == 2
    subject.hear(grant(100, 50, after=9, lasts=10))
    assert subject.per_second == 100


def test_a_grant_that_is_gone_is_the_floor_at_once() -> None:
    timer = Timer()
    subject = allowance(timer)
    subject.hear(grant(1000, 1000))
    timer.now += 5
    subject.hear(None)
    assert subject.take(1000) == 1, "nor is what was saved under it kept"


def test_a_rate_without_a_burst_sends_one_by_one() -> None:
    timer = Timer()
    subject = allowance(timer)
    subject.hear(grant(10, 0))
    timer.now += 0.1
    assert subject.take(5) == 1


@pytest.mark.parametrize("per_second", [-1.0, nan, inf])
def test_a_grant_has_figures(per_second: float) -> None:
    with pytest.raises(ValueError, match="in a second"):
        grant(per_second)


@pytest.mark.parametrize("lasts", [0.0, -1.0, LONGEST_GRANT.total_seconds() + 1])
def test_a_grant_is_short(lasts: float) -> None:
    with pytest.raises(ValueError, match="at most"):
        grant(1, lasts=lasts)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.floats(0, 40)),
        st.tuples(st.just("hear"), st.floats(0, 500)),
        st.tuples(st.just("lose"), st.just(0.0)),
        st.tuples(st.just("take"), st.floats(1, 1000)),
    ),
    max_size=40,
)


@given(steps=STEPS)
def test_it_never_lets_through_more_than_the_rates_over_time(steps: list[tuple[str, float]]) -> None:
    timer = Timer()
    subject = allowance(timer)
    taken, allowed, issued = 0, 1.0, 0
    for step, value in steps:
        if step == "wait":
            # No more than the greater of what was granted and the floor, which may follow within.
            allowed += value * max(subject.per_second, 2.0)
            timer.now += value
        elif step == "hear":
            issued += 1
            subject.hear(grant(value, 10, after=issued))
        elif step == "lose":
            subject.hear(None)
        else:
            taken += subject.take(int(value))
        assert taken <= allowed + 1e-6


def test_how_long_what_lies_in_an_outbox_takes() -> None:
    timer = Timer()
    subject = allowance(timer, floor=2.0)
    assert subject.seconds_for(1) == 0
    subject.hear(grant(10))
    assert subject.seconds_for(101) == pytest.approx(10.0)
    subject.hear(grant(0, after=1))
    assert subject.seconds_for(1) is None


def test_who_does_not_hold_the_grant_sends_nothing_and_begins_with_nothing() -> None:
    timer = Timer()
    subject = allowance(timer)
    subject.hear(grant(100, 50))
    subject.hold(is_held=False)
    timer.now += 10
    assert subject.take(10) == 0
    subject.give_back(10)
    subject.hold(is_held=True)
    assert subject.take(10) == 0
    timer.now += 0.1
    subject.hold(is_held=True)
    assert subject.take(100) == 10
