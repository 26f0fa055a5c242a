"""The figures of the last tables: prices by material, and how long each stage took. Pure."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from statistics import median

from app.models.status import Status

MADE = (
    Status.SUBMITTED,
    Status.PRICE_CALCULATED,
    Status.MANUFACTURING_APPROVED,
    Status.MANUFACTURING_STARTED,
    Status.MANUFACTURING_COMPLETED,
    Status.PACKAGING,
    Status.SHIPPED,
    Status.CLOSED,
)
"""The life of an order that is made; each step is a stage whose time is measured."""


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
    """How long orders stayed in `status` before they went on to `following`."""

    status: Status
    following: Status
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
    for status, following in (*pairwise(MADE), (MADE[0], MADE[-1])):
        seconds = sorted(
            (times[following] - times[status]).total_seconds()
            for times in reached
            if status in times and following in times
        )
        if seconds:
            stages.append(
                StageTime(status, following, len(seconds), median(seconds), percentile(seconds, 95))
            )
    return stages


def percentile(ascending: list[float], percent: int) -> float:
    """Return the value that `percent` of the values do not exceed (nearest rank).

    Parameters:
        ascending: at least one value, sorted.
        percent: 1 to 100.
    """
    return ascending[math.ceil(len(ascending) * percent / 100) - 1]
