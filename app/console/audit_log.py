"""`mesctl audit`: who has changed what, and whether a line was changed, removed or added since.

`mesctl orders audit` is another thing: it compares the services' copies of each order.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Annotated, Any

import typer
from sqlalchemy import BigInteger, Connection, Select, cast, delete, func, select

from app.audit_log import (
    ANCHORED,
    PRUNED,
    AuditFault,
    AuditLine,
    AuditSeal,
    Tampering,
    find_tampering,
    insert_line,
    line_of,
    select_lines,
    select_seals,
)
from app.console.audit.databases import OrderDatabases
from app.kit.caller import calling, shell_user
from app.messaging.routing import ServiceName
from app.models.base import AuditRow, AuditSealRow
from app.models.directory import AuditHead, DirectoryAuditLine, DirectoryAuditSeal
from app.orders import CRM, MES, SHOP, OrderModels
from ops.errors import ExitStatus, OpsError
from ops.fleet import naming, open_engine
from ops.options import DryRun, Options, options_of, parse_duration
from ops.output import note, print_json, print_table
from sharding.topology import Database, Topology

app = typer.Typer(
    help="Show who has changed what, and prove that no line was changed or removed.", no_args_is_help=True
)

MODELS: Mapping[ServiceName, OrderModels[Any]] = {
    ServiceName.SHOP: SHOP,
    ServiceName.CRM: CRM,
    ServiceName.MES: MES,
}


@dataclass(frozen=True)
class AuditLog:
    """An audit log: its database, its tables, and the role that reads it."""

    database: Database
    audit: type[AuditRow]
    seals: type[AuditSealRow]
    reader: str


def logs_of(topology: Topology) -> dict[str, AuditLog]:
    """Return every audit log by its database's name: those of orders, and that of the directory."""
    found = {}
    for name, service in OrderDatabases(topology).services.items():
        models = MODELS[service]
        found[name] = AuditLog(topology.database(name), models.audit, models.seals, service.value)
    directory = topology.directory_of(ServiceName.MES.value)
    own = AuditLog(directory, DirectoryAuditLine, DirectoryAuditSeal, directory.owner)
    return {**found, directory.name: own}


FETCH_ROWS = 1000
ACCEPTED = "audit_loss_accepted"
MOST_HEADS = 100_000
"""So many of the newest heads are read: each stands for all seals before it."""

BATCH_SEALS = 50
"""The lines of so many seals are deleted in one transaction."""

MOST_SHOWN = 100
"""More faults of one database are counted, and not listed."""

DatabaseOption = Annotated[
    str | None, typer.Option("--database", help="Only this one, by its name in the topology.")
]


class AuditDatabaseUnknown(OpsError):
    """No database of this name has an audit log."""

    exit_status = ExitStatus.USAGE

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name, self.known = name, tuple(known)
        super().__init__(f"{name!r} has no audit log; there are {', '.join(self.known)}")


@dataclass
class Verified:
    """What was found in the audit log of one database."""

    database: str
    seals: int = 0
    lines: int = 0
    unsealed: int = 0
    pruned_through: int = 0
    faults: int = 0
    shown: tuple[Tampering, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        words = {
            name: getattr(self, name)
            for name in ("database", "seals", "lines", "unsealed", "pruned_through", "faults")
        }
        shown = [
            {"fault": each.fault.value, "seal": each.seal_no, "line": each.line_no} for each in self.shown
        ]
        return {**words, "found": shown}


@app.command("verify")
def verify(context: typer.Context, *, database: DatabaseOption = None) -> None:
    """Hold every line against its seal, and the seals against the directory; exit status 1 if any differs."""
    options = options_of(context)
    topology = options.topology()
    found = [verify_database(topology, name) for name in _chosen(topology, database)]
    if options.json:
        print_json([each.as_json() for each in found])
    else:
        _print_verified(found)
    if any(each.faults for each in found):
        raise typer.Exit(ExitStatus.FAILED)


def _chosen(topology: Topology, database: str | None) -> dict[str, AuditLog]:
    logs = logs_of(topology)
    if database is not None and database not in logs:
        raise AuditDatabaseUnknown(database, logs)
    return logs if database is None else {database: logs[database]}


def _print_verified(found: Iterable[Verified]) -> None:
    columns = ("database", "seals", "lines", "unsealed", "pruned_through", "faults")
    print_table(columns, [tuple(getattr(each, name) for name in columns) for each in found])
    for each in found:
        for fault in each.shown:
            print(f"{each.database}: {_words(fault)}")
        if each.faults > len(each.shown):
            print(f"{each.database}: {each.faults - len(each.shown)} more")


def _words(found: Tampering) -> str:
    match found.fault:
        case AuditFault.LINE_CHANGED | AuditFault.LINE_REMOVED | AuditFault.LINE_ADDED:
            what = found.fault.value.removeprefix("line ")
            return f"line {found.line_no} was {what}: seal {found.seal_no} was made otherwise"
        case AuditFault.SEAL_CHANGED:
            return f"seal {found.seal_no} was changed: its digest is not that of its content"
        case AuditFault.SEAL_REPLACED:
            return f"seal {found.seal_no} was replaced, or one before it: the chain is another"
        case AuditFault.SEAL_MISSING:
            return f"seal {found.seal_no} is missing"
        case AuditFault.TAIL_CUT:
            return f"the seals from {found.seal_no} on were cut, or the database is an older copy"


def verify_database(topology: Topology, name: str) -> Verified:
    """Walk the audit log of a database, a batch at a time.

    Raises:
        DatabasesFailed: it, or the directory, does not answer.
    """
    databases = OrderDatabases(topology)
    models, result = logs_of(topology)[name], Verified(name)
    heads = _read_heads(topology, models)  # before the seals: a head is written after its seal
    # Two connections of one moment each: what is sealed changes no more, and each has a cursor of its own.
    with (
        databases.connect(name, role=models.reader) as for_seals,
        databases.connect(name, role=models.reader) as for_lines,
        naming(models.database),
    ):
        end = for_seals.scalar(select(func.max(models.seals.below_xid))) or 0
        sealed = select_lines(models.audit).where(models.audit.xid < end)
        result.unsealed = _count(for_lines, select(models.audit.xid).where(models.audit.xid >= end))
        result.pruned_through = _pruned_through(for_lines, models.audit)
        found = find_tampering(
            _seals(for_seals, select_seals(models.seals), result),
            _lines(for_lines, sealed, result),
            heads,
            pruned_through=result.pruned_through,
        )
        for each in found:
            result.faults += 1
            if result.faults <= MOST_SHOWN:
                result.shown = (*result.shown, each)
    return result


def _count(connection: Connection, rows: Select[Any]) -> int:
    return connection.scalar(select(func.count()).select_from(rows.subquery())) or 0


def _pruned_through(connection: Connection, lines: type[AuditRow]) -> int:
    through = cast(lines.facts["through_seal"].astext, BigInteger)
    return connection.scalar(select(func.max(through)).where(lines.action == PRUNED)) or 0


def _seals(connection: Connection, query: Select[Any], result: Verified) -> Iterator[AuditSeal]:
    with connection.execution_options(yield_per=10).execute(query) as rows:
        for row in rows.mappings():
            result.seals += 1
            yield AuditSeal(**row)


def _lines(connection: Connection, query: Select[Any], result: Verified) -> Iterator[AuditLine]:
    with connection.execution_options(yield_per=FETCH_ROWS).execute(query) as rows:
        for row in rows.mappings():
            result.lines += 1
            if result.lines % 100_000 == 0:
                note(f"{result.database}: {result.lines:,} lines")
            yield line_of(dict(row))


def _read_heads(topology: Topology, of: AuditLog) -> dict[int, bytes]:
    name, directory = of.database.name, topology.directory_of(ServiceName.MES.value)
    if name == directory.name:
        return _read_anchored(topology, name)
    with _owner(topology, directory) as connection:
        query = select(AuditHead.seal_no, AuditHead.digest).where(AuditHead.database == name)
        query = query.order_by(AuditHead.seal_no.desc()).limit(MOST_HEADS)
        return {row.seal_no: row.digest for row in connection.execute(query)}


def _read_anchored(topology: Topology, name: str) -> dict[int, bytes]:
    """Read the heads of the directory's own log, which lines of the shards hold."""
    databases, heads = OrderDatabases(topology), {}
    for shard in topology.databases_of(ServiceName.MES.value):
        is_of_it = MES.audit.facts["database"].astext == name
        query = select(MES.audit.facts).where(MES.audit.action == ANCHORED, is_of_it)
        with databases.connect(shard) as connection, naming(topology.database(shard)):
            for facts in connection.scalars(query.order_by(MES.audit.xid.desc()).limit(MOST_HEADS)):
                heads[int(facts["seal_no"])] = bytes.fromhex(facts["digest"])
    return heads


@app.command("list")
def list_lines(
    context: typer.Context,
    *,
    order: Annotated[int | None, typer.Option("--order", min=1, help="Only changes of this order.")] = None,
    identity: Annotated[str | None, typer.Option("--identity", help="Only what this caller did.")] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="DURATION", help="Only what is not older.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")] = 100,
    database: DatabaseOption = None,
) -> None:
    """List who has changed what, the newest last."""
    options = options_of(context)
    topology = options.topology()
    after = datetime.now(UTC) - parse_duration(since) if since is not None else None
    databases = OrderDatabases(topology)
    found: list[dict[str, Any]] = []
    for name, log in _chosen(topology, database).items():
        query = _wanted(log, order=order, identity=identity, after=after).limit(limit)
        with databases.connect(name, role=log.reader) as connection, naming(log.database):
            found += [{"database": name, **row} for row in connection.execute(query).mappings()]
    found = sorted(found, key=lambda line: line["at"])[-limit:]
    _print_lines(options, found)


def _wanted(log: AuditLog, *, order: int | None, identity: str | None, after: datetime | None) -> Select[Any]:
    lines, seals = log.audit, log.seals
    query = select_lines(lines).order_by(None).order_by(lines.xid.desc(), lines.line_no.desc())
    if order is not None:
        query = query.where(lines.order_id == order)
    if identity is not None:
        query = query.where(lines.caller == identity)
    if after is None:
        return query
    # What was sealed before then is older: the key of the table leads past it.
    older = select(seals.below_xid).where(seals.sealed_at < after).order_by(seals.seal_no.desc()).limit(1)
    return query.where(lines.at >= after, lines.xid >= func.coalesce(older.scalar_subquery(), 0))


def _print_lines(options: Options, found: Iterable[Mapping[str, Any]]) -> None:
    shown = [
        {
            **line,
            "at": line["at"].astimezone(UTC).isoformat(timespec="milliseconds"),
            "order_id": str(line["order_id"] or ""),
        }
        for line in found
    ]
    if options.json:
        print_json(shown)
        return
    columns = ("at", "database", "order_id", "action", "caller", "role", "door", "credential", "address")
    print_table(columns, [tuple(line[name] or "" for name in columns) for line in shown])


@app.command("prune")
def prune(
    context: typer.Context,
    *,
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="DURATION", help="What was sealed before, such as 400d.")
    ],
    database: DatabaseOption = None,
    dry_run: DryRun = False,
) -> None:
    """Delete old lines that are sealed; the seals stay, and a line says who has done it."""
    options = options_of(context)
    topology = options.topology()
    before = datetime.now(UTC) - parse_duration(older_than)
    done = [_prune(topology, log, before, dry_run=dry_run) for log in _chosen(topology, database).values()]
    if options.json:
        print_json(done)
        return
    print_table(("database", "through_seal", "lines"), [tuple(each.values()) for each in done])
    if dry_run:
        note("nothing was deleted")


def _prune(topology: Topology, log: AuditLog, before: datetime, *, dry_run: bool) -> dict[str, Any]:
    name = log.database.name
    with _owner(topology, log.database) as connection, calling(shell_user()):
        newest = select(log.seals.seal_no, log.seals.below_xid).where(log.seals.sealed_at < before)
        row = connection.execute(newest.order_by(log.seals.seal_no.desc()).limit(1)).one_or_none()
        if row is None:
            return {"database": name, "through_seal": 0, "lines": 0}
        # Two kinds of lines stay: what was pruned, which `verify` goes by, and heads of the directory's log.
        old = (log.audit.xid < row.below_xid) & log.audit.action.not_in((PRUNED, ANCHORED))
        count = _count(connection, select(log.audit.xid).where(old))
        if count and not dry_run:
            # First: from now on `verify` knows that they may be gone, wherever this is interrupted.
            connection.execute(
                insert_line(log.audit, PRUNED, None, {"through_seal": row.seal_no, "lines": count})
            )
            for first, end in pairwise([0, *_batches(connection, log, row.seal_no)]):
                connection.execute(delete(log.audit).where(old, log.audit.xid >= first, log.audit.xid < end))
                connection.commit()
    return {"database": name, "through_seal": row.seal_no, "lines": count}


def _batches(connection: Connection, log: AuditLog, through_seal: int) -> list[int]:
    """Return the transactions below which a batch of lines ends, the last batch last."""
    is_end = ((log.seals.seal_no % BATCH_SEALS) == 0) | (log.seals.seal_no == through_seal)
    ends = select(log.seals.below_xid).where(log.seals.seal_no <= through_seal, is_end)
    return list(connection.scalars(ends.order_by(log.seals.seal_no)))


@app.command("accept")
def accept(
    context: typer.Context,
    database: Annotated[str, typer.Argument(help="By its name in the topology.", show_default=False)],
    *,
    from_seal: Annotated[int, typer.Option("--from-seal", min=1, help="The first one that was lost.")],
    dry_run: DryRun = False,
) -> None:
    """Accept that the newest seals of a database are lost, as by a failover; a line says who has done it."""
    options = options_of(context)
    topology = options.topology()
    directory = topology.directory_of(ServiceName.MES.value)
    (log,) = _chosen(topology, database).values()
    if log.database.name == directory.name:
        raise typer.BadParameter(f"the heads of {database} are lines of the shards, and lines stay")
    lost = (AuditHead.database == database) & (AuditHead.seal_no >= from_seal)
    with _owner(topology, directory) as connection, calling(shell_user()):
        facts = {"database": database, "from_seal": from_seal}
        if dry_run:
            heads = connection.scalar(select(func.count()).select_from(AuditHead).where(lost)) or 0
        else:
            heads = connection.execute(delete(AuditHead).where(lost)).rowcount
            connection.execute(insert_line(DirectoryAuditLine, ACCEPTED, None, {**facts, "heads": heads}))
        connection.commit()
    if options.json:
        print_json({**facts, "heads": heads})
    else:
        print(
            f"{database}: {heads} heads from seal {from_seal} on {'would be' if dry_run else 'are'} forgotten"
        )


@contextmanager
def _owner(topology: Topology, database: Database) -> Iterator[Connection]:
    with (
        open_engine(topology, database, role=database.owner) as engine,
        naming(database),
        engine.connect() as connection,
    ):
        yield connection
