"""Partition lifecycle for PostgreSQL: declare a policy, plan against the catalogue, apply without blocking.

from partitions import MonthlyRange, apply

policy = MonthlyRange(table="orders_archive", key="order_id", key_at=first_id_at, months_ahead=3)
apply(engine, [policy], datetime.now(UTC))
"""

from partitions.bounds import Month
from partitions.catalog import read_catalog
from partitions.check import PartitionFinding, check
from partitions.executor import RetryPolicy, apply, open_executor, render
from partitions.plan import plan
from partitions.policy import ArchivePolicy, DeclaredIndex, ListPartitions, MonthlyRange, Retention

__all__ = [
    "ArchivePolicy",
    "DeclaredIndex",
    "ListPartitions",
    "Month",
    "MonthlyRange",
    "PartitionFinding",
    "Retention",
    "RetryPolicy",
    "apply",
    "check",
    "open_executor",
    "plan",
    "read_catalog",
    "render",
]
