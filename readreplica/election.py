"""Which node is the primary: by role and timeline, never by name. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from readreplica.health import Observation
from readreplica.wal import Position


@dataclass(frozen=True)
class PrimaryState:
    """What is known of the primary. `timeline` is the newest that any primary was seen on."""

    node: str | None = None
    """Its node, or the one that it had when it last answered; None before it was found, or where two claim to
    be it."""

    answers: bool = False
    """Whether it answered its last poll."""

    system_identifier: int | None = None
    timeline: int = 0
    server: str = ""
    rivals: tuple[str, ...] = ()
    """Nodes that take writes as well, and must not get any."""

    @property
    def is_split(self) -> bool:
        """Whether several nodes claim to be the primary, and nothing shows which one is."""
        return self.node is None and bool(self.rivals)


Writable: TypeAlias = Mapping[str, tuple[Observation, Position]]
"""Nodes of the cluster that are not in recovery, by name."""


def elect(known: PrimaryState, answers: Mapping[str, Observation]) -> PrimaryState:
    """Return the primary among the nodes, by their newest answers.

    - Of two on different timelines the newer one is the primary: the older one was there before the
      promotion, and what is written to it is lost when it is rewound.
    - Of two on the same timeline (a replica whose standby.signal was removed, or two promoted apart) the
      known one stays, for its clients write on. If none is known, there is none: nothing shows which one
      is right, and a wrong guess loses writes.
    - One that was never known as the primary does not become it on the known timeline, even if no other node
      answers: a promotion begins a new timeline, so its history is another one, without what was written.
    - While the cluster's system identifier is unknown, and nodes disagree about it, there is none.
    - A timeline that is older than the newest one seen never gets writes, even if no other node answers.

    Parameters:
        known: the state before.
        answers: by node; nodes that do not answer are not in it.
    """
    able = _writable(known, answers)
    names = tuple(sorted(able))
    newest = max((position.timeline for _, position in able.values()), default=0)
    if not able or newest < known.timeline or _is_unclear(known, answers):
        return replace(known, answers=False, rivals=names)
    chosen = _choose(known, newest, able)
    if chosen is not None:
        seen, position = able[chosen]
        rivals = tuple(name for name in names if able[name][0].server != seen.server)
        return PrimaryState(chosen, True, position.system_identifier, newest, seen.server, rivals)
    if known.node is not None and newest == known.timeline:
        return replace(known, answers=False, rivals=names)
    return PrimaryState(None, False, known.system_identifier, newest, "", names)


def _writable(known: PrimaryState, answers: Mapping[str, Observation]) -> Writable:
    return {
        name: (seen, seen.position)
        for name, seen in answers.items()
        if not seen.in_recovery and seen.position is not None and _belongs(known, seen.position)
    }


def _is_unclear(known: PrimaryState, answers: Mapping[str, Observation]) -> bool:
    """Return whether the cluster's system identifier is unknown, and the nodes disagree about it."""
    systems = {seen.position.system_identifier for seen in answers.values() if seen.position is not None}
    return known.system_identifier is None and len(systems) > 1


def _belongs(known: PrimaryState, position: Position) -> bool:
    return known.system_identifier in (None, position.system_identifier)


def _choose(known: PrimaryState, newest: int, able: Writable) -> str | None:
    servers = {name: seen.server for name, (seen, position) in able.items() if position.timeline == newest}
    if newest == known.timeline and known.node in servers:
        return known.node
    if newest == known.timeline and known.server:
        return min((name for name, server in servers.items() if server == known.server), default=None)
    # One server, perhaps under several addresses.
    return min(servers) if len(set(servers.values())) == 1 else None


def may_write(known: PrimaryState, position: Position) -> bool:
    """Return whether a server at this position may get writes, as far as this process knows."""
    return _belongs(known, position) and position.timeline >= known.timeline
