"""The audit's decisions about one order: pure, so that each rule can be tried with a few values.

MES is the hub: it hears of every order, decides every race, and is the only one that the Shop listens to.
So the Shop and the CRM are each compared with MES, and a difference is excused only by a message that is
under way between the two. A message that was set aside excuses nothing: it waits for a person.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from app.console.audit.facts import Copy, OrderFacts, Service
from app.models.status import Channel


class Fault(StrEnum):
    """What can be wrong with an order. The value is what the report says."""

    MISSING = "missing"
    DUPLICATE = "duplicate"
    WRONG_SHARD = "wrong shard"
    STATUS_DIFFERS = "status differs"
    PRICE_DIFFERS = "price differs"
    SET_ASIDE = "message set aside"
    ORPHAN = "orphan"
    IN_FLIGHT = "in flight"
    """Not a fault: services differ, and the message that will make them agree is under way."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know about one order; two looks that see the same make equal findings."""

    order_id: int
    fault: Fault
    detail: str


MAKES_KNOWN: Mapping[Service, frozenset[Service]] = {
    Service.SHOP: frozenset(),
    Service.CRM: frozenset({Service.SHOP, Service.MES}),
    Service.MES: frozenset({Service.SHOP}),
}
"""Who can still tell a service of an order that it does not hold. Nobody tells the Shop: it starts them."""


def judge(facts: OrderFacts, *, shard_of: Callable[[int], str]) -> list[Finding]:
    """Say what is wrong with an order.

    Parameters:
        facts: what all databases hold of it.
        shard_of: the shard map: the MES database that must hold an order id.

    Returns:
        The findings; empty when all is well. At most one of them is `IN_FLIGHT`.
    """
    findings = [
        *_duplicates(facts),
        *_misplaced(facts, shard_of),
        *_missing(facts),
        *_differing(facts),
        *_set_aside(facts),
        *_orphans(facts),
    ]
    # Several services may wait for messages of one order: that is still one order in flight.
    return list(dict.fromkeys(findings))


def _duplicates(facts: OrderFacts) -> Iterator[Finding]:
    for service in Service:
        copies = facts.copies_of(service)
        if len(copies) > 1:
            places = ", ".join(f"{copy.place} ({copy.status})" for copy in copies)
            yield Finding(facts.order_id, Fault.DUPLICATE, f"stands {len(copies)} times: {places}")


def _misplaced(facts: OrderFacts, shard_of: Callable[[int], str]) -> Iterator[Finding]:
    for copy in facts.copies_of(Service.MES):
        owner = shard_of(facts.order_id)
        if copy.place.database != owner:
            yield Finding(facts.order_id, Fault.WRONG_SHARD, f"stands in {copy.place}, belongs to {owner}")


def _missing(facts: OrderFacts) -> Iterator[Finding]:
    submitted = [copy for copy in facts.copies if copy.submitted]
    if not submitted:
        return
    witness = submitted[0]
    required = [service for service in Service if service != Service.SHOP or witness.channel == Channel.B2C]
    for service in required:
        if facts.copies_of(service):
            continue
        if any(_under_way(facts, source, service) for source in MAKES_KNOWN[service]):
            yield _in_flight(facts)
        else:
            detail = f"not in {service}, though {witness.place} has it ({witness.status})"
            yield Finding(facts.order_id, Fault.MISSING, detail)


def _differing(facts: OrderFacts) -> Iterator[Finding]:
    hub = facts.copies_of(Service.MES)
    if len(hub) != 1:
        return  # missing, or there twice: which copy is right is then a question for a person
    for service in (Service.SHOP, Service.CRM):
        for copy in facts.copies_of(service):
            differences = list(_differences(hub[0], copy))
            between = _under_way(facts, service, Service.MES) or _under_way(facts, Service.MES, service)
            yield from [_in_flight(facts)] if differences and between else differences


def _differences(hub: Copy, copy: Copy) -> Iterator[Finding]:
    if copy.status != hub.status:
        detail = f"{hub.place} {hub.status}, {copy.place} {copy.status}"
        yield Finding(hub.order_id, Fault.STATUS_DIFFERS, detail)
    if copy.price != hub.price:
        detail = f"{hub.place} {_money(hub)}, {copy.place} {_money(copy)}"
        yield Finding(hub.order_id, Fault.PRICE_DIFFERS, detail)


def _set_aside(facts: OrderFacts) -> Iterator[Finding]:
    for message in facts.messages:
        if message.set_aside_reason is not None:
            detail = f"{message.type}, {message.source} to {message.destination}: {message.set_aside_reason}"
            yield Finding(facts.order_id, Fault.SET_ASIDE, detail)


def _orphans(facts: OrderFacts) -> Iterator[Finding]:
    homes = {(copy.place.database, copy.place.table) for copy in facts.copies}
    for child in facts.children:
        if (child.place.database, child.parent) not in homes:
            detail = f"rows in {child.place}, no order in {child.place.database}.{child.parent}"
            yield Finding(facts.order_id, Fault.ORPHAN, detail)


def _under_way(facts: OrderFacts, source: Service, destination: Service) -> bool:
    """Whether a message will still arrive: one is owed, and none that was set aside holds it up."""
    owed = [note for note in facts.messages if (note.source, note.destination) == (source, destination)]
    return bool(owed) and all(note.set_aside_reason is None for note in owed)


def _in_flight(facts: OrderFacts) -> Finding:
    owed = sorted({f"{note.type} to {note.destination}" for note in facts.messages})
    return Finding(facts.order_id, Fault.IN_FLIGHT, ", ".join(owed))


def _money(copy: Copy) -> str:
    return "no price" if copy.price is None else f"{copy.price} EUR"
