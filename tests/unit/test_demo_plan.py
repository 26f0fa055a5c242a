"""The day's plan: as many orders as wanted, with every kind of trouble, and the same for the same seed."""

from collections import Counter

import pytest

from app.console.demo.plan import Deviation, plan_day
from app.models.status import Channel


def test_the_same_seed_plans_the_same_day() -> None:
    assert plan_day(orders=20, seed=7) == plan_day(orders=20, seed=7)
    assert plan_day(orders=20, seed=7) != plan_day(orders=20, seed=8)


@pytest.mark.parametrize("orders", [1, 12, 200])
def test_there_are_as_many_orders_as_wanted_each_with_a_key_of_its_own(orders: int) -> None:
    day = plan_day(orders=orders, seed=1)
    assert len(day) == len({planned.key for planned in day}) == orders


@pytest.mark.parametrize("orders", [12, 200])
def test_every_twist_and_both_channels_occur(orders: int) -> None:
    day = plan_day(orders=orders, seed=1)
    assert {planned.deviation for planned in day} == set(Deviation)
    assert {planned.channel for planned in day} == set(Channel)


def test_the_shares_are_those_of_the_table() -> None:
    day = plan_day(orders=200, seed=1)
    assert Counter(planned.channel for planned in day) == {Channel.B2C: 120, Channel.B2B: 80}
    deviations = Counter(planned.deviation for planned in day)
    assert (
        deviations[Deviation.BAD_MODEL],
        deviations[Deviation.DECLINES],
        deviations[Deviation.CONTESTED],
    ) == (8, 10, 20)


def test_models_are_bad_where_the_plan_says_so_and_repeated_elsewhere() -> None:
    day = plan_day(orders=50, seed=1)
    assert all(planned.shape.good == (planned.deviation is not Deviation.BAD_MODEL) for planned in day)
    good = Counter(planned.shape.data for planned in day if planned.shape.good)
    assert len(good) == 20
    assert max(good.values()) > 1
