"""What can be done to partitions: each action is a value that renders its SQL, and is one transaction."""

from dataclasses import dataclass
from typing import Protocol

from partitions.months import KeyRange, Month


class Action(Protocol):
    """Something that the executor can run."""

    @property
    def table(self) -> str:
        """The partitioned table."""

    @property
    def summary(self) -> str:
        """What is done, in a few words."""

    @property
    def why(self) -> str:
        """What makes it necessary."""

    def statements(self) -> tuple[str, ...]:
        """The SQL, which the executor runs in one transaction."""


@dataclass(frozen=True, slots=True)
class CreateMonth:
    """Create a month's partition and attach it.

    Not CREATE TABLE ... PARTITION OF: that takes ACCESS EXCLUSIVE on the parent and stops every query of it.
    ATTACH takes SHARE UPDATE EXCLUSIVE, which readers and writers do not notice.
    """

    table: str
    partition: str
    key: str
    month: Month
    keys: KeyRange
    why: str

    @property
    def summary(self) -> str:
        """What is done, in a few words."""
        return f"create + attach {self.month}"

    def statements(self) -> tuple[str, ...]:
        """Render the SQL."""
        start, end = self.keys.start, self.keys.end
        return (
            # The CHECK says what the bound says, so ATTACH scans nothing. It stays: a month that is
            # detached one day can be attached again without a scan.
            f"CREATE TABLE {self.partition} (\n"
            f"    LIKE {self.table} INCLUDING ALL,\n"
            f"    CONSTRAINT {self.partition}_month_check\n"
            f"        CHECK ({self.key} >= {start} AND {self.key} < {end})\n"
            f")",
            f"ALTER TABLE {self.table}\n"
            f"    ATTACH PARTITION {self.partition} FOR VALUES FROM ({start}) TO ({end})",
        )
