"""From measures to the event that the order's followers hear."""

from decimal import Decimal

import pytest

from app.messaging.events import ItemPrice, OrderRejected, PriceCalculated
from app.models.mes import MesOrderItem
from app.models.reference import Material
from app.pricing.decision import decide
from app.pricing.measure import LONGEST_MM
from app.pricing.measurement import Examined, Measurement, Unmeasurable
from app.pricing.reading import MAX_POLYGONS
from app.pricing.sandbox import SandboxLimits, judge
from app.pricing.tariff import price

RING = Measurement(volume_mm3=500.0, area_mm2=700.0, extents_mm=(22.0, 22.0, 4.0), polygons=960)
OPEN = Unmeasurable(reason="The model has holes.")


def item(line_no: int, model: str, *, material: str = "silver_925", quantity: int = 1) -> MesOrderItem:
    return MesOrderItem(
        order_id=1,
        line_no=line_no,
        material=material,
        finish="matte",
        quantity=quantity,
        model_key=model,
        model_name=f"{model}.stl",
    )


def test_the_price_of_an_order_is_the_sum_of_its_lines() -> None:
    unit = price(RING, material="silver_925", finish="matte", quantity=1).unit_eur
    event = decide([item(1, "a", quantity=3), item(2, "a")], {"a": RING})
    assert isinstance(event, PriceCalculated)
    assert event.price == 4 * unit
    assert event.items == (ItemPrice(line_no=1, unit_price=unit), ItemPrice(line_no=2, unit_price=unit))
    assert unit > Decimal(12)


def test_one_bad_line_rejects_the_order_and_is_named() -> None:
    event = decide([item(1, "a"), item(2, "b")], {"a": RING, "b": OPEN})
    assert event == OrderRejected(actor="pricing", reason="b.stl: The model has holes.")


def test_all_bad_lines_are_named_at_once() -> None:
    event = decide([item(1, "b"), item(2, "a", material="wood")], {"a": RING, "b": OPEN})
    assert isinstance(event, OrderRejected)
    assert event.reason.startswith("b.stl: The model has holes. a.stl: There is no material 'wood'.")


def test_the_only_line_needs_no_name() -> None:
    assert decide([item(1, "b")], {"b": OPEN}) == OrderRejected(actor="pricing", reason=OPEN.reason)


def test_an_order_without_lines_is_not_free() -> None:
    assert isinstance(decide([], {}), OrderRejected)


def test_the_most_expensive_order_still_has_a_price() -> None:
    side = LONGEST_MM[1]
    block = Measurement(
        volume_mm3=side**3, area_mm2=6 * side**2, extents_mm=(side, side, side), polygons=MAX_POLYGONS
    )
    for material in Material:
        event = decide([item(1, "a", material=material, quantity=1000)], {"a": block})
        assert isinstance(event, PriceCalculated)


GOOD = '{"outcome": {"volume_mm3": 5.0, "area_mm2": 7.0, "extents_mm": [3.0, 2.0, 1.0], "polygons": 12}}'


def test_a_well_formed_answer_is_believed() -> None:
    expected = Measurement(volume_mm3=5.0, area_mm2=7.0, extents_mm=(3.0, 2.0, 1.0), polygons=12)
    assert judge(0, GOOD, SandboxLimits()) == Examined(outcome=expected)
    answer = '{"outcome": {"reason": "It has holes.", "final": true}}'
    assert judge(0, answer, SandboxLimits()).outcome == Unmeasurable(reason="It has holes.")


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "null",
        GOOD[:-5],
        GOOD.replace("5.0", "-5.0"),
        GOOD.replace("5.0", "NaN"),
        GOOD.replace("5.0", "1e999"),
        GOOD.replace("12", "0"),
        GOOD.replace("[3.0, ", "["),
        '{"outcome": {"reason": ""}}',
        '{"outcome": {"reason": "%s"}}' % ("x" * 501),
    ],
)
def test_a_child_that_was_taken_over_is_not_believed(answer: str) -> None:
    outcome = judge(0, answer, SandboxLimits()).outcome
    assert isinstance(outcome, Unmeasurable)
    assert outcome.reason.startswith("The file made its reader crash.")


@pytest.mark.parametrize(
    ("exit_code", "said", "final"),
    [
        (-24, "The model is too complex: measuring it took more than 60 s.", True),  # SIGXCPU
        (127, "The model is too complex to be measured.", True),
        (-11, "The file made its reader crash.", True),  # SIGSEGV
        (70, "The file made its reader crash.", True),
        (-14, "The model could not be measured in time.", False),  # SIGALRM
        (-9, "The model could not be measured in time.", False),  # SIGKILL
        (71, "The model could not be measured in time.", False),  # it could not begin
    ],
)
def test_every_end_of_a_child_has_a_sentence(exit_code: int, said: str, final: bool) -> None:
    outcome = judge(exit_code, GOOD, SandboxLimits()).outcome
    assert isinstance(outcome, Unmeasurable)
    assert outcome.reason.startswith(said)
    assert outcome.final is final
