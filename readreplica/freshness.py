"""What a read asks of a node: policies as values, and the question whether a node's lag fits. Pure."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from readreplica.token import CausalToken


class Lag(NamedTuple):
    """How far a node may be behind the primary, at most."""

    seconds: float | None
    """It has everything that was committed longer ago than this; None where nothing proves that."""

    bytes: int | None
    """What it had not replayed when it was last asked; None where the primary's position is unknown."""


@dataclass(frozen=True, kw_only=True)
class Freshness:
    """A policy. Make one with `bounded`, `after`, or take `ANY` or `PRIMARY`."""

    on_primary: bool = False
    max_lag_seconds: float | None = None
    max_lag_bytes: int | None = None
    token: CausalToken | None = None

    def __post_init__(self) -> None:
        """Refuse bounds that nothing can meet."""
        for name in ("max_lag_seconds", "max_lag_bytes"):
            bound = getattr(self, name)
            if bound is not None and bound < 0:
                raise ValueError(f"{name} is {bound}; a lag is 0 or more")

    @property
    def is_bounded(self) -> bool:
        """Whether the node's lag matters."""
        return self.max_lag_seconds is not None or self.max_lag_bytes is not None

    def with_token(self, token: CausalToken | None) -> "Freshness":
        """Ask for what a token names as well."""
        if not token:
            return self
        return replace(self, token=self.token.merge(token) if self.token else token)

    def fits(self, lag: Lag) -> bool:
        """Tell whether a node with this lag is near enough; what is unknown does not fit a bound."""
        return _within(lag.seconds, self.max_lag_seconds) and _within(lag.bytes, self.max_lag_bytes)


def _within(found: float | None, bound: float | None) -> bool:
    return bound is None or (found is not None and found <= bound)


ANY = Freshness()
"""Whatever a replica has."""

PRIMARY = Freshness(on_primary=True)
"""The primary itself, outside the fallback budget: the caller has decided."""


def bounded(*, max_lag_seconds: float | None = None, max_lag_bytes: int | None = None) -> Freshness:
    """Ask for a node that is behind by no more than this.

    Parameters:
        max_lag_seconds: the node has everything that was committed longer ago. This is proven by WAL
            positions and this process's monotonic clock, not by the clocks of servers; below the monitor's
            period it can hold only by luck.
        max_lag_bytes: what it had not replayed when the monitor last asked.
    """
    return Freshness(max_lag_seconds=max_lag_seconds, max_lag_bytes=max_lag_bytes)


def after(token: CausalToken) -> Freshness:
    """Ask for a node that has replayed what the token names."""
    return ANY.with_token(token)
