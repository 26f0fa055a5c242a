"""The day's plan: as many orders as wanted, with every kind of trouble, and the same for the same seed."""

from collections import Counter

import pytest

from app.console.demo.plan import Twist, plan_day
from app.models.status import Channel


def test_the_same_seed_plans_the_same_day() -> None:
    assert plan_day(orders=20, seed=7) == plan_day(orders=20, seed=7)
    assert plan_day(orders=20, seed=7) != plan_day(orders=20, seed=8)


@pytest.mark.parametrize("orders", [1, 12, 200])
def test_there_are_as_many_orders_as_wanted_each_with_a_key_of_its_own(orders: int) -> None:
    day = plan_day(orders=orders, seed=1)
    assert len(day) == len({errand.key for errand in day}) == orders


@pytest.mark.parametrize("orders", [12, 200])
def test_every_twist_and_both_channels_occur(orders: int) -> None:
    day = plan_day(orders=orders, seed=1)
    assert {errand.twist for errand in day} == set(Twist)
    assert {errand.channel for errand in day} == set(Channel)


def test_the_shares_are_those_of_the_table() -> None:
    day = plan_day(orders=200, seed=1)
    assert Counter(errand.channel for errand in day) == {Channel.B2C: 120, Channel.B2B: 80}
    twists = Counter(errand.twist for errand in day)
    assert (twists[Twist.BAD_MODEL], twists[Twist.DECLINES], twists[Twist.CONTESTED]) == (8, 10, 20)


def test_models_are_bad_where_the_plan_says_so_and_repeated_elsewhere() -> None:
    day = plan_day(orders=50, seed=1)
    assert all(errand.shape.good == (errand.twist is not Twist.BAD_MODEL) for errand in day)
    good = Counter(errand.shape.data for errand in day if errand.shape.good)
    assert len(good) == 20
    assert max(good.values()) > 1
