"""The pure decisions: how long to wait, and what becomes of a message that failed."""

import asyncio
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import InternalError, OperationalError

from app.crm.handlers import awaits_another
from app.kit.errors import AppError
from app.messaging.backoff import delay_seconds, repeat_with_backoff
from app.messaging.consumer import dead_letter_reason
from app.messaging.errors import NotYet
from app.messaging.message import MAX_ORDER_ID, Ack
from app.models.crm import CrmOrderEvent
from app.models.status import IllegalTransition, Status
from readreplica.errors import RetriesExhausted

PASSING = [
    NotYet(5, "its submission"),
    OperationalError("select 1", {}, psycopg.errors.SerializationFailure()),
    InternalError("insert", {}, psycopg.errors.ReadOnlySqlTransaction()),
    RetriesExhausted("crm", attempts=5, sqlstate="40001"),
    ConnectionError("refused"),
]
FINAL = [IllegalTransition(5, Status.CLOSED, Status.SHIPPED), AppError("no such material")]


@pytest.mark.parametrize("error", PASSING, ids=lambda error: type(error).__name__)
def test_what_passes_is_tried_for_ever(error: Exception) -> None:
    assert dead_letter_reason(error, attempt=10_000, max_attempts=5) is None


@pytest.mark.parametrize("error", FINAL, ids=lambda error: type(error).__name__)
def test_what_the_rules_forbid_is_not_tried_again(error: Exception) -> None:
    assert dead_letter_reason(error, attempt=1, max_attempts=5) == str(error)


def test_what_nobody_foresaw_has_a_few_attempts() -> None:
    reasons = [dead_letter_reason(KeyError("ring"), attempt=n, max_attempts=3) for n in (1, 2, 3, 4)]

    assert reasons == [None, None, "KeyError: 'ring'", "KeyError: 'ring'"]


def test_delays_double_up_to_the_cap() -> None:
    delays = [delay_seconds(n, base_seconds=2, cap_seconds=60, jitter=0) for n in (1, 2, 3, 5, 6, 10_000)]

    assert delays == [2, 4, 8, 32, 60, 60]


@given(attempts=st.integers(1, 10_000), jitter=st.floats(0, 1))
def test_jitter_takes_at_most_a_quarter(attempts: int, jitter: float) -> None:
    full = delay_seconds(attempts, base_seconds=2, cap_seconds=60, jitter=0)

    assert 0.75 * full <= delay_seconds(attempts, base_seconds=2, cap_seconds=60, jitter=jitter) <= full


@given(reason=st.none() | st.text(max_size=2000), order_id=st.none() | st.integers(0, MAX_ORDER_ID))
def test_an_ack_survives_the_wire_and_can_be_stored(reason: str | None, order_id: int | None) -> None:
    ack = Ack(UUID(int=7), "crm", reason, order_id)

    read = Ack.decode({key: value.encode().decode() for key, value in ack.encode().items()}, consumer="crm")

    assert read is not None
    assert read.message_id == ack.message_id
    assert (read.reason is None) == (reason is None)
    assert read.order_id == (order_id if reason is None else None)
    assert "\0" not in (read.reason or "")


@pytest.mark.parametrize(
    "entry", [{}, {"id": "7", "outcome": "done"}, {"id": str(UUID(int=7)), "outcome": "?"}]
)
def test_what_is_no_ack_is_not_taken_for_one(entry: dict[str, str]) -> None:
    assert Ack.decode(entry, consumer="crm") is None


@pytest.mark.parametrize("subject", ["", "-1", "x", "1.0", str(MAX_ORDER_ID + 1), "9" * 4000])
def test_an_ack_of_no_order_is_looked_up_by_its_message(subject: str) -> None:
    read = Ack.decode({"id": str(UUID(int=7)), "outcome": "done", "subject": subject}, consumer="crm")

    assert read == Ack(UUID(int=7), "crm")


async def test_an_outage_is_logged_once_and_waited_out() -> None:
    stop = asyncio.Event()
    outcomes = [None, ConnectionError("away"), ConnectionError("away"), KeyError("bug"), None]

    async def step() -> None:
        error = outcomes.pop(0)
        if not outcomes:
            stop.set()
        if error is not None:
            raise error

    with structlog.testing.capture_logs() as logs:
        await repeat_with_backoff(
            step,
            stop=stop,
            log=structlog.get_logger(),
            first_pause_seconds=0.001,
            longest_pause_seconds=0.001,
        )

    assert [(log["event"], log.get("error"), log.get("failures")) for log in logs] == [
        ("interrupted", "away", None),
        ("interrupted", "'bug'", None),
        ("resumed", None, 3),
    ]


RENEWED, SET, ASKED = (
    {"price_renewed": {"price": "412.50"}},
    {"price_set": "390.00"},
    {"requote_requested": "Sara"},
)


@pytest.mark.parametrize(
    ("details", "price", "awaits"),
    [
        ([], "412.50", False),
        ([ASKED], "412.50", False),
        ([SET], "390.00", False),
        # The answer to a question of before, which crosses it; and once more.
        ([ASKED, SET], "412.50", True),
        ([ASKED, SET, RENEWED], "412.50", True),
        ([ASKED, SET, RENEWED], "390.00", False),
        ([SET, {"price_renewed": {"price": "390.00"}}, ASKED], "412.50", False),
        # It was never answered.
        ([SET, ASKED], "412.50", False),
    ],
)
def test_a_price_that_was_set_is_waited_for(details: list[dict[str, Any]], price: str, awaits: bool) -> None:
    history = [CrmOrderEvent(event_no=number, detail=detail) for number, detail in enumerate(details)]
    assert awaits_another(history[::-1], Decimal(price)) is awaits
