"""What is granted, by what is measured and ordered; and who is found to ignore it."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from app import instruments
from app.flow.control import Override, RateDecision, RateOptions, SenderMeter, decide, next_rate
from app.flow.limiter import Priority, Shed
from app.flow.shedding import PRIORITIES, Admission, priority_of
from app.flow.signals import SIGNALS, Pressure, of_process, pressure_on
from app.kit.caller import Caller, Role

OPTIONS = RateOptions()
UNTIL = datetime(2026, 12, 2, 12, 0, tzinfo=UTC)


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 2000), st.floats(0, 1000), st.floats(0, 5000))
def test_a_rate_keeps_its_bounds_and_goes_the_right_way(
    rate: float, pressure: float, received: float
) -> None:
    found = next_rate(rate, pressure, received, OPTIONS)
    assert OPTIONS.floor <= found <= OPTIONS.most
    if pressure > 1 and OPTIONS.floor <= rate <= OPTIONS.most:
        assert found <= rate
    if pressure < 0.8 and rate < OPTIONS.most:
        assert found > rate or found == OPTIONS.most


def test_pressure_ends_at_the_floor_and_rest_at_the_most_within_seconds() -> None:
    rate = OPTIONS.most
    for _ in range(10):
        rate = next_rate(rate, 5.0, 300.0, OPTIONS)
    assert rate < 10
    for _ in range(30):
        rate = next_rate(rate, 0.1, 5.0, OPTIONS)
    assert rate == OPTIONS.most


def test_an_order_of_a_person_counts_and_never_raises() -> None:
    calm = Pressure(0.0, "calm")
    pause = Override(0.0, UNTIL, "stock-taking", "dba")
    assert decide(50.0, calm, pause, OPTIONS) == RateDecision(
        0.0, "paused by dba until 12:00:00 UTC: stock-taking", paused=True
    )
    limit = Override(10.0, UNTIL, "nights", "dba")
    assert decide(50.0, calm, limit, OPTIONS).per_second == 10.0
    assert decide(5.0, calm, limit, OPTIONS).per_second == 5.0
    assert decide(OPTIONS.most, calm, None, OPTIONS).reason == "the MES has room"


def test_each_sender_is_slowed_by_what_it_causes() -> None:
    measured = {"pricing_age": 120.0, "pool_wait": 0.1}
    assert pressure_on("shop", measured, SIGNALS) == Pressure(2.0, "pricing queue is 120 s old")
    assert pressure_on("crm", measured, SIGNALS).value == pytest.approx(0.2)
    assert pressure_on("crm", {}, SIGNALS).value == 0


class Clock:
    """Seconds that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_who_ignores_its_grant_is_found_and_the_others_go_on() -> None:
    clock = Clock()
    meter = SenderMeter(2.0, clock)
    for sender in ("shop", "crm"):
        meter.hear(sender, 5.0, 5)
    taken = 0
    with capture_logs() as logged:
        for _ in range(1000):  # a hundred in a second, for ten seconds
            clock.now += 0.01
            taken += meter.receive("shop")
    assert taken == 2 * 5 * 10 + 5
    [said] = logged  # once, however much it is
    assert (said["event"], said["log_level"], said["sender"]) == ("grant_ignored", "error", "shop")
    assert said["rate"] > 2 * said["granted"] == 2 * 5
    assert meter.receive("crm")
    clock.now += 11
    assert meter.receive("shop")


def test_what_was_sent_under_a_former_grant_is_not_held_against_its_sender() -> None:
    clock = Clock()
    meter = SenderMeter(2.0, clock)
    meter.hear("shop", 1000.0, 1000)
    clock.now = 5.0
    meter.hear("shop", 2.0, 2)
    assert all(meter.receive("shop") for _ in range(3000))
    clock.now = 70.0
    meter.hear("shop", 2.0, 2)
    assert sum(meter.receive("shop") for _ in range(3000)) == 2 * 2 * 10 + 2


STEPS = ("take", "advance", "release", "hand-over")


@pytest.mark.parametrize(("service", "method", "route"), [key for key in PRIORITIES if key[0] == "mes"])
def test_operators_are_never_refused_and_deep_pages_first(service: str, method: str, route: str) -> None:
    found = priority_of(service, method, route, role=Role.OPERATOR, query={})
    assert (found is Priority.NEVER) == (
        route in {"/v1/orders", *(f"/v1/orders/{{order_id}}/{step}" for step in STEPS)}
    )
    deep = priority_of(service, "GET", "/v1/orders", role=Role.OPERATOR, query={"cursor": "next"})
    assert deep is Priority.HISTORY
    assert priority_of(service, "GET", "/v1/new", role=Role.OPERATOR, query={}) is Priority.LISTS


@pytest.mark.parametrize(
    ("role", "query", "expected"),
    [
        (Role.OPERATOR, {}, Priority.NEVER),
        (Role.OPERATOR, {"status": "PACKAGING", "limit": "200"}, Priority.NEVER),
        (Role.OPERATOR, {"status": "SHIPPED"}, Priority.LISTS),
        (Role.OPERATOR, {"status": "no status"}, Priority.LISTS),
        (Role.SERVICE, {}, Priority.LISTS),
        (Role.AUDITOR, {"status": "PACKAGING"}, Priority.LISTS),
        (Role.ADMIN, {}, Priority.LISTS),
        (Role.SERVICE, {"cursor": "next"}, Priority.HISTORY),
    ],
)
def test_the_operators_list_is_theirs_alone(role: Role, query: dict[str, str], expected: Priority) -> None:
    assert priority_of("mes", "GET", "/v1/orders", role=role, query=query) is expected


async def test_new_orders_that_wait_for_a_place_slow_orders_and_refused_history_slows_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits = instruments.Recent()
    monkeypatch.setattr(instruments, "recent_creation_wait", waits)
    admission = Admission("mes", most=1, max_wait_seconds=0.01)
    someone = Caller(name="someone", role=Role.ADMIN)

    async def ask(method: str, route: str) -> None:
        async with admission.admitted(someone, method, route, query={}):
            pass

    await ask("POST", "/v1/partners/{partner}/orders")
    async with admission.limiter.admitted(Priority.NEVER):
        with pytest.raises(Shed):
            await ask("GET", "/v1/orders/{order_id}")
        assert pressure_on("partners", of_process(), SIGNALS).value < 0.8
        with pytest.raises(Shed):
            await ask("POST", "/v1/partners/{partner}/orders")
    found = pressure_on("partners", of_process(), SIGNALS)
    assert found.value > 1
    assert found.reason.startswith("a new order waits")
    assert pressure_on("crm", of_process(), SIGNALS).value < 0.8
