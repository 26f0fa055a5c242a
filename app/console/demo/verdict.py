"""The demo's last line: the clients' own list of accepted orders against what the databases hold. Pure."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from app.console.audit.facts import OrderFacts
from app.console.audit.judge import Fault, Finding
from app.models.status import DONE


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the accepted orders.

    Parameters:
        accepted: orders for which a client got a 2xx.
        accounted_for: those that stand once in each service that must have them, agree, and have ended.
        lost: those that a service which must have them has not.
        duplicated: orders that stand twice in one service, and orders that no client knows of.
    """

    accepted: frozenset[int]
    accounted_for: frozenset[int]
    lost: frozenset[int]
    duplicated: frozenset[int]

    @property
    def unfinished(self) -> frozenset[int]:
        """Accepted orders that are there, once, but have not ended everywhere."""
        return self.accepted - self.accounted_for - self.lost - self.duplicated

    @property
    def good(self) -> bool:
        """Whether every accepted order is accounted for, and there is none besides."""
        return self.accounted_for == self.accepted and not self.lost and not self.duplicated

    @property
    def line(self) -> str:
        """The demo's last line."""
        return (
            f"{len(self.accepted)} accepted, {len(self.accounted_for)} accounted for, "
            f"{len(self.lost)} lost, {len(self.duplicated)} duplicated"
        )


def account(accepted: Collection[int], orders: Iterable[OrderFacts], findings: Iterable[Finding]) -> Verdict:
    """Compare.

    Parameters:
        accepted: what the clients were promised.
        orders: what the databases hold, drafts included.
        findings: what the audit says about it.
    """
    promised = frozenset(accepted)
    faults: dict[int, set[Fault]] = {}
    for found in findings:
        faults.setdefault(found.order_id, set()).add(found.fault)
    submitted = {facts.order_id: facts for facts in orders if any(copy.submitted for copy in facts.copies)}
    missing = {order_id for order_id, found in faults.items() if Fault.MISSING in found}
    twice = {order_id for order_id, found in faults.items() if Fault.DUPLICATE in found}
    ended = {order_id for order_id, facts in submitted.items() if _has_ended(facts)}
    return Verdict(
        accepted=promised,
        accounted_for=(promised & ended) - set(faults),
        lost=promised & missing | promised - set(submitted),
        duplicated=frozenset(twice | set(submitted) - promised),
    )


def _has_ended(facts: OrderFacts) -> bool:
    return all(copy.status in DONE for copy in facts.copies)
