"""Partition lifecycle for PostgreSQL: declare a policy, plan against the catalogue, apply without blocking.

from partitions import MonthlyRange, apply

policy = MonthlyRange(table="orders_archive", key="order_id", key_at=first_id_at, months_ahead=3)
apply(engine, [policy], datetime.now(UTC))
"""

from partitions.catalog import read_catalog
from partitions.check import Finding, check
from partitions.execute import Waiting, apply, open_executor, render
from partitions.months import Month
from partitions.plan import plan
from partitions.policy import ListPartitions, MonthlyRange, Retention

__all__ = [
    "Finding",
    "ListPartitions",
    "Month",
    "MonthlyRange",
    "Retention",
    "Waiting",
    "apply",
    "check",
    "open_executor",
    "plan",
    "read_catalog",
    "render",
]
