"""Metrics of the partitions in Prometheus' text format, for the node exporter's textfile collector."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from ops.fleet import Outcome
from ops.project.project import Project
from partitions.bounds import Month
from partitions.catalog import Catalog, PartitionedTable
from partitions.policy import MonthlyRange

PREFIX = "mes_storage_partitions"

LAST_SUCCESS = f"{PREFIX}_last_success_timestamp_seconds"


class Sample(NamedTuple):
    """One line: a metric, its labels, its value."""

    name: str
    labels: Mapping[str, str]
    value: float


HELP = {
    f"{PREFIX}_months_ahead": "Whole months after the current one that stand ready.",
    f"{PREFIX}_pending_detaches": "Detaches that were cut off, whose rows are in no query.",
    f"{PREFIX}_rows": "Rows by partition, as PostgreSQL estimates them.",
    LAST_SUCCESS: "When mesctl partitions apply last did all that there was to do.",
}


def render_metrics(
    project: Project,
    catalogs: Iterable[Outcome[Catalog]],
    succeeded: Iterable[str],
    *,
    now: datetime,
    before: str = "",
) -> str:
    """Return the text of the file.

    Parameters:
        project: has the policies.
        catalogs: what stands in each database, after the run.
        succeeded: the names of the databases in which the run did everything.
        now: the current instant.
        before: the file of the last run: a database that failed keeps the time of its last success.
    """
    last = {name: float(value) for name, value in _LAST.findall(before)}
    last |= dict.fromkeys(succeeded, now.timestamp())
    samples = [sample for each in catalogs if each.result for sample in _samples(project, each, now)]
    samples += [Sample(LAST_SUCCESS, {"database": name}, at) for name, at in sorted(last.items())]
    return "".join(_metric(name, samples) for name in HELP)


def write_atomically(path: Path, content: str) -> None:
    """Replace a file in one moment: the collector never reads half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(content)
    partial.replace(path)


_LAST = re.compile(rf'^{LAST_SUCCESS}{{database="([^"]*)"}} (\S+)$', re.MULTILINE)


def _samples(project: Project, outcome: Outcome[Catalog], now: datetime) -> Iterator[Sample]:
    database, catalog = outcome.database, outcome.result or {}
    for policy in project.tree(database.tree).policies:
        table = catalog[policy.table]
        labels = {"database": database.name, "table": table.name}
        if isinstance(policy, MonthlyRange):
            yield Sample(f"{PREFIX}_months_ahead", labels, months_ahead(policy, table, Month.of(now)))
        pending = sum(found.detach_pending for found in table.partitions)
        yield Sample(f"{PREFIX}_pending_detaches", labels, pending)
        for found in table.partitions:
            yield Sample(f"{PREFIX}_rows", labels | {"partition": found.name}, found.rows or 0)


def months_ahead(policy: MonthlyRange, table: PartitionedTable, current: Month) -> int:
    """Count the months after the current one that stand without a gap; -1 when the current one is missing."""
    ranges, count = list(table.ranges().values()), -1
    month = current
    while any(found.covers(policy.keys_of(month)) for found in ranges):
        count, month = count + 1, month.next
    return count


def _metric(name: str, samples: Iterable[Sample]) -> str:
    lines = [f"{name}{{{_labels(each.labels)}}} {each.value:.17g}\n" for each in samples if each.name == name]
    return f"# HELP {name} {HELP[name]}\n# TYPE {name} gauge\n{''.join(lines)}"


def _labels(labels: Mapping[str, str]) -> str:
    return ",".join(f'{name}="{value}"' for name, value in labels.items())
