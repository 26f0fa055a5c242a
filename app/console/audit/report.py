"""The audit itself: a stream of facts in, a report out, with a second look at everything that seems wrong.

The databases cannot be read at one instant, so an order that moves on between two snapshots can look wrong
for no reason. A finding is therefore reported only if a second look, begun after the first, sees exactly
the same: had a message made the services agree, it was acknowledged before the first snapshot of its source,
and so the second snapshot of its destination shows what it did.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from app.console.audit.databases import OrderDatabases
from app.console.audit.rules import AuditFinding, Fault, OrderFacts, judge

RECHECK_BATCH = 500
"""How many orders a second look reads at once: few enough for one IN list, and for memory."""


@dataclass(slots=True)
class AuditReport:
    """What an audit found. `findings` holds the first ones only; `counts` counts all of them."""

    orders: int = 0
    counts: Counter[Fault] = field(default_factory=Counter)
    findings: list[AuditFinding] = field(default_factory=list)

    @property
    def in_flight(self) -> int:
        """Orders about which the services differ while the message that settles it is under way."""
        return self.counts[Fault.IN_FLIGHT]

    @property
    def faults(self) -> int:
        """How many findings need a person."""
        return self.counts.total() - self.in_flight

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return self.faults == 0

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON has it: ids are strings, for JavaScript loses integers above 2^53."""
        return {
            "clean": self.clean,
            "orders": self.orders,
            "in_flight": self.in_flight,
            "faults": {fault.value: self.counts[fault] for fault in Fault if fault != Fault.IN_FLIGHT},
            "findings": [
                {"order_id": str(found.order_id), "fault": found.fault.value, "detail": found.detail}
                for found in self.findings
            ],
        }


def audit(
    databases: OrderDatabases,
    *,
    shard_of: Callable[[int], str],
    keep_findings: int = 1_000,
    seen: Callable[[OrderFacts], None] = lambda _: None,
) -> AuditReport:
    """Compare what all services hold.

    Parameters:
        databases: the databases.
        shard_of: the shard map.
        keep_findings: how many findings are listed; all are counted.
        seen: called with the facts of each order as the first look saw them.

    Returns:
        The report; `report.clean` says whether all is well.
    """
    report = AuditReport()
    suspects: dict[int, list[AuditFinding]] = {}

    def recheck() -> None:
        for found in _confirmed(databases, suspects, shard_of):
            report.counts[found.fault] += 1
            if len(report.findings) < keep_findings:
                report.findings.append(found)
        suspects.clear()

    with databases.open() as orders:
        for facts in orders:
            report.orders += 1
            seen(facts)
            if findings := judge(facts, shard_of=shard_of):
                suspects[facts.order_id] = findings
            if len(suspects) >= RECHECK_BATCH:
                recheck()
    if suspects:
        recheck()
    return report


def _confirmed(
    databases: OrderDatabases, suspects: dict[int, list[AuditFinding]], shard_of: Callable[[int], str]
) -> list[AuditFinding]:
    """Return what the second look sees as the first did. In flight needs no second witness."""
    with databases.open(list(suspects)) as orders:
        return [
            found
            for facts in orders
            for found in judge(facts, shard_of=shard_of)
            if found.fault == Fault.IN_FLIGHT or found in suspects[facts.order_id]
        ]
