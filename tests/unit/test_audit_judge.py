"""The audit's rules, each with the few values that it needs; then worlds made at random."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.console.audit.repair import entries, plan_repairs
from app.console.audit.rules import (
    ChildRows,
    Fact,
    Fault,
    IntakeRow,
    OrderCopy,
    OrderFacts,
    OwedMessage,
    RowLocation,
    ShownCopy,
    gather,
    judge,
)
from app.messaging.routing import ORDER_SERVICES, ServiceName
from app.models.mes import MesOrderEvent
from app.models.status import Channel, Status

SHOP = RowLocation(ServiceName.SHOP, "shop", "orders", "orders")
CRM = RowLocation(ServiceName.CRM, "crm", "orders", "orders")
HOT = RowLocation(ServiceName.MES, "mes_0", "orders", "orders_hot")
DONE = RowLocation(ServiceName.MES, "mes_0", "orders", "orders_done")
ARCHIVE = RowLocation(ServiceName.MES, "mes_0", "orders_archive", "orders_archive_2026_01")
OTHER_SHARD = RowLocation(ServiceName.MES, "mes_1", "orders", "orders_hot")

DRAFTS = {Status.INITIATED, Status.FILE_UPLOADED}
STARTED = Status.MANUFACTURING_STARTED


def copy(
    place: RowLocation,
    status: Status = STARTED,
    *,
    channel: Channel = Channel.B2C,
    price: str | None = "90.00",
    submitted: bool = True,
) -> OrderCopy:
    return OrderCopy(1, place, status, channel, None if price is None else Decimal(price), submitted)


def owed(source: ServiceName, destination: ServiceName, *, aside: str | None = None) -> OwedMessage:
    return OwedMessage(1, source, destination.value, "order.some_change", aside)


def faults(*rows: Fact) -> list[Fault]:
    """Judge one order in a world where mes_0 owns everything."""
    (facts,) = gather([rows])
    return [finding.fault for finding in judge(facts, shard_of=lambda _: "mes_0")]


AGREED = (copy(SHOP), copy(CRM), copy(HOT))


@pytest.mark.parametrize(("status", "is_sent"), [(Status.SUBMITTED, True), (Status.SHIPPED, False)])
def test_mes_gets_an_order_again_only_while_it_is_no_further(status: Status, is_sent: bool) -> None:
    """A shard that came back from yesterday's backup must not make anew what was shipped."""
    (facts,) = gather([(copy(SHOP, status), copy(CRM, status))])
    lost = [(each, facts) for each in judge(facts, shard_of=lambda _: "mes_0") if each.fault is Fault.MISSING]
    repairs, others = plan_repairs(lost)
    assert [each.destination for each in repairs] == ([ServiceName.MES] if is_sent else [])
    assert bool(others) is not is_sent


@pytest.mark.parametrize(
    ("minutes", "copies", "found"),
    [
        (59, (), []),
        (61, (), [Fault.NOT_PLACED]),
        (0.9, AGREED, []),
        (1.1, AGREED, [Fault.IN_INTAKE_TOO]),
    ],
)
def test_what_waits_in_the_intake_for_too_long_or_is_placed_already_is_found(
    minutes: float, copies: tuple[OrderCopy, ...], found: list[Fault]
) -> None:
    assert faults(*copies, IntakeRow(1, "mes_0", timedelta(minutes=minutes))) == found


def test_an_order_that_stands_everywhere_and_agrees_is_clean() -> None:
    assert faults(*AGREED) == []


@pytest.mark.parametrize("lost", range(3), ids=["shop", "crm", "mes"])
def test_a_submitted_order_must_stand_in_each_service(lost: int) -> None:
    assert faults(*(row for row in AGREED if row is not AGREED[lost])) == [Fault.MISSING]


def test_a_partners_order_concerns_crm_and_mes_only() -> None:
    partner = copy(HOT, channel=Channel.B2B)
    assert faults(partner, copy(CRM, channel=Channel.B2B)) == []
    assert faults(partner) == [Fault.MISSING]


@pytest.mark.parametrize("status", sorted(DRAFTS))
def test_a_draft_concerns_the_shop_only(status: Status) -> None:
    assert faults(copy(SHOP, status, price=None, submitted=False)) == []


def test_a_draft_that_was_given_up_concerns_the_shop_only() -> None:
    assert faults(copy(SHOP, Status.CANCELLED, price=None, submitted=False)) == []


def test_the_message_that_makes_an_order_known_explains_why_it_is_missing() -> None:
    submitted = copy(SHOP, Status.SUBMITTED, price=None)
    known_to_crm = copy(CRM, Status.SUBMITTED, price=None)
    assert faults(submitted, known_to_crm, owed(ServiceName.SHOP, ServiceName.MES)) == [Fault.IN_FLIGHT]


def test_a_message_to_somebody_else_explains_nothing() -> None:
    submitted = copy(SHOP, Status.SUBMITTED, price=None)
    known_to_crm = copy(CRM, Status.SUBMITTED, price=None)
    assert faults(submitted, known_to_crm, owed(ServiceName.CRM, ServiceName.MES)) == [Fault.MISSING]


def test_nobody_can_tell_the_shop_of_an_order_that_it_has_lost() -> None:
    assert faults(copy(CRM), copy(HOT), owed(ServiceName.MES, ServiceName.SHOP)) == [Fault.MISSING]


def test_services_may_differ_while_a_message_between_them_is_under_way() -> None:
    behind = (copy(SHOP, Status.PRICE_CALCULATED), copy(CRM), copy(HOT))
    assert faults(*behind) == [Fault.STATUS_DIFFERS]
    assert faults(*behind, owed(ServiceName.MES, ServiceName.SHOP)) == [Fault.IN_FLIGHT]
    assert faults(*behind, owed(ServiceName.MES, ServiceName.CRM)) == [Fault.STATUS_DIFFERS]


def test_prices_must_agree_to_the_cent() -> None:
    assert faults(copy(SHOP, price="90.01"), copy(CRM), copy(HOT)) == [Fault.PRICE_DIFFERS]
    assert faults(copy(SHOP), copy(CRM, price=None), copy(HOT)) == [Fault.PRICE_DIFFERS]


def test_a_message_that_was_set_aside_is_a_fault_and_excuses_nothing() -> None:
    behind = (copy(SHOP, Status.PRICE_CALCULATED), copy(CRM), copy(HOT))
    aside = owed(ServiceName.MES, ServiceName.SHOP, aside="refused")
    assert set(faults(*behind, aside)) == {Fault.STATUS_DIFFERS, Fault.DEAD_LETTER}
    assert set(faults(*behind, aside, owed(ServiceName.MES, ServiceName.SHOP))) == {
        Fault.STATUS_DIFFERS,
        Fault.DEAD_LETTER,
    }


@pytest.mark.parametrize("second", [DONE, ARCHIVE], ids=["two partitions", "live and archive"])
def test_an_order_stands_once_in_its_shard(second: RowLocation) -> None:
    assert faults(*AGREED, copy(second, Status.CLOSED)) == [Fault.DUPLICATE]


def test_an_order_on_two_shards_is_a_duplicate_and_one_copy_is_misplaced() -> None:
    assert faults(*AGREED, copy(OTHER_SHARD)) == [Fault.DUPLICATE, Fault.WRONG_SHARD]


def test_an_order_stands_where_the_map_says() -> None:
    assert faults(copy(SHOP), copy(CRM), copy(OTHER_SHARD)) == [Fault.WRONG_SHARD]


@pytest.mark.parametrize(
    ("child", "verdict"),
    [
        (ChildRows(1, replace(HOT, table="order_items"), "orders"), []),
        (ChildRows(1, replace(HOT, table="order_items_archive"), "orders_archive"), [Fault.ORPHAN]),
        (ChildRows(1, replace(OTHER_SHARD, table="order_items"), "orders"), [Fault.ORPHAN]),
    ],
    ids=["beside its order", "archived without its order", "on another shard"],
)
def test_children_stand_beside_their_order(child: ChildRows, verdict: list[Fault]) -> None:
    assert faults(*AGREED, child) == verdict


def test_children_without_any_order_are_orphans() -> None:
    assert faults(ChildRows(1, replace(HOT, table="pricing_jobs"), "orders")) == [Fault.ORPHAN]


statuses = st.sampled_from([status for status in Status if status not in DRAFTS])
prices = st.none() | st.decimals(min_value=1, max_value=9999, places=2)


@st.composite
def settled_orders(draw: st.DrawFn) -> list[OrderCopy]:
    """Draw the copies of one order about which all services agree."""
    order_id, status, price = draw(st.integers(1, 2**62)), draw(statuses), draw(prices)
    channel = draw(st.sampled_from(Channel))
    mes = draw(st.sampled_from([HOT, DONE, ARCHIVE]))
    places = [SHOP, CRM, mes] if channel == Channel.B2C else [CRM, mes]
    return [OrderCopy(order_id, place, status, channel, price) for place in places]


worlds = st.lists(settled_orders(), unique_by=lambda order: order[0].order_id, min_size=1, max_size=20)


def by_database(orders: Iterable[Iterable[OrderCopy]]) -> list[list[OrderCopy]]:
    """Spread the orders over sorted streams, as the databases give them."""
    rows = sorted((row for order in orders for row in order), key=lambda row: row.order_id)
    names = {row.place.database for row in rows}
    return [[row for row in rows if row.place.database == name] for name in sorted(names)]


def findings(orders: Iterable[Iterable[OrderCopy]]) -> list[tuple[int, Fault]]:
    return [
        (finding.order_id, finding.fault)
        for facts in gather(by_database(orders))
        for finding in judge(facts, shard_of=lambda _: "mes_0")
    ]


@given(worlds)
def test_the_merge_gives_every_order_once_with_all_its_rows(orders: list[list[OrderCopy]]) -> None:
    gathered = {facts.order_id: set(facts.copies) for facts in gather(by_database(orders))}
    assert gathered == {order[0].order_id: set(order) for order in orders}
    assert list(gathered) == sorted(gathered)


@given(worlds)
def test_a_settled_world_is_clean(orders: list[list[OrderCopy]]) -> None:
    assert findings(orders) == []


@given(worlds, st.data())
def test_one_deleted_copy_is_found_and_nothing_else(
    orders: list[list[OrderCopy]], data: st.DataObject
) -> None:
    victim = data.draw(st.sampled_from(orders))
    victim.remove(data.draw(st.sampled_from(victim)))
    assert findings(orders) == [(victim[0].order_id, Fault.MISSING)]


@given(worlds, st.data())
def test_one_copy_too_many_is_found_and_nothing_else(
    orders: list[list[OrderCopy]], data: st.DataObject
) -> None:
    victim = data.draw(st.sampled_from(orders))
    hub = victim[-1]
    elsewhere = data.draw(st.sampled_from([place for place in (HOT, DONE, ARCHIVE) if place != hub.place]))
    victim.append(replace(hub, place=elsewhere))
    assert findings(orders) == [(hub.order_id, Fault.DUPLICATE)]


@given(worlds, statuses, st.data())
def test_one_changed_status_is_found_and_nothing_else(
    orders: list[list[OrderCopy]], status: Status, data: st.DataObject
) -> None:
    victim = data.draw(st.sampled_from(orders))
    follower = victim[0]
    victim[0] = replace(follower, status=status)
    expected = [] if status == follower.status else [(follower.order_id, Fault.STATUS_DIFFERS)]
    assert findings(orders) == expected


@given(st.permutations([*AGREED, copy(DONE, Status.CLOSED), copy(OTHER_SHARD), copy(ARCHIVE, Status.CLOSED)]))
def test_two_looks_at_the_same_make_equal_findings(rows: list[OrderCopy]) -> None:
    (facts,) = gather([rows])
    (again,) = gather([rows[::-1]])
    assert judge(facts, shard_of=lambda _: "mes_0") == judge(again, shard_of=lambda _: "mes_0")


def test_facts_of_an_order_know_their_services() -> None:
    facts = OrderFacts(1, copies=AGREED)
    assert facts.copies_of(ServiceName.CRM) == (AGREED[1],)


def shown(
    source: ServiceName,
    status: Status = STARTED,
    *,
    price: str | None = "90.00",
    in_list: Status | None = STARTED,
    **by_whom: str | None,
) -> ShownCopy:
    return ShownCopy(1, source, status, None if price is None else Decimal(price), in_list, **by_whom)


ON_BOARD = tuple(shown(service) for service in ORDER_SERVICES)


def board_faults(*rows: Fact) -> list[Fault]:
    (facts,) = gather([[*AGREED, *rows]], has_board=True)
    return [finding.fault for finding in judge(facts, shard_of=lambda _: "mes_0")]


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        (None, Fault.NOT_SHOWN),
        (shown(ServiceName.MES, Status.PACKAGING, in_list=Status.PACKAGING), Fault.SHOWN_WRONG),
        (shown(ServiceName.MES, in_list=Status.PACKAGING), Fault.SHOWN_WRONG),
        (shown(ServiceName.MES, in_list=None), Fault.SHOWN_WRONG),
        (shown(ServiceName.MES, price=None), Fault.SHOWN_WRONG),
        (shown(ServiceName.MES, price="90.01"), Fault.SHOWN_WRONG),
        (shown(ServiceName.MES, operator="Rosa"), Fault.SHOWN_WRONG),
        (shown(ServiceName.MES, reason="too thin"), Fault.SHOWN_WRONG),
    ],
)
def test_the_board_shows_what_each_service_has(wrong: ShownCopy | None, fault: Fault) -> None:
    shop, crm, _ = ON_BOARD
    assert board_faults(*ON_BOARD) == []
    assert faults(*AGREED) == [], "there is no board"
    rows = (shop, crm) if wrong is None else (shop, crm, wrong)
    assert board_faults(*rows) == [fault]
    # Only what that service itself owes to the board explains it.
    assert board_faults(*rows, owed(ServiceName.MES, ServiceName.BOARD)) == [Fault.IN_FLIGHT]
    assert board_faults(*rows, owed(ServiceName.CRM, ServiceName.BOARD)) == [fault]


def test_the_board_shows_nothing_of_its_own() -> None:
    (facts,) = gather([[copy(SHOP, Status.INITIATED, submitted=False), *ON_BOARD]], has_board=True)
    found = [finding.fault for finding in judge(facts, shard_of=lambda _: "mes_0")]
    assert found == [Fault.SHOWN_WRONG] * 3


def test_what_ended_long_ago_may_have_left_the_board() -> None:
    ended, since = datetime(2024, 11, 3, tzinfo=UTC), datetime(2024, 12, 1, tzinfo=UTC)

    def found(*changes: dict[str, Any]) -> list[Fault]:
        copies = [
            replace(copy(place, Status.CLOSED), **{"changed_at": ended, **change})
            for place, change in zip((SHOP, CRM, ARCHIVE), changes, strict=True)
        ]
        (facts,) = gather([copies], has_board=True, shown_since=since)
        faults = [finding.fault for finding in judge(facts, shard_of=lambda _: "mes_0")]
        return [fault for fault in faults if fault is Fault.NOT_SHOWN]

    assert found({}, {"changed_at": since}, {}) == []
    assert found(*[{"changed_at": since}] * 3) == [Fault.NOT_SHOWN] * 3
    assert found({}, {}, {"status": Status.SHIPPED}) == [Fault.NOT_SHOWN] * 3


def test_an_order_that_was_put_back_is_sent_again_to_who_has_not_heard() -> None:
    (facts,) = gather(
        [[copy(SHOP, Status.MANUFACTURING_APPROVED), copy(CRM), copy(HOT, Status.MANUFACTURING_APPROVED)]]
    )
    found = judge(facts, shard_of=lambda _: "mes_0")
    assert [each.fault for each in found] == [Fault.STATUS_DIFFERS]
    [repair], others = plan_repairs((finding, facts) for finding in found)
    assert (repair.database, repair.destination, repair.after) == ("mes_0", ServiceName.CRM, STARTED)
    assert others == []
    approved, at = Status.MANUFACTURING_APPROVED, datetime(2026, 11, 3, tzinfo=UTC)
    way = (Status.SUBMITTED, Status.PRICE_CALCULATED, approved, STARTED, STARTED, approved)
    history = [
        MesOrderEvent(order_id=1, event_no=number, status=status, at=at, actor="Rosa", detail={})
        for number, status in enumerate(way, start=1)
    ]
    assert [line.event_no for line in entries(history, after=STARTED)] == [6]
    assert entries(history, after=approved) == []
    history.append(MesOrderEvent(order_id=1, event_no=7, status=STARTED, at=at, actor="Olga", detail={}))
    assert [line.event_no for line in entries(history, after=approved)] == [7]
    assert [line.event_no for line in entries(history, after=None)] == [1]
