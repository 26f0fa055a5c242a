"""The last page of the demo: where the orders are, what they cost, how long it took, and the verdict."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from app.console.audit.report import AuditReport
from app.console.audit.rules import OrderFacts
from app.console.demo.census import Census
from app.console.demo.figures import PriceRange, Reconciliation, StageTime
from app.console.demo.plan import AcceptedOrders
from app.messaging.routing import ServiceName

SHOWN = 20
"""How many findings or unfinished orders are printed; `mesctl orders audit` lists all."""


@dataclass(frozen=True, slots=True)
class DayReport:
    """Everything that the last page shows. `notes` are sentences about what happened on the way."""

    census: Census
    prices: Sequence[PriceRange]
    stages: Sequence[StageTime]
    notes: Sequence[str]
    audit: AuditReport
    stuck: Sequence[str]
    verdict: Reconciliation

    @property
    def good(self) -> bool:
        """Whether nothing was lost, doubled, left over or inconsistent."""
        return self.verdict.good and self.audit.clean

    def as_json(self) -> dict[str, Any]:
        """Return the page as JSON has it; money is a string."""
        return {
            "good": self.good,
            "orders": [
                {"database": place.database, "partition": place.partition, "status": status, "orders": count}
                for (place, status), count in self.census.in_order()
            ],
            "prices": [{**asdict(row), **_as_text(row)} for row in self.prices],
            "stages": [asdict(row) for row in self.stages],
            "notes": list(self.notes),
            "audit": self.audit.as_json(),
            "stuck": list(self.stuck),
            "line": self.verdict.line,
        }


def order_prices(accepted: AcceptedOrders, orders: Iterable[OrderFacts]) -> list[tuple[str, Any]]:
    """Pair what the client ordered with what MES asks for it: (material, price of the order)."""
    return [
        (accepted.by_id[str(facts.order_id)].material, copy.price)
        for facts in orders
        for copy in facts.copies_of(ServiceName.MES)
        if str(facts.order_id) in accepted.by_id and copy.price is not None
    ]


def describe_stuck(orders: Iterable[OrderFacts], unfinished: Collection[int]) -> list[str]:
    """Return a line for each unfinished order: where it stands, and what is owed."""
    return [
        f"order {facts.order_id} has not ended: "
        + ", ".join(f"{copy.place} {copy.status}" for copy in facts.copies)
        + "".join(f"; {note.type} to {note.destination} is owed" for note in facts.messages)
        for facts in orders
        if facts.order_id in unfinished
    ]


def print_report(console: Console, report: DayReport) -> None:
    """Print the page; its last line is the verdict."""
    for table in (_orders(report.census), _prices(report.prices), _stages(report.stages)):
        console.print(table)
    for note in report.notes:
        console.print(note, highlight=False)
    faults = [f"order {found.order_id}: {found.fault}: {found.detail}" for found in report.audit.findings]
    for line in (*report.stuck[:SHOWN], *faults[:SHOWN]):
        console.print(line, style="red", highlight=False, soft_wrap=True)
    console.print(report.verdict.line, highlight=False, style="green" if report.good else "red")


def _orders(census: Census) -> Table:
    table = _table("Where the orders are", "database", "partition", "status", right=("orders",))
    for (place, status), count in census.in_order():
        table.add_row(place.database, place.partition, status, str(count))
    return table


def _prices(prices: Iterable[PriceRange]) -> Table:
    table = _table("Prices in EUR", "material", right=("orders", "lowest", "median", "highest"))
    for row in prices:
        table.add_row(row.material, str(row.orders), *_as_text(row).values())
    return table


def _stages(stages: Iterable[StageTime]) -> Table:
    table = _table("Time per stage", "stage", right=("orders", "median", "p95"))
    for row in stages:
        times = (f"{row.median_seconds:.2f} s", f"{row.p95_seconds:.2f} s")
        table.add_row(row.name, str(row.orders), *times)
    return table


def _table(title: str, *left: str, right: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right")
    return table


def _as_text(row: PriceRange) -> dict[str, str]:
    return {name: f"{getattr(row, name):.2f}" for name in ("lowest", "median", "highest")}
