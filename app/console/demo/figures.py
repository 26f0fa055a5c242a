"""The figures of the last tables: prices by material, and how long each stage took. Pure."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from statistics import median

from app.models.status import Status

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
