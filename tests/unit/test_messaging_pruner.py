"""Which messages may be forgotten: those that another one has followed, long ago."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from app.messaging.inbox import CLOCK_STEP, HandledMessage, prunable

NOW = datetime(2026, 11, 20, tzinfo=UTC)
HOUR = timedelta(hours=1)


def handled(number: int, *, hours_ago: float, order_id: int = 1, source: str = "mes_0") -> HandledMessage:
    return HandledMessage(order_id, UUID(int=number), source, NOW - hours_ago * HOUR)


def gone(*messages: HandledMessage) -> list[int]:
    return [message.message_id.int for message in prunable(messages, before=NOW - 10 * HOUR)]


def test_all_but_the_last_of_an_order_are_forgotten() -> None:
    assert gone(handled(3, hours_ago=11), handled(1, hours_ago=30), handled(2, hours_ago=20)) == [1, 2]


def test_the_only_one_stays_however_old() -> None:
    assert gone(handled(1, hours_ago=10_000)) == []


def test_another_order_or_another_source_proves_nothing() -> None:
    others = handled(2, hours_ago=11, order_id=2), handled(3, hours_ago=11, source="shop")
    assert gone(handled(1, hours_ago=30), *others) == []


def test_what_followed_must_be_old_as_well() -> None:
    # Copies of the first may be under way still.
    assert gone(handled(1, hours_ago=30), handled(2, hours_ago=9)) == []
    assert gone(handled(1, hours_ago=30), handled(2, hours_ago=20), handled(3, hours_ago=9)) == [1]


def test_what_came_close_together_stays_for_clocks_step_back() -> None:
    step = CLOCK_STEP / HOUR
    assert gone(handled(1, hours_ago=30), handled(2, hours_ago=30 - step * 0.9)) == []
    assert gone(handled(1, hours_ago=30), handled(2, hours_ago=30 - step)) == [1]
