"""The figures of the last page: prices by material, time per stage, and what became of every order. Pure."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from statistics import median

from app.console.audit.rules import AuditFinding, Fault, OrderFacts
from app.models.status import DONE, Status

STAGES = (
    ("pricing", Status.SUBMITTED, Status.PRICE_CALCULATED),
    ("waits for the seller", Status.PRICE_CALCULATED, Status.MANUFACTURING_APPROVED),
    ("waits for an operator", Status.MANUFACTURING_APPROVED, Status.MANUFACTURING_STARTED),
    ("manufacturing", Status.MANUFACTURING_STARTED, Status.MANUFACTURING_COMPLETED),
    ("waits for packaging", Status.MANUFACTURING_COMPLETED, Status.PACKAGING),
    ("packaging", Status.PACKAGING, Status.SHIPPED),
    ("delivery", Status.SHIPPED, Status.CLOSED),
    ("all of it", Status.SUBMITTED, Status.CLOSED),
)
"""What is measured: from when an order first reached a status until it reached another."""


@dataclass(frozen=True, slots=True)
class PriceRange:
    """What the orders of one material cost, in euros."""

    material: str
    orders: int
    lowest: Decimal
    median: Decimal
    highest: Decimal


@dataclass(frozen=True, slots=True)
class StageTime:
    """How long the orders took from one status to another."""

    name: str
    orders: int
    median_seconds: float
    p95_seconds: float


def price_ranges(prices: Iterable[tuple[str, Decimal]]) -> list[PriceRange]:
    """Summarize prices by material, in the order of the names."""
    by_material: dict[str, list[Decimal]] = {}
    for material, price in prices:
        by_material.setdefault(material, []).append(price)
    return [
        PriceRange(material, len(found), min(found), median(found), max(found))
        for material, found in sorted(by_material.items())
    ]


def stage_times(reached: Iterable[Mapping[Status, datetime]]) -> list[StageTime]:
    """Summarize how long each stage took.

    Parameters:
        reached: for each order, when it first reached each status.
    """
    reached = list(reached)
    stages = []
    for name, start, end in STAGES:
        seconds = sorted(
            (times[end] - times[start]).total_seconds()
            for times in reached
            if start in times and end in times
        )
        if seconds:
            stages.append(StageTime(name, len(seconds), median(seconds), percentile(seconds, 95)))
    return stages


def percentile(ascending: list[float], percent: int) -> float:
    """Return the value that `percent` of the values do not exceed (nearest rank).

    Parameters:
        ascending: at least one value, sorted.
        percent: 1 to 100.
    """
    return ascending[math.ceil(len(ascending) * percent / 100) - 1]


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What became of the accepted orders.

    Parameters:
        accepted: orders for which a client got a 2xx.
        accounted_for: those that stand once in each service that must have them, agree, and have ended.
        lost: those that a service which must have them has not.
        duplicated: orders that stand twice in one service, and orders that no client knows of.
    """

    accepted: frozenset[int]
    accounted_for: frozenset[int]
    lost: frozenset[int]
    duplicated: frozenset[int]

    @property
    def unfinished(self) -> frozenset[int]:
        """Accepted orders that are there, once, but have not ended everywhere."""
        return self.accepted - self.accounted_for - self.lost - self.duplicated

    @property
    def good(self) -> bool:
        """Whether every accepted order is accounted for, and there is none besides."""
        return self.accounted_for == self.accepted and not self.lost and not self.duplicated

    @property
    def line(self) -> str:
        """The demo's last line."""
        return (
            f"{len(self.accepted)} accepted, {len(self.accounted_for)} accounted for, "
            f"{len(self.lost)} lost, {len(self.duplicated)} duplicated"
        )


def reconcile(
    accepted: Collection[int], orders: Iterable[OrderFacts], findings: Iterable[AuditFinding]
) -> Reconciliation:
    """Compare.

    Parameters:
        accepted: what the clients were promised.
        orders: what the databases hold, drafts included.
        findings: what the audit says about it.
    """
    promised = frozenset(accepted)
    faults: dict[int, set[Fault]] = {}
    for found in findings:
        faults.setdefault(found.order_id, set()).add(found.fault)
    submitted = {facts.order_id: facts for facts in orders if any(copy.submitted for copy in facts.copies)}
    missing = {order_id for order_id, found in faults.items() if Fault.MISSING in found}
    twice = {order_id for order_id, found in faults.items() if Fault.DUPLICATE in found}
    ended = {order_id for order_id, facts in submitted.items() if _has_ended(facts)}
    return Reconciliation(
        accepted=promised,
        accounted_for=(promised & ended) - set(faults),
        lost=promised & missing | promised - set(submitted),
        duplicated=frozenset(twice | set(submitted) - promised),
    )


def _has_ended(facts: OrderFacts) -> bool:
    return all(copy.status in DONE for copy in facts.copies)
