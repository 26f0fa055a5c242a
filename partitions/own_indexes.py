"""Indexes that a partition has of its own, beside the parts of its parent's."""

from dataclasses import dataclass

from partitions.actions import Action
from partitions.indexes import is_valid, refuse_taken
from partitions.sql import identifier
from partitions.steps import Step, Way, block


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatePartitionIndex(Action):
    """Build an index of one partition concurrently, as the policy declares it.

    Parameters:
        partition: the partition.
        index: its name.
        definition: what stands behind the partition's name: `(order_id DESC) WHERE status = 'SHIPPED'::text`.
        unique: whether it is UNIQUE.
    """

    partition: str
    index: str
    definition: str
    unique: bool = False

    @property
    def summary(self) -> str:
        """What is done, in a few words."""
        return f"create index {self.index} on {self.partition}"

    def steps(self) -> tuple[Step, ...]:
        """Render the SQL."""
        kind, name = "UNIQUE INDEX" if self.unique else "INDEX", identifier(self.index)
        return (
            Step((block(refuse_taken(self.index, self.partition)),)),
            Step(
                (
                    f"CREATE {kind} CONCURRENTLY IF NOT EXISTS {name}\n"
                    f"    ON {identifier(self.partition)} {self.definition}",
                ),
                way=Way.ALONE,
                done=is_valid(self.index),
                # A build that was cut off leaves its index INVALID; IF NOT EXISTS would be content with it.
                cleanup=(f"DROP INDEX CONCURRENTLY IF EXISTS {name}",),
            ),
        )

    def inverse(self) -> Action:
        """Drop it."""
        return DropPartitionIndex(
            table=self.table,
            partition=self.partition,
            index=self.index,
            definition=self.definition,
            unique=self.unique,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DropPartitionIndex(Action):
    """Drop an index of one partition, concurrently."""

    partition: str
    index: str
    definition: str
    unique: bool = False

    @property
    def summary(self) -> str:
        """What is done, in a few words."""
        return f"drop index {self.index}"

    def steps(self) -> tuple[Step, ...]:
        """Render the SQL."""
        return (Step((f"DROP INDEX CONCURRENTLY IF EXISTS {identifier(self.index)}",), way=Way.ALONE),)

    def inverse(self) -> Action:
        """Build it again."""
        return CreatePartitionIndex(
            table=self.table,
            partition=self.partition,
            index=self.index,
            definition=self.definition,
            unique=self.unique,
        )
