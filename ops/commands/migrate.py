"""`mesctl migrate`: the schema of every database, by the same migrations as `alembic -n TREE`."""

from collections.abc import Sequence
from typing import Annotated

import typer

from ops.errors import ExitStatus, OpsError
from ops.fleet import connect_line
from ops.migrate import run
from ops.migrate.drift import find_drift
from ops.migrate.errors import FleetFailed, PhaseOrder
from ops.migrate.fleet import PARALLEL
from ops.migrate.lint import lint_tree
from ops.migrate.outcome import Direction, Outcome
from ops.migrate.phases import Marked, Phase
from ops.migrate.state import DatabaseState, last_run, read_ledger, read_states
from ops.options import Options, note, options_of
from ops.rows import show_rows
from sharding.topology import Topology, Tree

app = typer.Typer(help="Show and change the schema of every database.", no_args_is_help=True)

# The directory first: it has the ledger. The others' order is free: no service reads another's database.
TREES: tuple[Tree, ...] = ("directory", "shop", "crm", "mes")

OnlyTree = Annotated[Tree | None, typer.Option("--tree", help="Only the databases of this tree.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the SQL for psql; change nothing.")]
OnlyPhase = Annotated[
    Phase | None, typer.Option("--phase", help="Only what belongs before, or after, the deployment.")
]
Parallel = Annotated[int, typer.Option(min=1, help="Databases at once, after the first of a tree.")]


@app.command()
def status(context: typer.Context, tree: OnlyTree = None) -> None:
    """Show the revision of every database, and how the latest run on it ended."""
    options = options_of(context)
    topology = options.topology()
    ledger = read_ledger(topology)
    states = _states(topology, tree)
    rows = [
        {
            "database": state.database,
            "tree": state.tree,
            "revision": state.revision,
            "head": run.head(state.tree),
            "current": state.unreachable is None and state.revision == run.head(state.tree),
            "last_run": state.unreachable or last_run(ledger.get(state.database), state),
        }
        for state in states
    ]
    show_rows(options, rows, empty="the topology has no such database")
    _fail_if_any_is_down(states)


@app.command()
def plan(context: typer.Context, tree: OnlyTree = None, phase: OnlyPhase = None) -> None:
    """List the revisions that each database lacks, in the order in which `upgrade` would run them."""
    options = options_of(context)
    states = _states(options.topology(), tree)
    rows = [
        {"database": state.database, "tree": state.tree, **lacking._asdict()}
        for state in states
        for lacking in _pending(state, phase)
    ]
    show_rows(options, rows, empty="nothing to do: every database is at its head")
    _fail_if_any_is_down(states)


@app.command()
def upgrade(
    context: typer.Context,
    tree: OnlyTree = None,
    phase: OnlyPhase = None,
    parallel: Parallel = PARALLEL,
    dry_run: DryRun = False,
) -> None:
    """Bring every database to its newest revision. May be called at any time.

    Of each tree the first database goes alone; if it fails, everything stops. Then the others go, several at
    once; if one of them fails, the rest goes on. The same command again continues.
    """
    options = options_of(context)
    topology = options.topology()
    if dry_run:
        states = _states(topology, tree)
        for state in states:
            lacking = _pending(state, phase)
            script = "" if state.unreachable else run.render_distribution(topology, state.tree)
            if lacking:
                script = run.render_upgrade(state.tree, lacking[-1].revision, start=state.revision) + script
            _print_script(topology, state, script)
        _fail_if_any_is_down(states)
        return
    if phase is not None:  # refuse before the first database is touched, not at the second
        for state in _states(topology, tree):
            _pending(state, phase)
    _migrate(options, topology, _chosen(tree), "up", "head", phase=phase, parallel=parallel)


@app.command()
def downgrade(
    context: typer.Context,
    *,
    revision: Annotated[str, typer.Argument(help="Where to go back to; `base` drops everything.")],
    tree: Annotated[Tree, typer.Option("--tree", help="The tree whose databases go back.")],
    parallel: Parallel = PARALLEL,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Take the databases of one tree back to a revision; what came later is dropped, with its data."""
    options = options_of(context)
    topology = options.topology()
    if dry_run:
        states = _states(topology, tree)
        for state in states:
            if state.revision is not None:
                _print_script(topology, state, run.render_downgrade(tree, revision, start=state.revision))
        _fail_if_any_is_down(states)
        return
    if not yes:
        names = ", ".join(topology.databases_of(tree))
        typer.confirm(f"Take {names} back to {revision} and lose what came later?", abort=True, err=True)
    _migrate(options, topology, (tree,), "down", revision, parallel=parallel)


@app.command()
def drift(context: typer.Context, tree: OnlyTree = None) -> None:
    """List what no migration made, and what a migration made and is gone. Exit status 1 if anything differs.

    Partitions are the policies' business: `mesctl partitions check` compares them.
    """
    options = options_of(context)
    topology = options.topology()
    found = [each for one in _chosen(tree) for each in find_drift(topology, one)]
    for each in found:
        at = each.unreachable or f"at {each.revision or 'base'}, fingerprint {each.fingerprint}"
        note(f"{each.database}: {at}")
    rows = [
        {"database": each.database, "fingerprint": each.fingerprint, **difference._asdict()}
        for each in found
        for difference in each.differences
    ]
    show_rows(options, rows, empty="every database that answers is as its migrations make it")
    if rows or any(each.unreachable for each in found):
        raise typer.Exit(ExitStatus.FAILED)


@app.command()
def lint(context: typer.Context, tree: OnlyTree = None) -> None:
    """Check the SQL of every revision by squawk's rules and our own; no database is needed.

    Exit status 1 if a rule is broken.
    """
    rows = [finding._asdict() for each in _chosen(tree) for finding in lint_tree(each)]
    show_rows(options_of(context), rows, empty="no revision breaks a rule")
    if rows:
        raise typer.Exit(ExitStatus.FAILED)


def _migrate(
    options: Options,
    topology: Topology,
    trees: Sequence[Tree],
    direction: Direction,
    target: str,
    *,
    parallel: int,
    phase: Phase | None = None,
) -> None:
    outcomes: list[Outcome] = []
    for tree in trees:
        try:
            outcomes += run.migrate(
                topology, tree, direction, target, phase=phase, parallel=parallel, report=note
            )
        except FleetFailed as failed:
            outcomes += failed.outcomes
            if not failed.outcomes[0].done:  # the canary: whatever is wrong may be wrong everywhere
                break
    rows = [
        {
            "database": outcome.database,
            "tree": outcome.tree,
            "state": outcome.state,
            "revision": outcome.revision,
            "ran": ", ".join(outcome.ran),
            "duration_seconds": outcome.duration_seconds,
            "error": outcome.error,
        }
        for outcome in outcomes
    ]
    show_rows(options, rows, empty="the topology has no such database")
    if not all(outcome.done for outcome in outcomes):
        raise FleetFailed(outcomes)


class PhaseRefused(OpsError):
    """A phase of a deployment cannot run on a database."""

    exit_status = ExitStatus.REFUSED

    def __init__(self, database: str, reason: PhaseOrder) -> None:
        self.database = database
        super().__init__(f"{database}: {reason}")


def _pending(state: DatabaseState, phase: Phase | None) -> list[Marked]:
    if state.unreachable is not None:
        return []
    try:
        return run.pending(state.tree, state.revision, phase=phase)
    except PhaseOrder as reason:
        raise PhaseRefused(state.database, reason) from reason


def _chosen(tree: Tree | None) -> tuple[Tree, ...]:
    return TREES if tree is None else (tree,)


def _states(topology: Topology, tree: Tree | None) -> list[DatabaseState]:
    return [state for each in _chosen(tree) for state in read_states(topology, each)]


def _fail_if_any_is_down(states: Sequence[DatabaseState]) -> None:
    down = [state for state in states if state.unreachable is not None]
    for state in down:
        note(f"mesctl: {state.database} cannot be reached: {state.unreachable}")
    if down:
        raise typer.Exit(ExitStatus.FAILED)


def _print_script(topology: Topology, state: DatabaseState, script: str) -> None:
    database = topology.database(state.database)
    if script:
        print(f"-- {state.database}\n{connect_line(topology, database, role=database.owner)}{script}")
