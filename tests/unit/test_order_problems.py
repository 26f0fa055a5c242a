"""What of the order system is a problem, and how bad: rules on figures, without a server."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.console.problems import OrderFigures, StuckOrders, Waiting, order_problems
from app.models.status import Status

NOW = datetime(2026, 12, 2, 5, tzinfo=UTC)


def since(seconds: float, count: int = 1) -> Waiting:
    return Waiting(count, NOW - timedelta(seconds=seconds))


def stuck(count: int) -> tuple[StuckOrders, ...]:
    return (StuckOrders(Status.PACKAGING, since(90_000, count), 17),)


def figures_of(**changed: Any) -> OrderFigures:
    none: dict[str, Any] = {"dead": {}, "owed": {}}
    return OrderFigures(database="mes_0", now=NOW, **(none | changed))


@pytest.mark.parametrize(
    ("figures", "severity", "object_", "words"),
    [
        ({"dead": {"crm": since(5, 3)}}, "ticket", "messages mes_0 to crm", "3 dead letters"),
        ({"dead": {"crm": since(3_601)}}, "page", "messages mes_0 to crm", "1 dead letter:"),
        ({"owed": {"crm": since(61, 2)}}, "ticket", "messages mes_0 to crm", "2 messages not acknowledged"),
        ({"owed": {"crm": since(601)}}, "page", "messages mes_0 to crm", "crm does not work"),
        ({"unpriced": since(121)}, "ticket", "prices on mes_0", "no worker takes them"),
        ({"unpriced": since(901, 9), "held": 2}, "page", "prices on mes_0", "workers hold 2"),
        ({"most_attempts": (4, 17)}, "ticket", "prices on mes_0", "order 17 was begun 4 times"),
        ({"stuck": stuck(1)}, "ticket", "orders PACKAGING on mes_0", "1 orders are PACKAGING"),
        ({"stuck": stuck(1_000)}, "page", "orders PACKAGING on mes_0", "1000+ orders"),
    ],
)
def test_each_figure_becomes_one_problem(
    figures: dict[str, Any], severity: str, object_: str, words: str
) -> None:
    [found] = order_problems(figures_of(**figures))
    assert (found.severity, found.object) == (severity, object_)
    assert words in found.what
    assert found.command.startswith("mesctl ")


@pytest.mark.parametrize(
    "figures", [{"owed": {"crm": since(59)}}, {"unpriced": since(119)}, {"most_attempts": (3, 17)}]
)
def test_what_is_young_is_none(figures: dict[str, Any]) -> None:
    found = order_problems(figures_of(**figures))
    assert list(found) == []
