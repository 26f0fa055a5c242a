"""What `mesctl orders audit --watch` and `--repair` print, and their exit status."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import typer

from app.console.audit.databases import OrderDatabases
from app.console.audit.repair import Repair, RepairRefused, do_repair, plan_repairs
from app.console.audit.rules import AuditFinding
from app.console.audit.watch import FindingChange, OrderWatch
from app.console.dead_letters import NotDeadLetter, actor
from ops.errors import ExitStatus
from ops.fleet import DatabasesFailed
from ops.options import Options
from ops.output import note, print_json, print_table


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


def repair_orders(
    options: Options, databases: OrderDatabases, watching: OrderWatch, *, dry_run: bool
) -> None:
    """Look at all orders once, and send again what is safe; print what was, and what a person must decide.

    Exit status 1 if a fault is left; with a dry run, if there is any.
    """
    found = [
        (each.finding, each.facts) for each in watching.run_pass() if each.kind == "found" and each.facts
    ]
    repairs, others = plan_repairs(found)
    done: list[Repair] = []
    refused: list[RepairRefused] = []
    for repair in repairs:
        try:
            asyncio.run(do_repair(databases, repair, actor=actor(), dry_run=dry_run))
            done.append(repair)
        except RepairRefused as error:
            refused.append(error)
        except NotDeadLetter as error:
            refused.append(RepairRefused(repair, error.meanwhile))
    _print_repairs(options, done, refused, others, dry_run=dry_run)
    if others or refused or (dry_run and done):
        raise typer.Exit(ExitStatus.FAILED)


def _print_repairs(
    options: Options,
    done: Sequence[Repair],
    refused: Sequence[RepairRefused],
    others: Sequence[AuditFinding],
    *,
    dry_run: bool,
) -> None:
    if options.json:
        left = [{"order_id": str(x.order_id), "fault": x.fault.value, "detail": x.detail} for x in others]
        sent = [{"order_id": str(each.order_id), "sent_again": str(each)} for each in done]
        kept = [
            {"order_id": str(x.repair.order_id), "not_sent": str(x.repair), "why": x.why} for x in refused
        ]
        print_json({"dry_run": dry_run, "repaired": sent, "refused": kept, "left": left})
        return
    verb = "would be sent again" if dry_run else "sent again"
    for each in done:
        print(f"order {each.order_id}: {verb}: {each}")
    for error in refused:
        print(str(error))
    if others:
        print("for a person to decide:")
        print_table(
            ("order", "finding", "detail"),
            [(finding.order_id, finding.fault, finding.detail) for finding in others],
        )
    print(f"{len(done)} {verb}, {len(refused) + len(others)} left")
