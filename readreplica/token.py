"""Causal tokens: what a later read must have seen.

A token holds, for each cluster that was written, the WAL position after the commit together with the
history that the position belongs to: the cluster's system identifier and its timeline.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Generic, Self, TypeVar

from readreplica.errors import TokenMalformed
from readreplica.wal import UNKNOWN_SYSTEM, Lsn, Position, merge_positions

VERSION = "1"
MAX_LENGTH = 4096
_POSITION = re.compile(r"([a-z][a-z0-9_]{0,62})\.([0-9a-f]{1,16})\.([0-9a-f]{1,8})\.([0-9a-f]{1,16})")

T = TypeVar("T")


@dataclass(frozen=True)
class CausalToken:
    """An immutable token; the empty one asks for nothing.

    `positions` maps the cluster's name to the position there.
    """

    positions: Mapping[str, Position] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Keep a copy that cannot be changed."""
        object.__setattr__(self, "positions", MappingProxyType(dict(self.positions)))

    def __bool__(self) -> bool:
        return bool(self.positions)

    def __hash__(self) -> int:
        return hash(frozenset(self.positions.items()))

    def merge(self, other: "CausalToken") -> "CausalToken":
        """Return the token that asks for everything that either token asks for.

        Within one timeline the higher LSN wins, and the newer timeline wins over the older. If a cluster
        was made anew (another system identifier), `other` is taken as the later knowledge. `merge()` keeps an
        unknown position, for the other one may be before it; only `followed_by()` replaces it.
        """
        merged = dict(self.positions)
        for cluster, position in other.positions.items():
            mine = merged.get(cluster)
            merged[cluster] = position if mine is None else merge_positions(mine, position)
        return CausalToken(merged)

    def followed_by(self, commits: "CausalToken") -> "CausalToken":
        """Return what either asks for, where `commits` are known to come after all of this.

        They do if each was begun once all that this stands for had been acknowledged: the primary does one
        after the other, so a later one has the earlier ones before it in the WAL. Then it replaces an unknown
        position too, unless that one's server wrote a newer timeline: the commit of an old primary has
        nothing of the new one's before it.
        """
        merged = self.merge(commits)
        covered = {
            cluster: position
            for cluster, position in commits.positions.items()
            if (mine := self.positions.get(cluster))
            and mine.system_identifier == UNKNOWN_SYSTEM
            and position.timeline >= mine.timeline
        }
        return CausalToken({**merged.positions, **covered}) if covered else merged

    def encode(self) -> str:
        """Return the token as a short text that is safe in headers, cookies and URLs.

        The text is not signed; see `readreplica.signing` for texts that pass through the hands of clients.
        """
        parts = [
            f"{name}.{p.system_identifier:x}.{p.timeline:x}.{p.lsn:x}" for name, p in self.positions.items()
        ]
        return "~".join([VERSION, *sorted(parts)])

    @classmethod
    def decode(cls, text: str) -> Self:
        """Read what `encode` wrote.

        Raises:
            TokenMalformed: it is something else, or of a version that this code does not know.
        """
        if len(text) > MAX_LENGTH:
            raise TokenMalformed(text, f"it is longer than {MAX_LENGTH} characters")
        version, *parts = text.split("~")
        if version != VERSION:
            raise TokenMalformed(text, f"its version is not {VERSION}")
        positions = dict(_decode_position(text, part) for part in parts)
        if len(positions) != len(parts):
            raise TokenMalformed(text, "it names a cluster twice")
        return cls(positions)


def _decode_position(text: str, part: str) -> tuple[str, Position]:
    found = _POSITION.fullmatch(part)
    if found is None:
        raise TokenMalformed(text, f"{part[:40]!r} is not cluster.system.timeline.lsn")
    name, system_identifier, timeline, lsn = found.groups()
    return name, Position(int(system_identifier, 16), int(timeline, 16), Lsn(lsn, 16))


@dataclass(frozen=True)
class Committed(Generic[T]):
    """What a unit of work returned that is committed, and the token with which a read is sure to see it."""

    value: T
    token: CausalToken
