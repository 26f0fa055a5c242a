"""Ending what a crashed coordinator has left prepared: each unit on all its shards the same way.

What was decided is done. What was not decided is aborted, once it is so old that its coordinator cannot be
at work any more; the abort is decided first, under the same key, so that a coordinator which is merely slow
finds it and obeys.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from readreplica.cluster import Cluster
from readreplica.errors import one_line
from sharding.errors import ShardTimedOut
from sharding.writes.errors import ForeignTransaction, NotClosable, UnknownTransaction
from sharding.writes.prepared import (
    CommitDecision,
    Decided,
    Decisions,
    Prepared,
    PreparedCommand,
    Unfinished,
    end_prepared,
    list_prepared,
)

_SHARD_ERRORS = (SQLAlchemyError, psycopg.Error, ShardTimedOut, OSError)

SAFE_AGE_SECONDS = 600.0
"""Longer than any coordinator takes: its own time limits end it before."""


class RecoveryAction(StrEnum):
    """What is to be done with a prepared transaction."""

    COMMIT = "commit"
    ABORT = "abort"
    PRESUME_ABORT = "presume abort"
    WAIT = "wait"
    FOREIGN = "foreign"


@dataclass(frozen=True)
class InDoubt:
    """A prepared transaction with what is known of its unit."""

    prepared: Prepared
    decided: Decided | None
    verdict: RecoveryAction


@dataclass(frozen=True)
class Survey:
    """What could be seen, and the shards that could not, with the reason."""

    found: Sequence[InDoubt]
    unreachable: Mapping[str, str]
    lost: Sequence[Unfinished] = ()
    """Units that were to commit long ago, and of which no shard that could be seen has a part."""


@dataclass(frozen=True)
class Ended:
    """What became of one prepared transaction; `error` says why it is still there.

    With `was_gone` it was not there any more: another recovery was faster, or a failover has lost it.
    """

    prepared: Prepared
    verb: PreparedCommand
    error: str | None = None
    was_gone: bool = False


def judge(
    prepared: Iterable[Prepared], decided: Mapping[str, Decided], *, older_than_seconds: float
) -> list[InDoubt]:
    """Return what is to be done with each prepared transaction. Pure.

    An undecided unit is as old as its youngest part: its coordinator may have been at work until then.
    """
    parts = list(prepared)
    youngest: dict[str, float] = {}
    for part in parts:
        if part.unit_id:
            age = youngest.get(part.unit_id, part.age_seconds)
            youngest[part.unit_id] = min(age, part.age_seconds)

    def verdict_of(part: Prepared) -> RecoveryAction:
        if part.unit_id is None:
            return RecoveryAction.FOREIGN
        if part.unit_id in decided:
            is_commit = decided[part.unit_id].decision is CommitDecision.COMMIT
            return RecoveryAction.COMMIT if is_commit else RecoveryAction.ABORT
        is_old = youngest[part.unit_id] >= older_than_seconds
        return RecoveryAction.PRESUME_ABORT if is_old else RecoveryAction.WAIT

    return [InDoubt(part, decided.get(part.unit_id or ""), verdict_of(part)) for part in parts]


async def survey(
    clusters: Mapping[str, Cluster],
    decisions: Decisions,
    *,
    older_than_seconds: float = SAFE_AGE_SECONDS,
    timeout_seconds: float = 10.0,
) -> Survey:
    """Look at every shard, and at what was decided.

    Parameters:
        clusters: the shards.
        decisions: the decisions in the directory.
        older_than_seconds: from which age an undecided unit is presumed aborted.
        timeout_seconds: how long a shard may take to answer.

    Raises:
        DBAPIError: the directory cannot be reached, so that nothing can be said.
    """
    found: list[Prepared] = []
    unreachable = {}
    for shard, cluster in sorted(clusters.items()):
        try:
            found += await list_prepared(cluster.primary, shard=shard, timeout_seconds=timeout_seconds)
        except _SHARD_ERRORS as error:
            unreachable[shard] = one_line(error)
    # Asked after the shards: what is decided by now was prepared before.
    decided = await decisions.find(part.unit_id for part in found if part.unit_id)
    prepared = {part.unit_id for part in found}
    lost = [
        unit
        for unit in await decisions.unfinished()
        if unit.unit_id not in prepared and unit.age_seconds >= older_than_seconds
    ]
    return Survey(judge(found, decided, older_than_seconds=older_than_seconds), unreachable, lost)


def closable(seen: Survey, unit_ids: Collection[str], *, shards: Collection[str]) -> list[Unfinished]:
    """Leave only these units, which nothing can be done for any more. Pure.

    Parameters:
        seen: what `survey` has found.
        unit_ids: the units that were compared by hand.
        shards: those that there are.

    Raises:
        NotClosable: a part of one may still be somewhere, or it is not one that was left open.
    """
    by_id = {unit.unit_id: unit for unit in seen.lost}
    for unit_id in unit_ids:
        if unit_id not in by_id:
            raise NotClosable(
                unit_id, "it is prepared somewhere, too young, finished, or was never to commit"
            )
        unseen = [s for s in by_id[unit_id].shards if s in seen.unreachable or s not in shards]
        if unseen:
            raise NotClosable(unit_id, f"{', '.join(unseen)} cannot be looked at and may have a part of it")
    return [by_id[unit_id] for unit_id in unit_ids]


def chosen(seen: Survey, gids: Collection[str]) -> Survey:
    """Leave only these prepared transactions; the other parts of their units stay with them.

    Raises:
        UnknownTransaction: no shard has one of them.
        ForeignTransaction: one of them is not ours.
    """
    by_gid = {each.prepared.gid: each for each in seen.found}
    for gid in gids:
        if gid not in by_gid:
            raise UnknownTransaction(gid)
        if by_gid[gid].verdict is RecoveryAction.FOREIGN:
            raise ForeignTransaction(gid)
    units = {by_gid[gid].prepared.unit_id for gid in gids}
    return Survey([each for each in seen.found if each.prepared.unit_id in units], seen.unreachable)


async def resolve(
    clusters: Mapping[str, Cluster],
    decisions: Decisions,
    seen: Survey,
    *,
    timeout_seconds: float = 10.0,
) -> list[Ended]:
    """End what can be ended; it may be run again at any time, and beside another run.

    Parameters:
        clusters: the shards.
        decisions: the decisions in the directory.
        seen: what `survey` has found.
        timeout_seconds: how long a shard may take to answer.

    Returns:
        what became of each that was to be ended; those that wait, and foreign ones, are not among them.

    Raises:
        DBAPIError: the directory cannot be reached, so that no abort can be decided.
        DecisionLost: it was lost meanwhile; run it again.
    """
    units: dict[str, list[InDoubt]] = defaultdict(list)
    for each in seen.found:
        if each.prepared.unit_id and each.verdict is not RecoveryAction.WAIT:
            units[each.prepared.unit_id].append(each)
    ended: list[Ended] = []
    for unit_id, parts in units.items():
        verb = await _verb_of(decisions, unit_id, parts)
        of_unit = [await _end(clusters, part.prepared, verb, timeout_seconds) for part in parts]
        ended += of_unit
        # A shard that could not be seen may have a part of its own still, and one that has lost it has not
        # committed: the recovery that ended it records that, or the unit stays open.
        is_lost = verb is PreparedCommand.COMMIT and any(each.was_gone for each in of_unit)
        if not (seen.unreachable or is_lost) and all(each.error is None for each in of_unit):
            await decisions.finish(unit_id)
    return ended


async def _verb_of(decisions: Decisions, unit_id: str, parts: Sequence[InDoubt]) -> PreparedCommand:
    decision = parts[0].decided and parts[0].decided.decision
    if decision is None:
        shards = [each.prepared.shard for each in parts]
        decision = await decisions.decide(
            unit_id, CommitDecision.ABORT, label="presumed abort", shards=shards
        )
    return PreparedCommand.COMMIT if decision is CommitDecision.COMMIT else PreparedCommand.ROLLBACK


async def _end(
    clusters: Mapping[str, Cluster], prepared: Prepared, verb: PreparedCommand, timeout_seconds: float
) -> Ended:
    engine = clusters[prepared.shard].primary
    try:
        ended = await end_prepared(
            engine, prepared.gid, verb, shard=prepared.shard, timeout_seconds=timeout_seconds
        )
    except _SHARD_ERRORS as error:
        return Ended(prepared, verb, one_line(error))
    return Ended(prepared, verb, was_gone=not ended)
