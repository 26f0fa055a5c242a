"""The audit that may run all day: slice by slice of ids, each read in a short transaction of each database.

No snapshot is held between two slices, so vacuum is never kept from its work. As in `report`, a finding
counts only if a second look, begun after the first, sees exactly the same. What a look has seen and is not
settled is remembered, and looked at again at the end of every pass.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import typer
from sqlalchemy import Connection

from app.console.audit.databases import IdRange, OrderDatabases
from app.console.audit.report import RECHECK_BATCH, AuditReport
from app.console.audit.rules import AuditFinding, Fault, OrderFacts, judge, judge_progress
from ops.errors import ExitStatus
from ops.fleet import DatabasesFailed
from ops.options import Options
from ops.output import note, print_json

SLICE_ROWS = 500
REST_SECONDS = 0.02
MOST_REMEMBERED = 10_000
"""Orders that are looked at again at the end of a pass; more are found again by the next pass."""

LATE_AFTER = timedelta(minutes=10)
"""How long a message may be under way before its order is stuck."""


@dataclass(frozen=True, slots=True)
class FindingChange:
    """A fault that was confirmed, or one that has gone since."""

    kind: Literal["found", "settled"]
    finding: AuditFinding
    facts: OrderFacts | None = None


def utc_now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


class OrderWatch:
    """Looks at all orders again and again, and says what has changed.

    Parameters:
        databases: the databases.
        shard_of: the shard map.
        rows: the most orders of a slice.
        rest: called between two slices with the seconds to rest.
        now: the clock.
    """

    def __init__(
        self,
        databases: OrderDatabases,
        *,
        shard_of: Callable[[int], str],
        rows: int = SLICE_ROWS,
        rest: Callable[[float], None] = time.sleep,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._databases = databases
        self._shard_of = shard_of
        self._rows = rows
        self._rest = rest
        self._now = now
        self._seen: dict[int, Collection[AuditFinding]] = {}
        self._late: dict[int, datetime] = {}
        self._standing: dict[AuditFinding, None] = {}
        self.report = AuditReport()
        """Of the last pass."""

    def run_pass(self) -> Iterator[FindingChange]:
        """Look at every order once, and at what was not settled; yield what has changed as it is seen.

        Raises:
            DatabasesFailed: a database does not answer; what was seen is remembered.
        """
        report = AuditReport()
        with self._opened() as opened:
            after: int | None = -1
            while after is not None:
                after, facts = self._slice(opened, after)
                report.orders += len(facts)
                suspects = self._note(facts)
                yield from self._look_again(opened, suspects)
                self._rest(REST_SECONDS)
            yield from self._look_again(opened, list(self._seen))
        report.findings = [*self._standing][:MOST_REMEMBERED]
        report.counts.update(each.fault for each in self._standing)
        report.counts[Fault.IN_FLIGHT] = len(self._late)
        self.report = report

    @contextmanager
    def looking(self) -> Iterator[Callable[[int], tuple[OrderFacts, list[AuditFinding]]]]:
        """Connect to all databases, and yield what reads one order there, as it is then, and judges it.

        Raises:
            DatabasesFailed: a database does not answer.
        """
        with self._opened() as opened:

            def look(order_id: int) -> tuple[OrderFacts, list[AuditFinding]]:
                found = self._databases.read_slice(opened, [order_id])
                facts = found[0] if found else OrderFacts(order_id)
                return facts, self._judge(facts)

            yield look

    @contextmanager
    def _opened(self) -> Iterator[Mapping[str, Connection]]:
        with ExitStack() as stack:
            names = self._databases.audited
            yield {name: stack.enter_context(self._databases.connect(name)) for name in names}

    def _slice(self, opened: Mapping[str, Connection], after: int) -> tuple[int | None, Sequence[OrderFacts]]:
        until = self._databases.slice_end(opened, after, rows=self._rows)
        return until, self._databases.read_slice(opened, IdRange(after, until))

    def _note(self, looked: Sequence[OrderFacts]) -> list[int]:
        """Remember what a first look has seen of orders that are not known yet; return these."""
        suspects: list[int] = []
        for facts in looked:
            if facts.order_id in self._seen or len(self._seen) >= MOST_REMEMBERED:
                continue
            if findings := self._judge(facts):
                self._seen[facts.order_id] = findings
                suspects.append(facts.order_id)
        return suspects

    def _look_again(
        self, opened: Mapping[str, Connection], order_ids: Sequence[int]
    ) -> Iterator[FindingChange]:
        for first in range(0, len(order_ids), RECHECK_BATCH):
            batch = order_ids[first : first + RECHECK_BATCH]
            found = {facts.order_id: facts for facts in self._databases.read_slice(opened, batch)}
            for order_id in batch:
                yield from self._settle(found.get(order_id, OrderFacts(order_id)))

    def _settle(self, facts: OrderFacts) -> Iterator[FindingChange]:
        """Compare what this look sees of an order with what the last one saw."""
        order_id = facts.order_id
        findings = self._judge(facts)
        self._follow_messages(order_id, findings)
        findings += self._overdue(order_id, findings)
        last = self._seen.pop(order_id, ())
        if findings:
            self._seen[order_id] = findings
        for each in [standing for standing in self._standing if standing.order_id == order_id]:
            if each not in findings:
                del self._standing[each]
                yield FindingChange("settled", each, facts)
        for each in findings:
            if each.fault is not Fault.IN_FLIGHT and each in last and each not in self._standing:
                self._standing[each] = None
                yield FindingChange("found", each, facts)

    def _judge(self, facts: OrderFacts) -> list[AuditFinding]:
        return [*judge(facts, shard_of=self._shard_of), *judge_progress(facts, now=self._now())]

    def _follow_messages(self, order_id: int, findings: Collection[AuditFinding]) -> None:
        if any(each.fault is Fault.IN_FLIGHT for each in findings):
            self._late.setdefault(order_id, self._now())
        else:
            self._late.pop(order_id, None)

    def _overdue(self, order_id: int, findings: Collection[AuditFinding]) -> list[AuditFinding]:
        since = self._late.get(order_id)
        if since is None or self._now() - since <= LATE_AFTER:
            return []
        owed = next(each.detail for each in findings if each.fault is Fault.IN_FLIGHT)
        detail = f"under way since {since.astimezone(UTC):%Y-%m-%d %H:%M} UTC or longer: {owed}"
        return [AuditFinding(order_id, Fault.STUCK, detail)]


def watch_orders(options: Options, watching: OrderWatch, *, every_seconds: float, count: int) -> None:
    """Print each fault that begins or ends, and a line for each pass; wait for a database that is away."""
    done = 0
    while True:
        failed = False
        try:
            for change in watching.run_pass():
                _print_change(change, as_json=options.json)
        except DatabasesFailed as error:
            failed = True
            note(f"this pass was cut off: {error}")
        else:
            _print_pass(watching, as_json=options.json)
        done += 1
        if done == count:
            break
        time.sleep(every_seconds)
    if failed or not watching.report.clean:
        raise typer.Exit(ExitStatus.FAILED)


def _print_change(change: FindingChange, *, as_json: bool) -> None:
    finding, at = change.finding, datetime.now(UTC)
    if as_json:
        facts = {"fault": finding.fault.value, "detail": finding.detail}
        print_json({"change": change.kind, "at": at, "order_id": str(finding.order_id), **facts})
    else:
        line = f"{change.kind}: order {finding.order_id}, {finding.fault}: {finding.detail}"
        print(f"{at.isoformat(timespec='seconds')} {line}", flush=True)


def _print_pass(watching: OrderWatch, *, as_json: bool) -> None:
    report, at = watching.report, datetime.now(UTC)
    if as_json:
        print_json({"change": "pass", "at": at, **report.as_json(), "findings": []})
        return
    faults = f"{report.faults} fault{'' if report.faults == 1 else 's'}"
    line = f"{report.orders} orders compared, {faults}, {report.in_flight} in flight"
    print(f"{at.isoformat(timespec='seconds')} {line}", flush=True)
