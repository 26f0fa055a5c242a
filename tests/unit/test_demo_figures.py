"""The figures of the demo's last page, and the verdict."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.console.audit.rules import AuditFinding, Fault, OrderCopy, OrderFacts, RowLocation
from app.console.demo.figures import PriceRange, StageTime, percentile, price_ranges, reconcile, stage_times
from app.console.demo.report import describe_stuck
from app.messaging.routing import ServiceName
from app.models.status import Channel, Status

START = datetime(2026, 3, 10, 12, tzinfo=UTC)


def test_prices_are_summarized_by_material() -> None:
    prices = [("silver", Decimal(5)), ("brass", Decimal(1)), ("silver", Decimal(9)), ("silver", Decimal(6))]
    assert price_ranges(prices) == [
        PriceRange("brass", 1, Decimal(1), Decimal(1), Decimal(1)),
        PriceRange("silver", 3, Decimal(5), Decimal(6), Decimal(9)),
    ]


def test_a_stage_counts_the_orders_that_went_through_it() -> None:
    def priced_after(seconds: float) -> dict[Status, datetime]:
        return {Status.SUBMITTED: START, Status.PRICE_CALCULATED: START + timedelta(seconds=seconds)}

    rejected = {Status.SUBMITTED: START, Status.REJECTED: START}
    reached = [priced_after(1), priced_after(4), priced_after(2), rejected]
    assert stage_times(reached) == [StageTime("pricing", 3, 2.0, 4.0)]


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300), st.integers(1, 100))
def test_a_percentile_is_a_value_that_so_many_do_not_exceed(values: list[float], percent: int) -> None:
    found = percentile(sorted(values), percent)
    assert found in values
    assert sum(value <= found for value in values) * 100 >= percent * len(values)
    assert sum(value < found for value in values) * 100 < percent * len(values)


def order(order_id: int, status: Status = Status.CLOSED, *, submitted: bool = True) -> OrderFacts:
    place = RowLocation(ServiceName.SHOP, "shop", "orders", "orders")
    return OrderFacts(order_id, copies=(OrderCopy(order_id, place, status, Channel.B2C, None, submitted),))


def test_all_is_well_when_every_accepted_order_has_ended() -> None:
    verdict = reconcile([1, 2], [order(1), order(2, Status.REJECTED)], [])
    assert verdict.good
    assert verdict.line == "2 accepted, 2 accounted for, 0 lost, 0 duplicated"


def test_an_order_that_no_database_holds_is_lost() -> None:
    verdict = reconcile([1, 2], [order(1)], [])
    assert not verdict.good
    assert verdict.line == "2 accepted, 1 accounted for, 1 lost, 0 duplicated"


def test_an_order_that_one_service_has_not_is_lost() -> None:
    verdict = reconcile([1], [order(1)], [AuditFinding(1, Fault.MISSING, "not in crm")])
    assert verdict.line == "1 accepted, 0 accounted for, 1 lost, 0 duplicated"


def test_an_order_that_stands_twice_is_duplicated() -> None:
    verdict = reconcile([1], [order(1)], [AuditFinding(1, Fault.DUPLICATE, "stands 2 times")])
    assert verdict.line == "1 accepted, 0 accounted for, 0 lost, 1 duplicated"


def test_an_order_that_no_client_knows_was_made_twice() -> None:
    verdict = reconcile([1], [order(1), order(2)], [])
    assert not verdict.good
    assert verdict.line == "1 accepted, 1 accounted for, 0 lost, 1 duplicated"


def test_a_draft_is_no_order_yet() -> None:
    assert reconcile([1], [order(1), order(2, Status.INITIATED, submitted=False)], []).good


@pytest.mark.parametrize(
    ("facts", "findings"),
    [
        (order(1, Status.PACKAGING), []),
        (order(1), [AuditFinding(1, Fault.STATUS_DIFFERS, "mes_0 CLOSED, crm SHIPPED")]),
    ],
    ids=["not ended", "services differ"],
)
def test_an_unfinished_order_is_neither_lost_nor_accounted_for(
    facts: OrderFacts, findings: list[AuditFinding]
) -> None:
    verdict = reconcile([1], [facts], findings)
    assert not verdict.good
    assert verdict.line == "1 accepted, 0 accounted for, 0 lost, 0 duplicated"
    assert verdict.unfinished == {1}


def test_a_stuck_order_is_described_by_where_it_stands() -> None:
    orders = [order(1), order(2, Status.PACKAGING)]
    assert describe_stuck(orders, {2}) == ["order 2 has not ended: shop.orders PACKAGING"]
