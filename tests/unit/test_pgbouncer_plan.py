"""How a server's connections are divided over its pools."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.errors import ExitStatus
from ops.pgbouncer.errors import PoolsDoNotFit
from ops.pgbouncer.plan import SMALLEST_POOL, Limits, Server, explain, plan_pools
from sharding.topology import ServicePool

DB = Server("db", 5432)


def pool(service: str, *, weight: int = 1, size: int | None = None) -> tuple[ServicePool, str]:
    return ServicePool(service, service, "orders", None, weight, size), "orders"


def sizes(
    *pools: tuple[ServicePool, str], limits: Limits, reserve: int = 20, processes: int = 1
) -> dict[str, int]:
    [plan] = plan_pools({DB: pools}, {DB: limits}, reserve=reserve, processes=processes)
    return {sized.pool.service: sized.size for sized in plan.pools}


def test_the_rest_after_fixed_sizes_is_divided_by_weight() -> None:
    pools = (pool("mes", weight=3), pool("pricing"), pool("shop", size=7))
    # 100 - 3 - 20 = 77; less 7 fixed are 70, of which 3/4 are 52.5
    assert sizes(*pools, limits=Limits(100)) == {"mes": 52, "pricing": 17, "shop": 7}


def test_every_process_of_the_pooler_has_all_the_pools() -> None:
    assert sizes(pool("mes"), limits=Limits(100), processes=4) == {"mes": 19}


def test_slots_that_postgresql_16_reserves_are_not_given_away() -> None:
    assert sizes(pool("mes"), limits=Limits(100, superuser_reserved=3, reserved=5)) == {"mes": 72}


def test_what_does_not_fit_is_refused_with_the_numbers_and_the_fix() -> None:
    with pytest.raises(PoolsDoNotFit) as caught:
        sizes(pool("mes"), pool("crm"), limits=Limits(30), processes=2)
    assert caught.value.exit_status == ExitStatus.REFUSED
    said = str(caught.value)
    assert "30 max_connections - 3 superuser - 20 reserve = 7; / 2 processes = 3" in said
    assert "orders.mes would get 1 of them, and needs 2" in said
    assert "Raise max_connections there" in said


@pytest.mark.parametrize("reserve", [20, 97, 200])
def test_fixed_sizes_beyond_the_budget_are_refused(reserve: int) -> None:
    with pytest.raises(PoolsDoNotFit, match="the pool sizes sum up to 80"):
        sizes(pool("mes", size=60), pool("crm", size=20), limits=Limits(100), reserve=reserve)


def test_the_arithmetic_is_shown() -> None:
    [plan] = plan_pools({DB: [pool("mes")]}, {DB: Limits(100)}, reserve=20, processes=1)
    assert explain([plan]) == [
        "db:5432: 100 max_connections - 3 superuser - 20 reserve = 77; / 1 processes = 77; "
        "77 given to 1 pools",
        "  orders.mes as mes: 77 (weight 1)",
    ]


@given(
    weights=st.lists(st.integers(1, 20), min_size=1, max_size=8),
    fixed=st.lists(st.integers(1, 30), max_size=4),
    most=st.integers(10, 500),
    processes=st.integers(1, 6),
)
def test_all_pools_of_all_processes_never_exceed_the_server(
    weights: list[int], fixed: list[int], most: int, processes: int
) -> None:
    pools = [pool(f"w{number}", weight=weight) for number, weight in enumerate(weights)]
    pools += [pool(f"f{number}", size=size) for number, size in enumerate(fixed)]
    try:
        found = sizes(*pools, limits=Limits(most), processes=processes)
    except PoolsDoNotFit:
        return
    assert sum(found.values()) * processes <= most - 3 - 20
    assert all(size >= SMALLEST_POOL for service, size in found.items() if service.startswith("w"))
