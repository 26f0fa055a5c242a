"""`mesctl migrate adopt`: a database that was made by other means is one of a tree from now on."""

from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from ops.errors import ExitStatus
from ops.fleet import connect_line
from ops.migrate import adoption, run
from ops.migrate.adoption import ADOPTABLE, Examination
from ops.migrate.errors import AdoptionRefused, DatabasesRefused
from ops.migrate.mark import removal
from ops.migrate.run import DatabaseState, read_states
from ops.options import DryRun, OnlyTree, Options, options_of
from ops.output import note, show_rows
from sharding.topology import Topology

ADOPT_HELP = """\
Give databases the name of their tree, so that its revisions may run in them.

First it shows what differs from what the tree's revisions make. Databases that are empty, or as the
revisions make them, get the name from `upgrade` by themselves.
"""


def adopt(
    context: typer.Context,
    *,
    tree: OnlyTree = None,
    database: Annotated[str | None, typer.Option("--database", help="Only this database.")] = None,
    accept_differences: Annotated[
        bool, typer.Option("--accept-differences", help="Although they are not as the revisions make them.")
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take the tree's name from them instead.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Mark databases as those of their tree, so that its revisions may run in them."""
    options = options_of(context)
    topology = options.topology()
    states = _chosen(options, topology, tree, database)
    if undo:
        _undo(options, topology, states, yes=yes, dry_run=dry_run)
        return
    found = [state for state in states if state.found and state.found.belonging != "marked"]
    _refuse(options, found, accept_differences=accept_differences)
    if dry_run:
        for state in found:
            assert state.found is not None
            print_script(topology, state, adoption.script(state.found, state.tree))
        return
    _confirm(found, "Give {} the name of its tree, and let the tree's revisions run there?", yes=yes)
    for state in found:
        adoption.adopt(topology, state.tree, state.database)
    _show(options, found, "adopted", empty="nothing to do: every database bears the name of its tree")


def _undo(
    options: Options, topology: Topology, states: Sequence[DatabaseState], *, yes: bool, dry_run: bool
) -> None:
    others = [state.found for state in states if state.found and state.found.belonging == "other tree"]
    if others:
        raise DatabasesRefused([each.refusal for each in others])
    found = [state for state in states if state.found and state.found.belonging == "marked"]
    if dry_run:
        for state in found:
            print_script(topology, state, f"{removal(state.tree)};\n\n")
        return
    _confirm(found, "Take the name of its tree from {}?", yes=yes)
    for state in found:
        adoption.disown(topology, state.tree, state.database)
    _show(options, found, "disowned", empty="nothing to do: no database bears the name of its tree")


def _chosen(
    options: Options, topology: Topology, tree: str | None, database: str | None
) -> list[DatabaseState]:
    """Examine the databases; nothing is changed in some while others do not answer."""
    if database is not None and database not in topology.databases:
        raise typer.BadParameter(f"no database {database!r}; known are {', '.join(topology.databases)}")
    states = [
        state
        for each in run.trees_of(options.project(), topology, tree)
        if database is None or topology.databases[database].tree == each.name
        for state in read_states(topology, each)
        if database in {None, state.database}
    ]
    down = [state for state in states if state.unreachable is not None]
    for state in down:
        note(f"mesctl: {state.database} cannot be reached: {state.unreachable}")
    if down:
        raise typer.Exit(ExitStatus.FAILED)
    return states


def _refuse(options: Options, states: Sequence[DatabaseState], *, accept_differences: bool) -> None:
    """Show what was found; refuse what cannot be adopted, and differences that were not accepted."""
    found = [state.found for state in states if state.found]
    refused = [each.refusal for each in found if each.belonging not in ADOPTABLE]
    if refused:
        raise DatabasesRefused(refused)
    for each in found:
        note(_line(each))
    differing = [each for each in found if each.belonging == "unmarked"]
    if differing and not accept_differences:
        rows = [row for each in differing for row in _differences(each)]
        show_rows(options, rows, empty="there is no frozen schema to compare with")
        raise AdoptionRefused([each.database for each in differing])
    for each in differing:
        for difference in each.differences:
            note(f"{each.database}: {difference.object}: {difference.problem}")


def _differences(found: Examination) -> Iterator[dict[str, str | None]]:
    for difference in found.differences:
        begin = {"database": found.database, "tree": found.tree, "revision": found.revision}
        yield {**begin, **difference._asdict()}


def _line(found: Examination) -> str:
    at = f"{found.database}: at {found.revision or 'base'}"
    match found.belonging:
        case "empty":
            return f"{at}: empty"
        case "as frozen":
            return f"{at}: as the revisions of the tree {found.tree} make it"
    return f"{at}: " + (
        found.reason or f"{len(found.differences)} objects differ from what {found.tree} makes"
    )


def _confirm(states: Sequence[DatabaseState], question: str, *, yes: bool) -> None:
    if states and not yes:
        names = ", ".join(state.database for state in states)
        typer.confirm(question.format(names), abort=True, err=True)


def _show(options: Options, states: Sequence[DatabaseState], state_word: str, *, empty: str) -> None:
    rows = [
        {
            "database": state.database,
            "tree": state.tree.name,
            "revision": state.revision,
            "state": state_word,
            "differences": len(state.found.differences) if state.found else 0,
        }
        for state in states
    ]
    show_rows(options, rows, empty=empty)


def print_script(topology: Topology, state: DatabaseState, script: str) -> None:
    """Print what psql does in a database, if anything, behind the line that connects to it."""
    database = topology.database(state.database)
    if script:
        print(f"-- {state.database}\n{connect_line(topology, database, role=database.owner)}{script}")
