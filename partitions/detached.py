r"""Tables beside a partitioned one that were its partitions, or were to be, and the comment that says so.

PostgreSQL forgets that a detached table was a partition. A comment stays with the table through a dump, a
restore and a physical replica, needs no table of ours, and `\d+` shows it.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from partitions.check_constraints import ParentCheck
from partitions.sql import literal, relation


class DetachedState(StrEnum):
    """Why the table stands alone."""

    DETACHED = "detached"
    """It was a partition; it may be attached again, and is dropped after a delay."""

    PREPARED = "prepared"
    """It was to become a partition. A run that finished has removed the mark; a killed one has not."""


@dataclass(frozen=True, slots=True)
class DetachedMark:
    """The comment on a table that is no partition now.

    Parameters:
        state: why it stands alone.
        table: the partitioned table that it belongs to.
        bound: the bound as PostgreSQL writes it, `FOR VALUES ...`.
        at: when that came about; the delay of a drop counts from here.
    """

    state: DetachedState
    table: str
    bound: str
    at: datetime

    def on(self, partition: str) -> str:
        """Render the statement that marks a table."""
        words = {"state": self.state, "table": self.table, "bound": self.bound, "at": self.at.isoformat()}
        return f"COMMENT ON TABLE {relation(partition)} IS {literal(json.dumps(words))}"


def clear_mark(partition: str) -> str:
    """Render the statement that removes a mark."""
    return f"COMMENT ON TABLE {relation(partition)} IS NULL"


def read_mark(comment: str | None) -> DetachedMark | None:
    """Read a table's comment; None when it is no mark."""
    try:
        words = json.loads(comment or "")
        return DetachedMark(
            DetachedState(words["state"]), words["table"], words["bound"], datetime.fromisoformat(words["at"])
        )
    except (ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True, slots=True)
class DetachedTable:
    """A table that is no partition, but belongs to a partitioned one by its mark, or by its name.

    Parameters:
        name: the table's name.
        mark: the content of its comment.
        missing_checks: the CHECKs that the partitioned table has got since.
    """

    name: str
    mark: DetachedMark | None
    missing_checks: tuple[ParentCheck, ...] = ()
