"""Partition lifecycle for PostgreSQL: declare a policy, plan against the catalogue, apply without blocking.

from partitions import MonthlyRange, apply

policy = MonthlyRange(Payment, key=Payment.created_at, months_ahead=3)
apply(engine, [policy], datetime.now(UTC))
"""

from partitions.archive_policy import ArchivePolicy, Child, Link
from partitions.bounds import Month
from partitions.catalog import read_catalog
from partitions.check import PartitionFinding, check
from partitions.declare import declare_partitions
from partitions.executor import RetryPolicy, apply, open_executor, render
from partitions.plan import plan
from partitions.policy import DeclaredIndex, ListPartitions, MonthlyRange, Policy, Retention

__all__ = [
    "ArchivePolicy",
    "Child",
    "DeclaredIndex",
    "Link",
    "ListPartitions",
    "Month",
    "MonthlyRange",
    "PartitionFinding",
    "Policy",
    "Retention",
    "RetryPolicy",
    "apply",
    "check",
    "declare_partitions",
    "open_executor",
    "plan",
    "read_catalog",
    "render",
]
