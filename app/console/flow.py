"""`mesctl flow`: what each sender may send to the MES, why, and the orders of people about it.

Orders stand in the directory of the MES, one for each sender, and each ends by itself. So none is forgotten,
and none depends on Redis. The MES hears them within a second.
"""

import getpass
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

import typer
from sqlalchemy import Connection, Row, func, literal, select, text

from app.audit_log import insert_line
from app.console.audit.databases import SERVICE_TABLES, OrderDatabases
from app.kit.caller import calling, shell_user
from app.messaging.routing import ServiceName
from app.models.directory import DirectoryAuditLine
from app.models.mes import Intake
from ops.errors import ExitStatus, OpsError
from ops.fleet import DatabasesFailed, naming, open_engine
from ops.options import DryRun, Options, format_duration, options_of, parse_duration
from ops.output import literal_of, note, print_json, print_table, report
from sharding.topology import Database, Topology

app = typer.Typer(help="Show and order what may be sent to the MES.", no_args_is_help=True)

LONGEST = timedelta(hours=24)
"""An order of a person ends by then: what is paused for longer is no matter of flow."""

MOST_COUNTED = 10_000


class Sender(StrEnum):
    """Who sends to the MES."""

    SHOP = "shop"
    CRM = "crm"
    PARTNERS = "partners"


SenderArgument = Annotated[Sender, typer.Argument(help="Who sends.", show_default=False)]
Reason = Annotated[str, typer.Option("--reason", help="Why; everyone who looks sees it.")]


class NotOverridden(OpsError):
    """No order of a person is in force for the sender."""

    exit_status = ExitStatus.REFUSED

    def __init__(self, sender: str) -> None:
        self.sender = sender
        super().__init__(f"{sender} is neither paused nor limited: see mesctl flow status")


def _duration(given: str) -> timedelta:
    found = parse_duration(given)
    if not timedelta(0) < found <= LONGEST:
        raise typer.BadParameter(f"it ends by itself, within {format_duration(LONGEST)}")
    return found


For = Annotated[
    timedelta, typer.Option("--for", parser=_duration, metavar="DURATION", help="When it ends, 24h at most.")
]


@app.command("pause")
def pause(
    context: typer.Context,
    sender: SenderArgument,
    *,
    lasts: For = "10m",  # type: ignore[assignment]  # typer parses the text
    reason: Reason = "no reason given",
    dry_run: DryRun = False,
) -> None:
    """Have a sender send nothing to the MES: all waits in its outbox, or in the intake; nothing is lost."""
    _order(options_of(context), sender, 0.0, lasts, reason, dry_run=dry_run)


@app.command("limit")
def limit(
    context: typer.Context,
    sender: SenderArgument,
    per_second: Annotated[float, typer.Argument(min=0.1, help="Messages in a second at most.")],
    *,
    lasts: For = "10m",  # type: ignore[assignment]  # typer parses the text
    reason: Reason = "no reason given",
    dry_run: DryRun = False,
) -> None:
    """Have a sender send no more than this; the MES may still grant less."""
    _order(options_of(context), sender, per_second, lasts, reason, dry_run=dry_run)


@app.command("resume")
def resume(context: typer.Context, sender: SenderArgument, *, dry_run: DryRun = False) -> None:
    """End a pause or a limit now."""
    options = options_of(context)
    statement = text("DELETE FROM flow_overrides WHERE sender = :sender AND until > now() RETURNING sender")
    if dry_run:
        print(f"DELETE FROM flow_overrides WHERE sender = '{sender}' AND until > now();")
        return
    with _directory(options.topology()) as connection:
        gone = connection.execute(statement, {"sender": sender.value}).all()
        if gone:
            _record(connection, "flow_resumed", {"sender": sender.value})
        connection.commit()
    if not gone:
        raise NotOverridden(sender)
    report(options, {"sender": sender.value, "resumed": True}, f"{sender} is resumed")


_ORDER = """INSERT INTO flow_overrides (sender, per_second, until, reason, made_by)
VALUES ({sender}, {per_second}, now() + {lasts} * interval '1 second', {reason}, {made_by})
ON CONFLICT (sender) DO UPDATE
SET per_second = excluded.per_second, until = excluded.until, reason = excluded.reason,
    made_by = excluded.made_by, made_at = now()
"""


def _order(
    options: Options, sender: Sender, per_second: float, lasts: timedelta, reason: str, *, dry_run: bool
) -> None:
    words: dict[str, Any] = {
        "sender": sender.value,
        "per_second": per_second,
        "lasts": lasts.total_seconds(),
        "reason": reason,
        "made_by": getpass.getuser(),
    }
    if dry_run:
        print(_ORDER.format(**{name: literal_of(value) for name, value in words.items()}).strip() + ";")
        return
    statement = text(_ORDER.format(**{name: f":{name}" for name in words}) + "RETURNING until")
    with _directory(options.topology()) as connection:
        until = connection.execute(statement, words).scalar_one()
        _record(connection, "flow_ordered", words)
        connection.commit()
    what = "paused" if per_second == 0 else f"limited to {per_second:g} messages a second"
    facts = {**words, "until": until.astimezone(UTC).isoformat()}
    report(options, facts, f"{sender} is {what} until {until.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC")


def _record(connection: Connection, action: str, facts: Mapping[str, Any]) -> None:
    with calling(shell_user()):
        connection.execute(insert_line(DirectoryAuditLine, action, None, facts))


@app.command("status")
def status(context: typer.Context) -> None:
    """Show what the MES measures, what it grants and why, what people have ordered, and how much waits."""
    options = options_of(context)
    topology = options.topology()
    found = read_status(topology)
    if options.json:
        print_json(found)
        return
    if found["leader"] is None:
        note("no process of the MES grants anything: each sender sends at its floor")
    print_table(("signal", "value", "limit"), [tuple(each.values()) for each in found["signals"]])
    print_table(
        ("sender", "a second", "why", "waits", "expected"),
        [
            (each["sender"], _rate(each), each["reason"], _unless_unknown(each["waiting"]), _expected(each))
            for each in found["senders"]
        ],
    )
    for each in found["overrides"]:
        print(
            f"{each['sender']}: {each['per_second']:g} a second until {each['until']}, by {each['made_by']}:"
            f" {each['reason']}"
        )


def _rate(sender: Mapping[str, Any]) -> str:
    return "floor" if sender["per_second"] is None else f"{sender['per_second']:g}"


def _unless_unknown(count: int | None) -> object:
    return "unknown" if count is None else count


def _expected(sender: Mapping[str, Any]) -> str:
    seconds = sender["expected_seconds"]
    return "unknown" if seconds is None else format_duration(timedelta(seconds=seconds))


def read_status(topology: Topology) -> dict[str, Any]:
    """Return the state of the flow as JSON has it.

    Raises:
        DatabasesFailed: the directory does not answer.
    """
    with _directory(topology) as connection:
        control = connection.execute(
            text("SELECT leader, signals FROM flow_control WHERE renewed_at > now() - interval '10 seconds'")
        ).one_or_none()
        grants = {
            row.sender: row
            for row in connection.execute(
                text("SELECT * FROM flow_grants WHERE issued_at > now() - interval '10 seconds'")
            )
        }
        overrides = connection.execute(
            text("SELECT * FROM flow_overrides WHERE until > now() ORDER BY sender")
        ).all()
    waiting = _waiting(OrderDatabases(topology))
    signals = control.signals if control is not None else {}
    return {
        "at": datetime.now(UTC).isoformat(),
        "leader": control.leader if control is not None else None,
        "signals": [{"signal": name, **each} for name, each in signals.items()],
        "senders": [_sender(each, grants.get(each), waiting[each]) for each in Sender],
        "overrides": [
            {**row._mapping, "until": row.until.isoformat(), "made_at": row.made_at.isoformat()}
            for row in overrides
        ],
    }


def _sender(sender: Sender, grant: Row[Any] | None, waiting: int | None) -> dict[str, Any]:
    per_second = grant.per_second if grant is not None else None
    return {
        "sender": sender.value,
        "per_second": per_second,
        "paused": grant.paused if grant is not None else False,
        "reason": grant.reason if grant is not None else "no grant is heard",
        "waiting": waiting,
        "expected_seconds": _expected_seconds(waiting, per_second),
    }


def _expected_seconds(waiting: int | None, per_second: float | None) -> int | None:
    if not waiting:
        return waiting
    return math.ceil(waiting / per_second) if per_second else None


def _waiting(databases: OrderDatabases) -> dict[Sender, int | None]:
    """Count what each sender has not got rid of yet; None where a database of it does not answer."""
    counts: dict[Sender, int | None] = dict.fromkeys(Sender, 0)
    for name, service in databases.services.items():
        sender = Sender.PARTNERS if service is ServiceName.MES else Sender(service.value)
        before = counts[sender]
        try:
            found = _count(databases, name, service)
        except DatabasesFailed as error:
            note(f"what waits there is unknown: {error}")
            counts[sender] = None
        else:
            counts[sender] = None if before is None else before + found
    return counts


def _count(databases: OrderDatabases, name: str, service: ServiceName) -> int:
    """Count what waits in a database, up to `MOST_COUNTED`."""
    outbox = SERVICE_TABLES[service].outbox
    rows = (
        select(literal(1)).select_from(Intake)
        if service is ServiceName.MES
        else select(literal(1)).where(outbox.destination == ServiceName.MES.value)
    )
    counted = select(func.count()).select_from(rows.limit(MOST_COUNTED).subquery())
    with databases.connect(name) as connection, naming(databases.topology.database(name)):
        return connection.scalar(counted) or 0


@contextmanager
def _directory(topology: Topology) -> Iterator[Connection]:
    database: Database = topology.directory_of(ServiceName.MES.value)
    role = ServiceName.MES.value
    with (
        open_engine(topology, database, role=role) as engine,
        naming(database),
        engine.connect() as connection,
    ):
        yield connection
