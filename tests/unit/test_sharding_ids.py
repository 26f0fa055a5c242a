"""Order ids: their time, and that no two are equal whatever the clock does."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding.errors import NodeLeaseExpired
from sharding.ids import EPOCH, MAX_ID, TIME_SHIFT, IdGenerator, NodeWindow, first_id_at, instant_of

LONG = 1 << 40


class Clock:
    """Id time that the test moves."""

    def __init__(self, now_ms: int = 1000) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


def window(node: int = 0, floor_ms: int = 0, ceiling_ms: int = LONG) -> NodeWindow:
    return NodeWindow(node=node, floor_ms=floor_ms, ceiling_ms=ceiling_ms)


def milliseconds_of(order_id: int) -> int:
    return order_id >> TIME_SHIFT


@given(st.datetimes(datetime(2024, 1, 1), datetime(2093, 1, 1), timezones=st.just(UTC)))
def test_an_instant_is_found_again_to_the_millisecond(instant: datetime) -> None:
    assert timedelta() <= instant - instant_of(first_id_at(instant)) < timedelta(milliseconds=1)


def test_the_first_id_of_an_instant_is_its_smallest() -> None:
    instant = datetime(2026, 7, 1, tzinfo=UTC)
    assert instant_of(first_id_at(instant)) == instant
    assert instant_of(first_id_at(instant) - 1) < instant


def test_the_last_id_fits_int8() -> None:
    assert instant_of(MAX_ID).year == 2093
    with pytest.raises(ValueError, match="is no id"):
        instant_of(MAX_ID + 1)


@pytest.mark.parametrize(
    "instant",
    [datetime(2026, 1, 1), EPOCH - timedelta(seconds=1), datetime(2094, 1, 1, tzinfo=UTC)],
)
def test_an_instant_that_ids_cannot_tell_is_refused(instant: datetime) -> None:
    with pytest.raises(ValueError, match="time"):
        first_id_at(instant)


def test_an_id_carries_time_node_and_sequence() -> None:
    generator = IdGenerator(window(node=5), clock_ms=Clock(1000))
    assert [generator.next_id() for _ in range(2)] == [1000 << 22 | 5 << 12 | n for n in range(2)]


def test_a_full_millisecond_flows_over_into_the_next() -> None:
    generator = IdGenerator(window(), clock_ms=Clock(1000))
    ids = [generator.next_id() for _ in range(4097)]
    assert milliseconds_of(ids[4095]) == 1000
    assert ids[4096] == 1001 << 22


@given(st.lists(st.integers(0, 50), min_size=2, max_size=200))
def test_ids_grow_however_the_clock_steps(readings: list[int]) -> None:
    clock = Clock()
    generator = IdGenerator(window(), clock_ms=clock)
    ids = []
    for clock.now_ms in readings:
        ids.append(generator.next_id())
    assert all(earlier < later for earlier, later in pairwise(ids))


def test_ids_start_at_the_floor_when_the_clock_is_behind_it() -> None:
    generator = IdGenerator(window(floor_ms=5000), clock_ms=Clock(1000))
    assert milliseconds_of(generator.next_id()) == 5000


def test_no_id_at_the_ceiling() -> None:
    clock = Clock(1999)
    generator = IdGenerator(window(node=3, ceiling_ms=2000), clock_ms=clock)
    generator.next_id()
    clock.now_ms = 2000
    with pytest.raises(NodeLeaseExpired, match="node 3 ends at 2000"):
        generator.next_id()


def test_a_refused_attempt_leaves_no_trace() -> None:
    clock = Clock(1000)
    generator = IdGenerator(window(ceiling_ms=2000), clock_ms=clock)
    clock.now_ms = 9999
    with pytest.raises(NodeLeaseExpired):
        generator.next_id()
    clock.now_ms = 1000
    assert milliseconds_of(generator.next_id()) == 1000


def test_a_full_millisecond_does_not_flow_over_the_ceiling() -> None:
    generator = IdGenerator(window(ceiling_ms=1001), clock_ms=Clock(1000))
    for _ in range(4096):
        generator.next_id()
    with pytest.raises(NodeLeaseExpired):
        generator.next_id()


def test_a_longer_window_lets_it_go_on() -> None:
    clock = Clock(2000)
    generator = IdGenerator(window(ceiling_ms=2000), clock_ms=clock)
    generator.use(window(ceiling_ms=3000))
    assert milliseconds_of(generator.next_id()) == 2000


def test_ids_grow_when_the_node_changes_to_a_lower_one() -> None:
    generator = IdGenerator(window(node=9), clock_ms=Clock(1000))
    earlier = generator.next_id()
    generator.use(window(node=2))
    assert generator.next_id() > earlier


def test_a_stopped_generator_makes_none() -> None:
    generator = IdGenerator(window(), clock_ms=Clock(1000))
    generator.next_id()
    assert generator.stop() == 1000
    with pytest.raises(NodeLeaseExpired):
        generator.next_id()


def test_threads_never_get_the_same_id() -> None:
    generator = IdGenerator(window(), clock_ms=Clock(1000))
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: [generator.next_id() for _ in range(2000)], range(8)))
    assert len({each for ids in made for each in ids}) == 16_000
