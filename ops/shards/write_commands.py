"""`mesctl shards in-doubt` and `mesctl shards reference`: what writes over several shards have left to do."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from ops.errors import ExitStatus
from ops.options import DryRun, Options, options_of, parse_duration
from ops.output import note, print_json, show_rows
from ops.shards.in_doubt import close, end, look, render_close, render_end
from ops.shards.options import TreeName, sharded
from ops.shards.reference_tables import (
    CopyOutcome,
    CopyState,
    load,
    read_file,
    render_load,
    render_sync,
    sync,
)
from ops.shards.reference_tables import check as check_references
from sharding.writes.in_doubt import Ended, InDoubt, RecoveryAction, Survey
from sharding.writes.prepared import Unfinished

in_doubt = typer.Typer(
    help="Find and end transactions that a crashed two-phase unit has left prepared.", no_args_is_help=True
)

reference = typer.Typer(
    help="Reference tables, of which every shard has a copy: compare, bring up to date, change.",
    no_args_is_help=True,
)


OlderThan = Annotated[
    timedelta,
    typer.Option(
        parser=parse_duration,
        metavar="DURATION",
        help="From this age on a unit without a decision is presumed aborted.",
    ),
]

# As text: typer parses a default like any other value.
SAFE_AGE: Any = "10m"


@in_doubt.command("list")
def list_(context: typer.Context, older_than: OlderThan = SAFE_AGE, tree: TreeName = None) -> None:
    """List prepared transactions: their decision, their age, which tables they lock, who waits for them.

    And units that were to commit, and of which no shard has a part any more. Exit status 1 if one is older
    than --older-than, whosever it is (it holds back vacuum), or a shard cannot be reached.
    """
    options = options_of(context)
    found = sharded(context, tree)
    seen = asyncio.run(look(found.topology, found.tree.name, (), older_than=older_than))
    rows = [_facts(each, options) for each in seen.found]
    lost = [_lost(each, options) for each in seen.lost]
    if options.json:
        print_json([*rows, *lost])
    else:
        show_rows(options, rows, empty="no prepared transactions")
        if lost:
            show_rows(options, lost, empty="")
    old = [each for each in seen.found if each.prepared.age_seconds >= older_than.total_seconds()]
    for each in old:
        age, xids = each.prepared.age_seconds, each.prepared.xid_age
        note(
            f"{each.prepared.shard}: {each.prepared.gid} is {age:.0f} s old: vacuum cannot clean up "
            f"behind it, {xids} transactions by now"
        )
    for unit in seen.lost:
        note(
            f"unit {unit.unit_id} ({unit.label}) was to commit {unit.age_seconds:.0f} s ago, and no shard "
            f"has a part of it: compare its rows on {', '.join(unit.shards)}, then "
            "`mesctl shards in-doubt close`"
        )
    _note_unreachable(seen)
    raise typer.Exit(ExitStatus.FAILED if old or seen.lost or seen.unreachable else ExitStatus.DONE)


@in_doubt.command("resolve")
def resolve_(
    context: typer.Context,
    gids: Annotated[
        list[str] | None,
        typer.Argument(help="Only the units of these prepared transactions.", show_default=False),
    ] = None,
    older_than: OlderThan = SAFE_AGE,
    tree: TreeName = None,
    dry_run: DryRun = False,
) -> None:
    """End prepared transactions, each unit on all its shards the same way.

    A unit that was decided is committed or rolled back as decided, at once. One without a decision is aborted
    when it is older than --older-than, and left alone before. Prepared transactions of others are never
    touched: naming one is refused with exit status 3.
    """
    found, named = sharded(context, tree), gids or ()
    topology, name = found.topology, found.tree.name
    if dry_run:
        seen = asyncio.run(look(topology, name, named, older_than=older_than))
        print(render_end(topology, name, seen), end="")
        return
    seen, ended = asyncio.run(end(topology, name, named, older_than=older_than))
    show_rows(options_of(context), [_ended(each) for each in ended], empty="nothing was to be done")
    for each in seen.found:
        if each.verdict in {RecoveryAction.WAIT, RecoveryAction.FOREIGN}:
            why = (
                "its unit is young and undecided"
                if each.verdict is RecoveryAction.WAIT
                else "not one of ours"
            )
            note(f"{each.prepared.shard}: {each.prepared.gid} is left alone: {why}")
    _note_unreachable(seen)
    failed = seen.unreachable or any(each.error for each in ended)
    raise typer.Exit(ExitStatus.FAILED if failed else ExitStatus.DONE)


@in_doubt.command("close")
def close_(
    context: typer.Context,
    unit_ids: Annotated[
        list[str], typer.Argument(help="The units, as `list` names them.", show_default=False)
    ],
    older_than: OlderThan = SAFE_AGE,
    tree: TreeName = None,
    dry_run: DryRun = False,
) -> None:
    """Note that units are finished which were to commit, and of which no shard has a part any more.

    Compare their rows on each of their shards first: this changes no row. Refused with exit status 3 while a
    part may still be somewhere: one is prepared, a shard cannot be reached, the unit is young.
    """
    options = options_of(context)
    found = sharded(context, tree)
    topology, name = found.topology, found.tree.name
    units = asyncio.run(close(topology, name, unit_ids, older_than=older_than, dry_run=dry_run))
    if dry_run:
        print(render_close(topology, name, units), end="")
    else:
        show_rows(options, [_lost(unit, options, verdict="closed") for unit in units], empty="nothing to do")


def _lost(unit: Unfinished, options: Options, *, verdict: str = "lost") -> dict[str, Any]:
    facts = asdict(unit)
    facts["age_seconds"] = round(unit.age_seconds, 1)
    if not options.json:
        facts["shards"] = ", ".join(unit.shards)
    return {**facts, "verdict": verdict}


def _facts(each: InDoubt, options: Options) -> dict[str, Any]:
    facts = asdict(each.prepared)
    facts["age_seconds"] = round(each.prepared.age_seconds, 1)
    if not options.json:
        facts["locks"] = ", ".join(each.prepared.locks)
        facts["waiting_pids"] = ", ".join(map(str, each.prepared.waiting_pids))
    label = each.decided.label if each.decided else None
    return {**facts, "verdict": each.verdict.value, "label": label}


def _ended(each: Ended) -> dict[str, Any]:
    done = "failed" if each.error else "was gone" if each.was_gone else each.verb.value.lower()
    return {"shard": each.prepared.shard, "gid": each.prepared.gid, "done": done, "error": each.error}


def _note_unreachable(seen: Survey) -> None:
    for shard, why in seen.unreachable.items():
        note(f"{shard}: cannot be looked at: {why}")


@reference.command("check")
def check(
    context: typer.Context,
    rows: Annotated[int, typer.Option(min=0, help="Differing rows to show of each copy.")] = 10,
    tree: TreeName = None,
) -> None:
    """Prove that every copy on every shard is what was published; exit status 1 if one is not."""
    options = options_of(context)
    states = asyncio.run(check_references(*sharded(context, tree), limit=rows))
    if options.json:
        print_json([asdict(state) for state in states])
    else:
        _show_states(options, states)
    raise typer.Exit(ExitStatus.FAILED if any(state.fault for state in states) else ExitStatus.DONE)


def _show_states(options: Options, states: Sequence[CopyState]) -> None:
    facts = [
        {name: value for name, value in asdict(state).items() if name != "differences"} for state in states
    ]
    show_rows(options, facts, empty="no reference tables")
    for state in states:
        for each in state.differences:
            key = ", ".join(map(str, each.key))
            found, wanted = _row(each.found), _row(each.wanted)
            print(f"{state.shard} {state.table} ({key}): {found}; it should be {wanted}")


def _row(row: Any) -> str:
    return "not there" if row is None else ", ".join(f"{name} {value}" for name, value in row.items())


@reference.command("sync")
def sync_(context: typer.Context, tree: TreeName = None, dry_run: DryRun = False) -> None:
    """Bring every copy that is behind, or was changed by hand, to what was published last."""
    found = sharded(context, tree)
    if dry_run:
        print(asyncio.run(render_sync(*found)), end="")
        return
    _show_outcomes(options_of(context), asyncio.run(sync(*found)), empty="every copy is as published")


@reference.command("load")
def load_(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(help="TOML: an array [[TABLE]] for each table, a row each.", show_default=False)
    ],
    tree: TreeName = None,
    dry_run: DryRun = False,
) -> None:
    """Publish the rows of a file as the next version of their tables, and bring every shard to it.

    The file has all rows of a table: those that are not in it are deleted. A table that is not in it stays as
    it is, and so does one whose rows are the same. A shard that cannot be reached is behind until `sync`; the
    exit status is 1 then.
    """
    found = sharded(context, tree)
    rows = read_file(file, found[-1])
    if dry_run:
        print(asyncio.run(render_load(*found, rows)), end="")
        return
    _show_outcomes(options_of(context), asyncio.run(load(*found, rows)), empty="the file has no rows")


def _show_outcomes(options: Options, outcomes: Sequence[CopyOutcome], *, empty: str) -> None:
    show_rows(options, [asdict(each) for each in outcomes], empty=empty)
    raise typer.Exit(ExitStatus.FAILED if any(each.error for each in outcomes) else ExitStatus.DONE)
