"""The trace of an order as a page for a person."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table

from app.console.audit.trace import Letter, Standing, Step, Trace
from ops.shards.service import KeyLocation
from sharding.ids import instant_of

SHORT = 60


def print_trace(console: Console, told: Trace, place: KeyLocation) -> None:
    """Print where an order is, what happened to it, and what it waits for."""
    belongs = f"bucket {place.bucket} on {place.shard}, made {_time(instant_of(told.order_id))}"
    console.print(f"order {told.order_id} ({belongs})", highlight=False, soft_wrap=True)
    for table in (_standings(told), _history(told)):
        console.print(table)
    for line in _waits(told):
        console.print(line, highlight=False, soft_wrap=True)


def _standings(told: Trace) -> Table:
    table = _table("service", "stands in", "status", "price", "since", "")
    for standing in told.standings:
        price = "" if standing.price is None else f"{standing.price} EUR"
        since = _time(standing.changed_at)
        table.add_row(
            standing.place.service, str(standing.place), standing.status, price, since, _remark(standing)
        )
    return table


def _remark(standing: Standing) -> str:
    remarks = (standing.operator and f"held by {standing.operator}", standing.reason)
    return ", ".join(remark for remark in remarks if remark)


def _history(told: Trace) -> Table:
    table = _table("at", "status", "by", "known to", "")
    for steps in _same_steps(told.history):
        first = steps[0]
        services = ", ".join(dict.fromkeys(step.service.value for step in steps))
        facts = _facts({name: fact for step in steps for name, fact in step.detail.items()})
        table.add_row(_time(first.at), first.status, first.actor, services, facts)
    return table


def _same_steps(history: Sequence[Step]) -> Iterator[list[Step]]:
    """Put together what several services have written of one and the same event."""
    by_event = sorted(history, key=lambda step: (step.at, step.status, step.actor))
    for _, steps in groupby(by_event, key=lambda step: (step.at, step.status, step.actor)):
        yield list(steps)


def _facts(detail: Mapping[str, Any]) -> str:
    """Name the short facts of an event; digests and lists are for `--json`."""
    short = {name: str(fact) for name, fact in detail.items() if isinstance(fact, str | int | float)}
    return ", ".join(f"{name} {fact}" for name, fact in short.items() if len(fact) <= SHORT)


def _waits(told: Trace) -> Iterator[str]:
    for job in told.jobs:
        worker = (
            f"{job.leased_by} has it until {_time(job.lease_expires_at)}" if job.leased_by else "it waits"
        )
        yield f"pricing job on {job.database}: {worker}, {job.attempts} attempts so far"
    for letter in told.letters:
        yield f"{letter.type} from {letter.source} to {letter.destination}: {_delivery(letter)}"
    if not told.jobs and not told.letters:
        yield "no message is under way, no price is owed"


def _delivery(letter: Letter) -> str:
    if letter.set_aside_reason is not None:
        return f"SET ASIDE after {letter.attempts} attempts: {letter.set_aside_reason}"
    since = f"under way since {_time(letter.created_at)}"
    return f"{since}, sent {letter.attempts} times, next at {_time(letter.next_attempt_at)}"


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, pad_edge=False, header_style="dim")


def _time(at: datetime) -> str:
    return at.astimezone().isoformat(sep=" ", timespec="milliseconds")
