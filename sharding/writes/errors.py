"""What can go wrong with a write over several shards. Each error names the object and the way out."""

from collections.abc import Iterable

from sqlalchemy import Table

from sharding.errors import BucketNotOwned, ShardingError


class WritesError(ShardingError):
    """Base of every error of this package."""


class RowRefused(WritesError, ValueError):
    """A row cannot be written: it has no key, an unknown column, or nothing to set."""

    def __init__(self, number: int, fault: str) -> None:
        self.number = number
        self.fault = fault
        super().__init__(f"row {number} cannot be written: {fault}")


class TargetRefused(WritesError, ValueError):
    """The entity of a bulk write is no table that it can route."""

    def __init__(self, entity: object, fault: str) -> None:
        self.entity = entity
        self.fault = fault
        # The repr of a table lists all of its columns.
        name = f"table {entity.fullname}" if isinstance(entity, Table) else repr(entity)
        super().__init__(f"{name} cannot be written in bulk: {fault}")


class ChunkInDoubt(WritesError):
    """The connection was lost while a COMMIT was under way: the transaction is there, or it is not."""

    def __init__(self, shard: str) -> None:
        self.shard = shard
        super().__init__(
            f"shard {shard} was lost during COMMIT: the rows are written, or none of them; "
            "repeat them with mode `insert-ignore`"
        )


class TwoPhaseError(WritesError):
    """Base of what can go wrong with a unit of work on several shards."""


class KeyOutsideUnit(TwoPhaseError):
    """The unit was not opened for the shard of this key."""

    def __init__(self, key: int, shard: str, shards: Iterable[str]) -> None:
        self.key = key
        self.shard = shard
        self.shards = tuple(shards)
        super().__init__(
            f"key {key} is on shard {shard}, and the unit was opened for {', '.join(self.shards)}: "
            "give two_phase() every key that the unit writes"
        )


class CommitInsideUnit(TwoPhaseError):
    """A session of a two-phase unit was committed on its own, which would tear the unit apart."""

    def __init__(self, shard: str) -> None:
        self.shard = shard
        super().__init__(
            f"the session of shard {shard} belongs to a two-phase unit: do not commit it, "
            "the unit commits when its block ends"
        )


class PreparedDisabled(TwoPhaseError):
    """The server cannot prepare a transaction, or not another one."""

    def __init__(self, shard: str, said: str) -> None:
        self.shard = shard
        self.said = said
        super().__init__(
            f"shard {shard} cannot prepare a transaction ({said}): set max_prepared_transactions on it and "
            "on its replicas to at least max_connections, restart, and look for units that are in doubt"
        )


class PrepareFailed(TwoPhaseError):
    """A shard could not prepare its part: the unit is rolled back everywhere; the cause is chained."""

    def __init__(self, unit_id: str, shard: str, said: str) -> None:
        self.unit_id = unit_id
        self.shard = shard
        super().__init__(f"two-phase unit {unit_id} is rolled back: shard {shard} could not prepare: {said}")


class UnitRefused(TwoPhaseError):
    """A shard has lost a bucket that the unit writes: the unit is rolled back everywhere."""

    def __init__(self, unit_id: str, refusal: BucketNotOwned) -> None:
        self.unit_id = unit_id
        self.shard = refusal.shard
        self.key = refusal.key
        self.map_version = refusal.map_version
        super().__init__(
            f"two-phase unit {unit_id} is rolled back on every shard: {refusal.shard} no longer owns bucket "
            f"{refusal.bucket}, of key {refusal.key}, by map version {refusal.map_version}; "
            "read the map again and run it again"
        )


class UnitAborted(TwoPhaseError):
    """A recovery gave the unit up while it was preparing: nothing was written."""

    def __init__(self, unit_id: str) -> None:
        self.unit_id = unit_id
        super().__init__(
            f"two-phase unit {unit_id} was aborted by a recovery, because it took too long to prepare: "
            "nothing was written; do it again"
        )


class DecisionLost(TwoPhaseError):
    """The directory was lost while a decision was written; asking again returns the decision."""

    def __init__(self, unit_id: str) -> None:
        self.unit_id = unit_id
        super().__init__(f"the directory was lost while the decision on two-phase unit {unit_id} was written")


class UnitInDoubt(TwoPhaseError):
    """The directory was lost while the decision was written: commit or abort, the recovery will see."""

    def __init__(self, unit_id: str, *, seconds: float) -> None:
        self.unit_id = unit_id
        super().__init__(
            f"two-phase unit {unit_id} is in doubt: its decision could not be written or read back within "
            f"{seconds:g} s; every shard keeps it prepared until a recovery ends it"
        )


class ForeignTransaction(TwoPhaseError):
    """A prepared transaction that is not one of ours: its maker must end it."""

    def __init__(self, gid: str) -> None:
        self.gid = gid
        super().__init__(
            f"the prepared transaction {gid!r} is not of this project: it is left alone; "
            "find who made it before you COMMIT or ROLLBACK PREPARED it by hand"
        )


class UnknownTransaction(TwoPhaseError):
    """No shard has a prepared transaction of this name."""

    def __init__(self, gid: str) -> None:
        self.gid = gid
        super().__init__(f"no shard has a prepared transaction {gid!r}")


class NotClosable(WritesError):
    """A unit cannot be noted as finished: a part of it may be somewhere, or it was not left open."""

    def __init__(self, unit_id: str, why: str) -> None:
        self.unit_id = unit_id
        super().__init__(f"the unit {unit_id} is left as it is: {why}; end what is prepared first")


class ReferenceTableError(WritesError):
    """Base of what can go wrong with reference tables."""


class UnknownReference(ReferenceTableError):
    """No reference table of this name is declared."""

    def __init__(self, table: str, known: Iterable[str]) -> None:
        self.table = table
        self.known = tuple(known)
        super().__init__(f"{table!r} is no reference table; there are {', '.join(self.known)}")


class ReferenceInvalid(ReferenceTableError, ValueError):
    """These rows cannot be the content of a reference table."""

    def __init__(self, table: str, fault: str) -> None:
        self.table = table
        self.fault = fault
        super().__init__(f"reference table {table}: {fault}")


class ReferenceConflict(ReferenceTableError):
    """Somebody else published a version of a reference table first."""

    def __init__(self, table: str, *, version: int) -> None:
        self.table = table
        self.version = version
        super().__init__(
            f"version {version} of reference table {table} was published by another run meanwhile: "
            "look at it, and repeat the change"
        )


class ReferenceAhead(ReferenceTableError):
    """A shard has a later version than the directory: the directory was restored from a backup."""

    def __init__(self, table: str, shard: str, *, shard_version: int, version: int) -> None:
        self.table = table
        self.shard = shard
        super().__init__(
            f"shard {shard} has version {shard_version} of reference table {table}, and the directory knows "
            f"{version} at most: load the content again, until its version is beyond the shard's"
        )


class ReferenceMismatch(ReferenceTableError):
    """A shard, given the rows of a version, does not hold what the version says; it was rolled back."""

    def __init__(self, table: str, shard: str, *, version: int) -> None:
        self.table = table
        self.shard = shard
        super().__init__(
            f"shard {shard} would not hold version {version} of reference table {table} as published: is its "
            "schema that of the others, does a trigger change rows?"
        )
