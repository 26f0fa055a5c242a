"""What of the audit's findings is mended by sending again: planned (pure), and done, each in a transaction.

No status is ever changed here. A message that was lost is written again from the history of the service that
decided; the services then do what they always do, and refuse what does not fit. Each repair leaves a line in
the history of the order. What was repaired is under way, or agrees, and is no finding any more.

Between the look at all orders and a repair, an order may have gone on. So each is read again in the
transaction that repairs it, when its row is locked at the source and nothing is owed: what has settled is
left alone.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import typer
from sqlalchemy import select

from app.console.audit.databases import OrderDatabases
from app.console.audit.rules import AuditFinding, Fault, OrderCopy, OrderFacts
from app.console.audit.watch import OrderWatch
from app.console.dead_letters import (
    Check,
    LetterFilter,
    NotDeadLetter,
    find_letters,
    lock_anywhere,
    person,
    retry_letter,
)
from app.flow.turns import enqueue, sender_of_order
from app.messaging.events import (
    EVENTS,
    PROGRESS,
    Event,
    Item,
    OrderCancelled,
    OrderRejected,
    OrderReleased,
    OrderSnapshot,
    OrderSubmitted,
    PriceCalculated,
    StatusChanged,
)
from app.messaging.outbox import publish
from app.messaging.routing import ServiceName, may_send
from app.models.base import EventRow
from app.models.mes import MesOrder, MesOrderItem, PricingJob
from app.models.status import RELEASES, TRANSITIONS, Channel, Status
from app.orders import OrderModels, append_event, read_history
from ops.errors import ExitStatus, OpsError
from ops.fleet import results_of
from ops.options import Options
from ops.output import print_json, print_table
from readreplica.sessions import WriteSession

Kind = Literal["pricing job", "dead letter", "messages"]


@dataclass(frozen=True, slots=True)
class Repair:
    """Something that is safe to send again.

    `after` is the status at which the destination stands; None if it does not have the order at all.
    """

    order_id: int
    kind: Kind
    database: str
    destination: ServiceName | None = None
    after: Status | None = None

    def __str__(self) -> str:
        match self.kind:
            case "pricing job":
                return f"a pricing job on {self.database}"
            case "dead letter":
                return f"the dead letter of {self.database} to {self.destination}"
            case _:
                since = f"what followed {self.after}" if self.after else "the order as it was submitted"
                return f"{since}, from {self.database} to {self.destination}"


class RepairRefused(OpsError):
    """It is not safe to send it again; nothing was changed."""

    exit_status = ExitStatus.REFUSED

    def __init__(self, repair: Repair, why: str) -> None:
        self.repair = repair
        self.why = why
        super().__init__(f"order {repair.order_id}: {repair} is not sent again: {why}")


class RepairSettled(OpsError):
    """The order has gone on since it was looked at, and needs no repair; nothing was changed."""

    exit_status = ExitStatus.REFUSED

    def __init__(self, repair: Repair, why: str) -> None:
        self.repair = repair
        self.why = why
        super().__init__(f"order {repair.order_id}: settled meanwhile: {why}")


Look = Callable[[int], tuple[OrderFacts, Sequence[AuditFinding]]]
"""Reads an order in all databases, and returns its facts and what is wrong with it."""

REPAIRED = frozenset({Fault.NO_JOB, Fault.DEAD_LETTER, Fault.MISSING, Fault.STATUS_DIFFERS})

FOLLOWS = frozenset({Fault.MISSING, Fault.STATUS_DIFFERS, Fault.PRICE_DIFFERS, Fault.STUCK})
"""What goes away by itself once what was sent again is handled."""


def plan_repairs(found: Iterable[tuple[AuditFinding, OrderFacts]]) -> tuple[list[Repair], list[AuditFinding]]:
    """Return what can be sent again, and the findings that are for a person. Pure."""
    repairs: dict[Repair, None] = {}
    others: list[AuditFinding] = []
    for finding, facts in found:
        chosen = list(_repairs_of(finding, facts))
        repairs |= dict.fromkeys(chosen)
        if not chosen:
            others.append(finding)
    mended = {each.order_id for each in repairs}
    return list(repairs), [x for x in others if x.fault not in FOLLOWS or x.order_id not in mended]


def _repairs_of(finding: AuditFinding, facts: OrderFacts) -> Iterator[Repair]:
    match finding.fault:
        case Fault.NO_JOB:
            for copy in facts.copies_of(ServiceName.MES):
                yield Repair(facts.order_id, "pricing job", copy.place.database)
        case Fault.DEAD_LETTER:
            yield from _retries(facts)
        case Fault.MISSING:
            yield from _submissions(facts)
        case Fault.STATUS_DIFFERS:
            yield from _resends(facts)


def _retries(facts: OrderFacts) -> Iterator[Repair]:
    """Choose the dead letters that their destination would take by now."""
    for message in facts.messages:
        if message.set_aside_reason is None:
            continue
        event, destination = EVENTS.get(message.type), ServiceName(message.destination)
        copies = facts.copies_of(destination)
        fits = event is not None and _would_take(event, copies)
        sources = facts.copies_of(message.source)
        if fits and len(copies) < 2 and len(sources) == 1:
            yield Repair(facts.order_id, "dead letter", sources[0].place.database, destination)


def _would_take(event: type[Event], copies: Sequence[OrderCopy]) -> bool:
    if event is OrderSnapshot:
        return True  # the board takes what comes, in whatever order
    if not issubclass(event, StatusChanged):
        return False
    if not copies:
        return event is OrderSubmitted
    status = copies[0].status
    if event is OrderReleased:
        return RELEASES.get(status) is event.status
    return event.status in TRANSITIONS[status]


def _submissions(facts: OrderFacts) -> Iterator[Repair]:
    """Choose who has an order that another service lacks: the Shop, and MES those of partners."""
    for service in (ServiceName.MES, ServiceName.CRM):
        if facts.copies_of(service) or _owes(facts, service):
            continue
        if service is ServiceName.MES and any(copy.status is not Status.SUBMITTED for copy in facts.copies):
            continue  # MES would price and make anew what is further already: for a person
        for source in facts.copies:
            started_there = ServiceName.SHOP if source.channel is Channel.B2C else ServiceName.MES
            if source.place.service is started_there and source.submitted:
                yield Repair(facts.order_id, "messages", source.place.database, service)


def _resends(facts: OrderFacts) -> Iterator[Repair]:
    """Choose whose messages to another service are lost: the one that is behind lacks them."""
    hubs = facts.copies_of(ServiceName.MES)
    if len(hubs) != 1:
        return
    [hub] = hubs
    for copy in facts.copies:
        if copy.place.service is ServiceName.MES or copy.status is hub.status:
            continue
        if can_become(copy.status, hub.status) or RELEASES.get(copy.status) is hub.status:
            behind, ahead = copy, hub
        elif can_become(hub.status, copy.status) and copy.place.service is ServiceName.CRM:
            behind, ahead = hub, copy
        else:
            continue
        if not _owes(facts, behind.place.service, source=ahead.place.service):
            yield _messages(ahead, behind)


def _messages(ahead: OrderCopy, behind: OrderCopy) -> Repair:
    return Repair(ahead.order_id, "messages", ahead.place.database, behind.place.service, after=behind.status)


def _owes(facts: OrderFacts, destination: ServiceName, *, source: ServiceName | None = None) -> bool:
    return any(note.destination == destination and source in (None, note.source) for note in facts.messages)


def can_become(status: Status, wanted: Status) -> bool:
    """Return whether an order can come from one status to another, over whatever lies between."""
    following = TRANSITIONS[status]
    return wanted in following or any(can_become(each, wanted) for each in following)


def confirm(repair: Repair, facts: OrderFacts, findings: Sequence[AuditFinding]) -> None:
    """Return if a repair would be planned by what is known of its order now. Pure.

    Raises:
        RepairSettled: nothing is wrong with the order that a repair could mend.
        RepairRefused: something else is wrong with it by now.
    """
    if repair in plan_repairs((finding, facts) for finding in findings)[0]:
        return
    left = [finding for finding in findings if finding.fault in REPAIRED]
    if left:
        raise RepairRefused(repair, f"it has changed meanwhile: {left[0].detail}")
    under_way = [finding.detail for finding in findings if finding.fault is Fault.IN_FLIGHT]
    raise RepairSettled(repair, f"under way: {under_way[0]}" if under_way else "the services agree")


async def do_repair(
    databases: OrderDatabases, repair: Repair, *, look: Look, actor: str, dry_run: bool
) -> None:
    """Send again what a repair says; with `dry_run` only look whether it can be.

    Parameters:
        databases: the databases.
        repair: what is to be sent again.
        look: reads the order once more, inside of the transaction.
        actor: who repairs, for the order's history.
        dry_run: whether nothing is to be changed.

    Raises:
        RepairSettled: it is no longer needed; nothing was changed.
        RepairRefused: it is not safe; nothing was changed.
        NotDeadLetter: the dead letter is none any more.
        DatabasesFailed: a database does not answer.
    """

    async def still_due() -> None:
        confirm(repair, *await asyncio.to_thread(look, repair.order_id))

    if repair.kind == "dead letter":
        await _retry_first(databases, repair, still_due, actor=actor, dry_run=dry_run)
        return

    async def work(session: WriteSession) -> None:
        service = databases.services[repair.database]
        found = await lock_anywhere(session, service, repair.order_id)
        if found is None:
            raise RepairRefused(repair, f"{repair.database} has the order no more")
        models, order = found
        if repair.kind == "pricing job":
            await _add_job(session, repair, order, dry_run=dry_run)
        else:
            await _check_outbox(session, repair, models.outbox)
            # Later: what the destination had acknowledged by then is in what is read of it now.
            await still_due()
            await _send(session, repair, models, order, dry_run=dry_run)
        if not dry_run:
            detail = {"repaired": str(repair)}
            now, action = datetime.now(UTC), "order_repaired"
            await append_event(session, models, order, actor=actor, now=now, detail=detail, action=action)

    await databases.write(repair.database, work)


async def _retry_first(
    databases: OrderDatabases, repair: Repair, still_due: Check, *, actor: str, dry_run: bool
) -> None:
    """Retry the oldest one: what is behind it goes on by itself, or is set aside and found again."""
    wanted = LetterFilter(repair.database, repair.destination, order_id=repair.order_id)
    letters = [each for _, found in results_of(find_letters(databases, wanted)) for each in found]
    if not letters:
        raise RepairSettled(repair, "it is no dead letter any more")
    if dry_run:
        await still_due()
    else:
        await retry_letter(databases, letters[0], actor=actor, check=still_due)


async def _add_job(session: WriteSession, repair: Repair, order: MesOrder, *, dry_run: bool) -> None:
    job = await session.scalar(select(PricingJob.order_id).where(PricingJob.order_id == order.order_id))
    if order.status is not Status.SUBMITTED or job is not None:
        raise RepairSettled(repair, f"it is {order.status}{' and has a job' if job is not None else ''}")
    if not dry_run:
        sender = sender_of_order(order.order_id, order.partner)
        await enqueue(session, PricingJob(order_id=order.order_id, sender=sender))


async def _check_outbox(session: WriteSession, repair: Repair, outbox: Any) -> None:
    owed = select(outbox.set_aside_at).where(
        outbox.order_id == repair.order_id, outbox.destination == repair.destination
    )
    found = (await session.scalars(owed)).all()
    if any(set_aside_at is not None for set_aside_at in found):
        raise RepairRefused(repair, "a message was set aside meanwhile")
    if found:
        raise RepairSettled(repair, "a message is under way")


async def _send(
    session: WriteSession, repair: Repair, models: OrderModels[Any], order: Any, *, dry_run: bool
) -> None:
    assert repair.destination is not None
    outbox = models.outbox
    if (
        repair.after is None
        and repair.destination is ServiceName.MES
        and order.status is not Status.SUBMITTED
    ):
        raise RepairRefused(repair, f"it is {order.status}, and MES would make it anew")
    lines = entries(await read_history(session, models, repair.order_id), after=repair.after)
    events = [(await _event_of(session, repair, order, line), line.at) for line in lines]
    for event, _ in events:
        if not may_send(models.service, event, repair.destination):
            raise RepairRefused(repair, f"{event.type} is not for {models.service} to send")
    if not events:
        raise RepairRefused(repair, f"the history of {repair.database} does not have it")
    for event, at in () if dry_run else events:
        await publish(
            session, outbox, order_id=repair.order_id, event=event, destinations=[repair.destination], at=at
        )


def entries(history: Iterable[EventRow], *, after: Status | None) -> list[EventRow]:
    """Return the lines by which an order came to each status after one, or its submission alone. Pure."""
    lines = sorted(history, key=lambda line: line.event_no)
    before: list[Status | None] = [None, *(line.status for line in lines)]
    steps = [line for line, status in zip(lines, before, strict=False) if line.status is not status]
    if after is None:
        return [line for line in steps if line.status is Status.SUBMITTED][:1]
    # The last one: what was put back was taken again.
    reached = [number for number, line in enumerate(steps) if line.status is after]
    return steps[reached[-1] + 1 :] if reached else []


async def _event_of(session: WriteSession, repair: Repair, order: Any, line: EventRow) -> Event:
    """Write an event again as the service that decided it has recorded it."""
    match line.status:
        case Status.SUBMITTED:
            return await _submission(session, order, line)
        case Status.PRICE_CALCULATED:
            return PriceCalculated(actor=line.actor, **_facts(repair, line, "price", "items"))
        case Status.REJECTED:
            return OrderRejected(actor=line.actor, **_facts(repair, line, "reason"))
        case Status.CANCELLED:
            return OrderCancelled(actor=line.actor, **_facts(repair, line, "reason"))
        case Status.MANUFACTURING_APPROVED if "released" in line.detail:
            return OrderReleased(actor=line.actor, reason=line.detail["released"])
        case _ if line.status in PROGRESS:
            return PROGRESS[line.status](actor=line.actor)
    raise RepairRefused(repair, f"{line.status} is no event that is sent")


def _facts(repair: Repair, line: EventRow, *names: str) -> Mapping[str, Any]:
    if missing := [name for name in names if name not in line.detail]:
        raise RepairRefused(repair, f"the history has no {' and '.join(missing)} of {line.status}")
    return {name: line.detail[name] for name in names}


async def _submission(session: WriteSession, order: Any, line: EventRow) -> Event:
    if order.channel is Channel.B2C:
        from app.shop.service import submission_of  # the Shop's, with all that it imports

        return submission_of(order, at=line.at)
    rows = await session.scalars(select(MesOrderItem).where(MesOrderItem.order_id == order.order_id))
    names = Item.model_fields
    items = tuple(Item(**{name: getattr(row, name) for name in names}) for row in rows)
    return OrderSubmitted(
        actor=line.actor,
        channel=order.channel,
        summary=order.summary,
        partner=order.partner,
        items=items,
        submitted_at=line.at,
    )


def repair_orders(
    options: Options, databases: OrderDatabases, watching: OrderWatch, *, dry_run: bool
) -> None:
    """Look at all orders once, and send again what is safe; print what was, and what a person must decide.

    Exit status 1 if a fault is left; with a dry run, if there is any.
    """
    standing: dict[AuditFinding, OrderFacts] = {}
    for each in watching.run_pass():
        if each.kind == "settled":
            standing.pop(each.finding, None)  # within this pass
        elif each.facts:
            standing[each.finding] = each.facts
    repairs, others = plan_repairs(standing.items())
    done: list[Repair] = []
    refused: list[RepairRefused] = []
    settled: list[RepairSettled] = []
    with watching.looking() as look:
        for repair in repairs:
            try:
                asyncio.run(do_repair(databases, repair, look=look, actor=person(), dry_run=dry_run))
                done.append(repair)
            except RepairRefused as error:
                refused.append(error)
            except RepairSettled as error:
                settled.append(error)
            except NotDeadLetter as error:
                settled.append(RepairSettled(repair, error.meanwhile))
    _print_repairs(options, done, refused, settled, others, dry_run=dry_run)
    if others or refused or (dry_run and done):
        raise typer.Exit(ExitStatus.FAILED)


def _print_repairs(
    options: Options,
    done: Sequence[Repair],
    refused: Sequence[RepairRefused],
    settled: Sequence[RepairSettled],
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
        gone = [{"order_id": str(x.repair.order_id), "settled": x.why} for x in settled]
        print_json({"dry_run": dry_run, "repaired": sent, "refused": kept, "settled": gone, "left": left})
        return
    verb = "would be sent again" if dry_run else "sent again"
    for each in done:
        print(f"order {each.order_id}: {verb}: {each}")
    for error in (*refused, *settled):
        print(str(error))
    if others:
        print("for a person to decide:")
        print_table(
            ("order", "finding", "detail"),
            [(finding.order_id, finding.fault, finding.detail) for finding in others],
        )
    print(f"{len(done)} {verb}, {len(refused) + len(others)} left")
