"""`mesctl orders dead-letters`: the commands of `app.console.dead_letters`."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import typer
from sqlalchemy import select

from app.console.audit.databases import SERVICE_TABLES, OrderDatabases
from app.console.dead_letters import (
    NOT_KEPT,
    LetterFilter,
    NotDeadLetter,
    SetAsideMessage,
    discard_letter,
    find_letters,
    person,
    restore_letter,
    retry_letter,
    what_happened,
)
from ops.fleet import Outcome, raise_failures, results_of
from ops.options import options_of, parse_duration
from ops.output import note, print_json, print_table, show_rows
from sharding.ids import MAX_ID

app = typer.Typer(
    help="Find messages that no service could handle, and send them again.", no_args_is_help=True
)

OlderThan = Annotated[
    timedelta | None,
    typer.Option(
        parser=parse_duration, metavar="DURATION", help="Only those that were set aside so long ago."
    ),
]
Source = Annotated[str | None, typer.Option("--source", help="Only those that this database owes.")]
Destination = Annotated[str | None, typer.Option("--destination", help="Only those to this service.")]
Type = Annotated[str | None, typer.Option("--type", help="Only those of this type, as order.approved.")]
Order = Annotated[int | None, typer.Option("--order", min=0, max=MAX_ID, help="Only those of this order.")]
MessageId = Annotated[UUID, typer.Argument(help="The message's id.", show_default=False)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
Reason = Annotated[str, typer.Option("--reason", help="Why it is given up; the history keeps it.")]


def _filter(
    source: str | None, destination: str | None, type_: str | None, order: int | None, older: timedelta | None
) -> LetterFilter:
    before = None if older is None else datetime.now(UTC) - older
    return LetterFilter(source, destination, type_, order, before)


@app.command("list")
def list_(
    context: typer.Context,
    *,
    source: Source = None,
    destination: Destination = None,
    type_: Type = None,
    order: Order = None,
    older_than: OlderThan = None,
    limit: Annotated[int, typer.Option(min=1, help="How many of one database at most.")] = 100,
) -> None:
    """List the messages that no service could handle, with the reason, and how many wait behind each."""
    options = options_of(context)
    wanted = _filter(source, destination, type_, order, older_than)
    outcomes = find_letters(OrderDatabases(options.topology()), wanted, limit=limit)
    found = [each for _, letters in results_of(outcomes) for each in letters]
    show_rows(options, [each.as_json() for each in found], empty="no dead letters")
    raise_failures(outcomes)


@app.command("show")
def show(context: typer.Context, message_id: MessageId) -> None:
    """Show one dead letter with its content; the customer is masked."""
    options = options_of(context)
    databases = OrderDatabases(options.topology())
    letter = _find(databases, message_id)
    outbox = SERVICE_TABLES[databases.services[letter.source]].outbox
    with databases.connect(letter.source) as connection:
        at = (outbox.order_id == letter.order_id) & (outbox.message_id == message_id)
        data = connection.scalar(select(outbox.data).where(at)) or {}
    shown = {**letter.as_json(), "data": masked(data)}
    if options.json:
        print_json(shown)
    else:
        print_table(("", ""), list(shown.items()))


def masked(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message's content without who the customer is."""
    return {name: "(masked)" if name == "customer" and value else value for name, value in data.items()}


@app.command("retry")
def retry(
    context: typer.Context,
    message_id: Annotated[UUID | None, typer.Argument(help="The message's id.", show_default=False)] = None,
    *,
    all_: Annotated[bool, typer.Option("--all", help="All that the filters leave, not one.")] = False,
    source: Source = None,
    destination: Destination = None,
    type_: Type = None,
    order: Order = None,
    older_than: OlderThan = None,
    dry_run: DryRun = False,
) -> None:
    """Send a dead letter again, or all that the filters leave: it is due at once, its attempts counted anew.

    What has been handled or is under way is refused. Should it fail again, it is set aside again.
    """
    databases = OrderDatabases(options_of(context).topology())
    if (message_id is None) != all_:
        raise typer.BadParameter("name one message, or give --all")
    if message_id is not None:
        letters = [_find(databases, message_id)]
        failed: Sequence[Outcome[Any]] = ()
    else:
        failed = find_letters(databases, _filter(source, destination, type_, order, older_than))
        letters = [each for _, found in results_of(failed) for each in found]
    done: list[SetAsideMessage] = []
    for letter in letters:
        try:
            if not dry_run:
                asyncio.run(retry_letter(databases, letter))
        except NotDeadLetter as error:
            if not all_:
                raise
            note(f"left alone: {error.meanwhile}: {letter.message_id}")
            continue
        done.append(letter)
    _report(context, "sent again", done, dry_run=dry_run)
    raise_failures(failed)


@app.command("discard")
def discard(
    context: typer.Context, message_id: MessageId, *, reason: Reason, dry_run: DryRun = False
) -> None:
    """Delete a dead letter: its destination never learns of it, and what waits behind it goes on.

    The history of its order gets a line with the reason, and with what `restore` needs.
    """
    if not reason.strip():
        raise typer.BadParameter("say why")
    databases = OrderDatabases(options_of(context).topology())
    letter = _find(databases, message_id)
    if not dry_run and not asyncio.run(discard_letter(databases, letter, reason=reason, actor=person())):
        note(f"{letter.source} has no order {letter.order_id}: no history has the line")
    _report(context, "discarded", [letter], dry_run=dry_run)
    if not dry_run and letter.type != NOT_KEPT:
        note(f"undo it with `mesctl orders dead-letters restore {message_id} --order {letter.order_id}`")


@app.command("restore")
def restore(
    context: typer.Context,
    message_id: MessageId,
    *,
    order: Annotated[int, typer.Option("--order", min=0, max=MAX_ID, help="Its order.", show_default=False)],
) -> None:
    """Undo a discard: write the message again, in its old place among those of its order, due at once."""
    options = options_of(context)
    source = asyncio.run(
        restore_letter(OrderDatabases(options.topology()), message_id, order, actor=person())
    )
    if options.json:
        print_json({"restored": str(message_id), "order_id": str(order), "source": source})
    else:
        print(f"restored: {message_id} of order {order}, which {source} owes")


def _find(databases: OrderDatabases, message_id: UUID) -> SetAsideMessage:
    outcomes = find_letters(databases, LetterFilter(message_id=message_id))
    for _, letters in results_of(outcomes):
        if letters:
            return letters[0]
    raise_failures(outcomes)
    raise NotDeadLetter(message_id, what_happened(databases, message_id))


def _report(context: typer.Context, verb: str, letters: Sequence[SetAsideMessage], *, dry_run: bool) -> None:
    if options_of(context).json:
        print_json({"dry_run": dry_run, verb.replace(" ", "_"): [each.as_json() for each in letters]})
        return
    would = "would be " if dry_run else ""
    for each in letters:
        path = f"{each.source} to {each.destination}"
        print(f"{would}{verb}: {each.type} of order {each.order_id}, {path} ({each.message_id})")
    if not letters:
        print("no dead letters")
