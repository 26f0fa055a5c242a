"""The audit log: who has changed which order, from where, by which key, when, and in which trace.

`record` appends a line in the transaction of the change. The writer chains nothing, for a chain would have
all commits wait for each other. `Sealer` does so behind it: it seals the lines of transactions that have
ended, and has the head of the chain written down elsewhere. `find_tampering` walks the chain, and names what
differs.
"""

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from itertools import groupby
from typing import Any

import structlog
from opentelemetry import trace
from sqlalchemy import BigInteger, Boolean, Insert, Select, func, insert, inspect, literal_column, select
from sqlalchemy.dialects.postgresql import insert as insert_once

from app import instruments
from app.kit.caller import Role, find_caller
from app.kit.errors import AppError
from app.kit.tasks import sleep_unless
from app.messaging.backoff import repeat_with_backoff
from app.models.base import AuditRow, AuditSealRow
from app.models.directory import AuditHead
from partitions.advisory_lock import try_acquire_sql
from readreplica.cluster import Cluster
from readreplica.sessions import AnySession, WriteSession

# Any number will do, as long as every sealer has the same; an advisory lock is its database's own.
_LOCK = 0x61756469746C

START = bytes(32)
"""What the first seal follows."""

PRUNED = "audit_pruned"
"""The action of the line that says up to which seal the lines were deleted on purpose."""

ANCHORED = "audit_anchored"
"""The action of the line that has the newest seal of the directory's own log, in the log of a shard."""

_DIGEST_BYTES = 32

log: structlog.stdlib.BoundLogger = structlog.get_logger("audit")


class AuditChainAhead(AppError):
    """The seals are of transactions that this server has not begun yet: it was restored from a dump."""

    def __init__(self, database: str, below_xid: int, horizon: int) -> None:
        self.database, self.below_xid, self.horizon = database, below_xid, horizon
        super().__init__(
            f"the audit log of {database} is sealed below transaction {below_xid}, and the server is at "
            f"{horizon}: it was restored from a dump (docs/how-to/audit-log.md)"
        )


def _process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


async def record(
    session: WriteSession,
    lines: type[AuditRow],
    action: str,
    order_id: int | None,
    facts: Mapping[str, Any],
) -> None:
    """Append a line in the session's transaction: it is there if, and only if, the change is.

    Parameters:
        lines: the table of the database that is changed.
        action: what was done, as the log of events names it.
        order_id: to which order.
        facts: what differs from change to change, as JSON.
    """
    await session.execute(insert_line(lines, action, order_id, facts))


def insert_line(lines: type[AuditRow], action: str, order_id: int | None, facts: Mapping[str, Any]) -> Insert:
    """Return what appends a line, as `record` does, with the caller and the trace of now."""
    caller = find_caller()
    values: dict[str, Any] = {"action": action, "order_id": order_id, "facts": dict(facts)}
    values |= {"trace_id": _trace_id()}
    if caller is None:
        values |= {"caller": _process(), "role": Role.SERVICE.value, "door": None, "identity_id": None}
        values |= {"credential": None, "address": None}
    else:
        values |= {"caller": caller.name, "role": caller.role.value, "door": caller.door.value}
        values |= {"identity_id": caller.identity_id, "credential": caller.credential}
        values |= {"address": caller.address}
    return insert(lines).values(values).inline()


def _trace_id() -> str | None:
    context = trace.get_current_span().get_span_context()
    return format(context.trace_id, "032x") if context.is_valid else None


@dataclass(frozen=True, slots=True)
class AuditLine:
    """A line as it is sealed: its place, and its digest."""

    xid: int
    line_no: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class AuditSeal:
    """The digests of the lines of transactions from `from_xid` to below `below_xid`."""

    seal_no: int
    from_xid: int
    below_xid: int
    line_nos: Sequence[int]
    line_digests: bytes
    previous: bytes
    digest: bytes = b""

    def computed(self) -> bytes:
        """Return the digest that its content has."""
        head = f"{self.seal_no} {self.from_xid} {self.below_xid} {','.join(map(str, self.line_nos))} "
        return sha256(self.previous + head.encode() + self.line_digests).digest()

    def digests(self) -> dict[int, bytes]:
        """Return the digest of each line, by its number."""
        parts = range(0, len(self.line_digests), _DIGEST_BYTES)
        digests = [self.line_digests[start : start + _DIGEST_BYTES] for start in parts]
        return dict(zip(self.line_nos, digests, strict=False))


@dataclass(frozen=True, slots=True)
class SealHead:
    """What of a seal the next one follows."""

    seal_no: int
    below_xid: int
    digest: bytes


def line_of(row: Mapping[str, Any]) -> AuditLine:
    """Return a line of the table as it is sealed; its digest covers every column."""
    content = {
        name: value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value
        for name, value in row.items()
    }
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return AuditLine(row["xid"], row["line_no"], sha256(canonical.encode()).digest())


def next_seal(
    last: SealHead | None, lines: Sequence[AuditLine], *, horizon: int, most: int
) -> AuditSeal | None:
    """Return the seal of the lines that follow the last one; None if there are none.

    Parameters:
        last: the newest seal; None if there is none yet.
        lines: of transactions from its end on, in their order: all of them, or at least `most` + 1.
        horizon: every transaction below it has ended.
        most: so many lines it covers, or the lines of one transaction.
    """
    if not lines:
        return None
    below = horizon
    if len(lines) > most:
        # Between two transactions: those of one are sealed together.
        below = lines[most].xid if lines[most].xid > lines[0].xid else lines[0].xid + 1
    covered = [line for line in lines if line.xid < below]
    seal = AuditSeal(
        seal_no=last.seal_no + 1 if last else 1,
        from_xid=last.below_xid if last else 0,
        below_xid=below,
        line_nos=[line.line_no for line in covered],
        line_digests=b"".join(line.digest for line in covered),
        previous=last.digest if last else START,
    )
    return _with_digest(seal)


def _with_digest(seal: AuditSeal) -> AuditSeal:
    words = {name: getattr(seal, name) for name in _SEAL_COLUMNS if name != "digest"}
    return AuditSeal(**words, digest=seal.computed())


_SEAL_COLUMNS = ("seal_no", "from_xid", "below_xid", "line_nos", "line_digests", "previous", "digest")


def select_lines(lines: type[AuditRow]) -> Select[Any]:
    """Select every column of the lines, in the order in which they are sealed."""
    return select(*inspect(lines).columns).order_by(lines.xid, lines.line_no)


def select_seals(seals: type[AuditSealRow]) -> Select[Any]:
    """Select the seals in their order."""
    return select(*(getattr(seals, name) for name in _SEAL_COLUMNS)).order_by(seals.seal_no)


class AuditFault(StrEnum):
    """What is wrong with an audit log."""

    LINE_CHANGED = "line changed"
    LINE_REMOVED = "line removed"
    LINE_ADDED = "line added"
    SEAL_CHANGED = "seal changed"
    SEAL_MISSING = "seal missing"
    SEAL_REPLACED = "seal replaced"
    TAIL_CUT = "tail cut"


@dataclass(frozen=True)
class Tampering:
    """Where an audit log differs from what was sealed."""

    fault: AuditFault
    seal_no: int
    line_no: int | None = None


def find_tampering(
    seals: Iterable[AuditSeal],
    lines: Iterable[AuditLine],
    heads: Mapping[int, bytes],
    *,
    pruned_through: int = 0,
) -> Iterator[Tampering]:
    """Yield what differs from what was sealed, the oldest first. It holds the lines of one seal at a time.

    Parameters:
        seals: in their order.
        lines: in theirs.
        heads: what the directory knows of the seals.
        pruned_through: lines up to this seal may be gone.
    """
    ahead = _Lines(lines)
    last: AuditSeal | None = None
    for seal in seals:
        yield from _check_seal(seal, last, heads)
        yield from _check_lines(seal, ahead.below(seal.below_xid), may_be_gone=seal.seal_no <= pruned_through)
        last = seal
    known = max(heads, default=0)
    end = last.seal_no if last else 0
    if known > end:
        yield Tampering(AuditFault.TAIL_CUT, end + 1)


class _Lines:
    """Lines in their order, of which the first ones are taken."""

    def __init__(self, lines: Iterable[AuditLine]) -> None:
        self._by_xid: Iterator[tuple[int, Iterator[AuditLine]]] = groupby(lines, key=lambda line: line.xid)
        self._held: tuple[int, list[AuditLine]] | None = None

    def below(self, xid: int) -> Iterator[AuditLine]:
        """Take the lines of transactions below one."""
        while True:
            if self._held is None:
                found = next(self._by_xid, None)
                if found is None:
                    return
                self._held = found[0], list(found[1])
            if self._held[0] >= xid:
                return
            held, self._held = self._held, None
            yield from held[1]


def _check_seal(seal: AuditSeal, last: AuditSeal | None, heads: Mapping[int, bytes]) -> Iterator[Tampering]:
    expected = last.seal_no + 1 if last else 1
    if seal.seal_no != expected:
        yield Tampering(AuditFault.SEAL_MISSING, expected)
    elif (seal.previous, seal.from_xid) != ((last.digest, last.below_xid) if last else (START, 0)):
        yield Tampering(AuditFault.SEAL_REPLACED, seal.seal_no)
    if seal.computed() != seal.digest:
        yield Tampering(AuditFault.SEAL_CHANGED, seal.seal_no)
    elif heads.get(seal.seal_no, seal.digest) != seal.digest:
        yield Tampering(AuditFault.SEAL_REPLACED, seal.seal_no)


def _check_lines(seal: AuditSeal, lines: Iterable[AuditLine], *, may_be_gone: bool) -> Iterator[Tampering]:
    sealed = seal.digests()
    for line in lines:
        digest = sealed.pop(line.line_no, None)
        if digest is None:
            yield Tampering(AuditFault.LINE_ADDED, seal.seal_no, line.line_no)
        elif digest != line.digest:
            yield Tampering(AuditFault.LINE_CHANGED, seal.seal_no, line.line_no)
    if not may_be_gone:
        for line_no in sealed:
            yield Tampering(AuditFault.LINE_REMOVED, seal.seal_no, line_no)


Anchor = Callable[[str, SealHead], Awaitable[None]]
"""Writes the head of a database's chain down where the owner of that database does not come."""


def in_directory(directory: Cluster) -> Anchor:
    """Return what keeps heads in the directory."""

    async def anchor(database: str, head: SealHead) -> None:
        row = {"database": database, "seal_no": head.seal_no, "digest": head.digest}

        async def work(session: WriteSession) -> None:
            await session.execute(insert_once(AuditHead).values(row).on_conflict_do_nothing())

        await directory.transact(work)

    return anchor


def in_lines(cluster: Cluster, lines: type[AuditRow]) -> Anchor:
    """Return what keeps heads as lines of another log: no log vouches for itself."""

    async def anchor(database: str, head: SealHead) -> None:
        facts = {"database": database, "seal_no": head.seal_no, "digest": head.digest.hex()}

        async def work(session: WriteSession) -> None:
            await record(session, lines, ANCHORED, None, facts)

        await cluster.transact(work)

    return anchor


class Sealer:
    """Seals the lines of one database. Several may run; an advisory lock lets one work at a time.

    It seals lines of transactions below the oldest that runs: no line can come between them any more, however
    long a transaction takes to commit.
    """

    def __init__(
        self,
        cluster: Cluster,
        anchor: Anchor,
        *,
        lines: type[AuditRow],
        seals: type[AuditSealRow],
        database: str,
        every_seconds: float = 2.0,
        most: int = 1000,
        sealed: Callable[[], None] = lambda: None,
    ) -> None:
        """Make the sealer of a database; `run` starts it.

        Parameters:
            cluster: the database.
            anchor: keeps the head of the chain elsewhere.
            lines: its table of lines.
            seals: its table of seals.
            database: its name in the topology.
            every_seconds: how often it looks.
            most: how many lines a seal covers.
            sealed: called between the commit in the database and the head in the directory.
        """
        self._cluster, self._anchor = cluster, anchor
        self._lines, self._seals, self._database = lines, seals, database
        self._every_seconds, self._most, self._sealed = every_seconds, most, sealed
        self._head: SealHead | None = None
        self._anchored = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set. Outages are waited out; without the other place, sealing goes on."""
        await asyncio.gather(self._repeat(self._seal_all, stop), self._repeat(self.anchor, stop))

    async def _repeat(self, work: Callable[[], Any], stop: asyncio.Event) -> None:
        async def turn() -> None:
            # First: a process that starts, and one whose databases are away, has other things to do.
            await sleep_unless(stop, self._every_seconds)
            if not stop.is_set():
                await work()

        await repeat_with_backoff(turn, stop=stop, log=log.bind(database=self._database))

    async def turn(self) -> None:
        """Seal everything that can be sealed, and write the head down."""
        await self._seal_all()
        self._sealed()
        await self.anchor()

    async def _seal_all(self) -> None:
        async with self._cluster.write() as session:
            oldest = await session.scalar(self._oldest_unsealed())
            self._head = await self._newest(session)  # perhaps of a process that was killed before it said so
        instruments.audit_unsealed(self._database, oldest or 0.0)
        if oldest is None:
            return
        while (await self._cluster.transact(self._seal)).value:
            pass

    def _oldest_unsealed(self) -> Select[Any]:
        below = select(func.coalesce(func.max(self._seals.below_xid), 0)).scalar_subquery()
        age = func.extract("epoch", func.clock_timestamp() - self._lines.at)
        return select(age).where(self._lines.xid >= below).order_by(self._lines.xid).limit(1)

    async def _seal(self, session: WriteSession) -> bool:
        """Make one seal; False if there is nothing more to seal, or another process is sealing."""
        is_ours = await session.scalar(
            select(literal_column(try_acquire_sql(str(_LOCK), until_commit=True), Boolean))
        )
        if not is_ours:
            return False
        last = self._head = await self._newest(session)
        # In a statement of its own, before the lines are read: what has ended by now, they show.
        horizon = int(await session.scalar(select(_HORIZON)) or 0)
        begin = last.below_xid if last else 0
        if horizon < begin:
            raise AuditChainAhead(self._database, begin, horizon)
        seal = next_seal(
            last, await self._unsealed(session, begin, horizon), horizon=horizon, most=self._most
        )
        if seal is None:
            return False
        words = {name: getattr(seal, name) for name in _SEAL_COLUMNS}
        await session.execute(insert(self._seals).values(words | {"sealed_by": _process()}))
        return True

    async def _unsealed(self, session: WriteSession, begin: int, horizon: int) -> list[AuditLine]:
        query = select_lines(self._lines).where(self._lines.xid >= begin, self._lines.xid < horizon)
        lines = [line_of(row) for row in (await session.execute(query.limit(self._most + 1))).mappings()]
        if len(lines) > self._most and lines[-1].xid == lines[0].xid:
            whole = select_lines(self._lines).where(self._lines.xid == lines[0].xid)
            lines = [line_of(row) for row in (await session.execute(whole)).mappings()]
        return lines

    async def _newest(self, session: AnySession) -> SealHead | None:
        found = select(self._seals.seal_no, self._seals.below_xid, self._seals.digest)
        newest = found.order_by(self._seals.seal_no.desc()).limit(1)
        row = (await session.execute(newest)).one_or_none()
        return SealHead(*row) if row is not None else None

    async def anchor(self) -> None:
        """Have the newest seal that this has seen written down elsewhere, if it is not there."""
        newest = self._head
        if newest is None or newest.seal_no == self._anchored:
            return
        await self._anchor(self._database, newest)
        self._anchored = newest.seal_no


_HORIZON = literal_column("(pg_snapshot_xmin(pg_current_snapshot())::text)::bigint", BigInteger)
