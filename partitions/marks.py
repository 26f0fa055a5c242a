"""What a table outside its parent is: PostgreSQL forgets that it was a partition, so its comment tells.

A comment stays with the table through a dump, a restore and a physical replica, needs no table of ours, and
`\\d+` shows it to whoever wonders.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from partitions.sql import identifier, literal


class State(StrEnum):
    """Why the table stands alone."""

    DETACHED = "detached"
    """It was a partition; it may be attached again, and is dropped after a delay."""

    PREPARED = "prepared"
    """It was to become a partition. A run that finished has removed the mark; a killed one has not."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The comment on a table that is no partition now.

    Parameters:
        state: why it stands alone.
        table: the partitioned table that it belongs to.
        bound: the bound as PostgreSQL writes it, `FOR VALUES ...`.
        at: when that came about; the delay of a drop counts from here.
    """

    state: State
    table: str
    bound: str
    at: datetime

    def on(self, partition: str) -> str:
        """Render the statement that marks a table."""
        words = {"state": self.state, "table": self.table, "bound": self.bound, "at": self.at.isoformat()}
        return f"COMMENT ON TABLE {identifier(partition)} IS {literal(json.dumps(words))}"


def unmark(partition: str) -> str:
    """Render the statement that removes a mark."""
    return f"COMMENT ON TABLE {identifier(partition)} IS NULL"


def read_mark(comment: str | None) -> Mark | None:
    """Read a table's comment; None when it is somebody's own."""
    try:
        words = json.loads(comment or "")
        return Mark(
            State(words["state"]), words["table"], words["bound"], datetime.fromisoformat(words["at"])
        )
    except (ValueError, KeyError, TypeError):
        return None
