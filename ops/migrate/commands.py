"""`mesctl migrate`: the schema of every database, by the same migrations as `alembic -n TREE`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer

from ops.errors import ExitStatus, OpsError
from ops.migrate import adoption, run, snapshot
from ops.migrate.adopt_commands import ADOPT_HELP, adopt, print_script
from ops.migrate.drift import DatabaseDrift, find_drift
from ops.migrate.errors import DatabaseRefused, DatabasesRefused, FleetFailed, PhaseOrder
from ops.migrate.fleet import PARALLEL
from ops.migrate.ledger import Entry
from ops.migrate.lint import lint_tree
from ops.migrate.outcome import MigrationOutcome
from ops.migrate.phases import Phase, PhasedRevision
from ops.migrate.run import DatabaseState, last_run, read_ledger, read_states
from ops.options import DryRun, OnlyTree, Options, options_of
from ops.output import note, show_rows
from ops.project.project import ProjectTree
from sharding.topology import Topology

app = typer.Typer(help="Show and change the schema of every database.", no_args_is_help=True)

app.command(help=ADOPT_HELP)(adopt)


OnlyPhase = Annotated[
    Phase | None, typer.Option("--phase", help="Only what belongs before, or after, the deployment.")
]

Parallel = Annotated[int, typer.Option(min=1, help="Databases at once, after the first of a tree.")]

NO_DATABASE = "the topology has no such database"


@app.command()
def status(context: typer.Context, tree: OnlyTree = None) -> None:
    """Show the revision of every database, whether it is its tree's, and how the latest run on it ended."""
    options = options_of(context)
    topology = options.topology()
    ledger = read_ledger(topology)
    states = _states(topology, run.trees_of(options.project(), topology, tree))
    rows = [state_row(state, ledger) for state in states]
    show_rows(options, rows, empty=NO_DATABASE)
    for refusal in _refusals(states):
        note(f"mesctl: {refusal}")
    _fail_if_any_is_down(states)


def state_row(state: DatabaseState, ledger: Mapping[str, Entry]) -> dict[str, Any]:
    """Return what `mesctl migrate status` shows of a database."""
    return {
        "database": state.database,
        "tree": state.tree.name,
        "revision": state.revision,
        "head": run.head(state.tree),
        "library": state.library_version or None,
        "current": bool(state.found and state.found.is_ours) and state.revision == run.head(state.tree),
        "mark": state.found and state.found.belonging,
        "last_run": state.unreachable or last_run(ledger.get(state.database), state),
    }


@app.command()
def plan(context: typer.Context, tree: OnlyTree = None, phase: OnlyPhase = None) -> None:
    """List the revisions that each database lacks, in the order in which `upgrade` would run them."""
    options = options_of(context)
    topology = options.topology()
    states = _ours(topology, run.trees_of(options.project(), topology, tree))
    rows = [
        {"database": state.database, "tree": state.tree.name, **lacking._asdict()}
        for state in states
        for lacking in _lacking(topology, state, phase)
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
    once; if one of them fails, the rest goes on. The same command again continues. A database that is not its
    tree's is refused before anything is changed.
    """
    options = options_of(context)
    topology = options.topology()
    trees = run.trees_of(options.project(), topology, tree)
    if dry_run:
        states = _ours(topology, trees)
        for state in states:
            print_script(topology, state, _upgrade_script(topology, state, phase))
        _fail_if_any_is_down(states)
        return
    if phase is not None:  # refuse before the first database is touched, not at the second
        for state in _ours(topology, trees):
            _pending(state, phase)
    try:
        outcomes = run.upgrade_all(topology, trees, phase=phase, parallel=parallel, report=note)
    except FleetFailed as failed:
        _show_outcomes(options, failed.outcomes)
        raise
    _show_outcomes(options, outcomes)


@app.command()
def downgrade(
    context: typer.Context,
    *,
    revision: Annotated[str, typer.Argument(help="Where to go back to; `base` drops everything.")],
    tree: Annotated[str, typer.Option("--tree", help="The tree whose databases go back.")],
    parallel: Parallel = PARALLEL,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Take the databases of one tree back to a revision; what came later is dropped, with its data."""
    options = options_of(context)
    topology = options.topology()
    [chosen] = run.trees_of(options.project(), topology, tree)
    if dry_run:
        states = _ours(topology, [chosen])
        for state in states:
            if state.revision is not None:
                script = run.render_downgrade(chosen, revision, start=state.revision)
                print_script(topology, state, script)
        _fail_if_any_is_down(states)
        return
    adoption.refuse_others(topology, [chosen])
    if not yes:
        names = ", ".join(topology.databases_of(tree))
        typer.confirm(f"Take {names} back to {revision} and lose what came later?", abort=True, err=True)
    try:
        outcomes = run.migrate(topology, chosen, "down", revision, parallel=parallel, report=note)
    except FleetFailed as failed:
        _show_outcomes(options, failed.outcomes)
        raise
    _show_outcomes(options, outcomes)


@app.command()
def drift(context: typer.Context, tree: OnlyTree = None) -> None:
    """List what no migration made, and what a migration made and is gone. Exit status 1 if anything differs.

    A database that does not answer, or whose revision has no frozen schema, is listed as well. Which
    partitions a table has is its policy's business: `mesctl partitions check` compares that.
    """
    options = options_of(context)
    topology = options.topology()
    trees = run.trees_of(options.project(), topology, tree)
    found = [each for one in trees for each in find_drift(topology, one)]
    for each in found:
        at = each.uncompared or f"at {each.revision}, fingerprint {each.fingerprint}"
        note(f"{each.database}: {at}")
    rows = [row for each in found for row in _drift_rows(each)]
    same = "every database is as its migrations make it"
    show_rows(options, rows, empty=same if found else NO_DATABASE)
    if rows:
        raise typer.Exit(ExitStatus.FAILED)


def _drift_rows(found: DatabaseDrift) -> Iterator[dict[str, str | None]]:
    begin = {"database": found.database, "fingerprint": found.fingerprint}
    if found.uncompared:
        yield {**begin, "object": "database", "problem": found.uncompared, "fix": None}
    for difference in found.differences:
        yield {**begin, **difference._asdict()}


@app.command()
def lint(context: typer.Context, tree: OnlyTree = None) -> None:
    """Check the SQL of every revision by squawk's rules and our own; no database is needed.

    Exit status 1 if a rule is broken.
    """
    options = options_of(context)
    project = options.project()
    trees = project.trees.values() if tree is None else [project.tree(tree)]
    rows = [finding._asdict() for each in trees for finding in lint_tree(each)]
    show_rows(options, rows, empty="no revision breaks a rule")
    if rows:
        raise typer.Exit(ExitStatus.FAILED)


@app.command()
def freeze(
    context: typer.Context,
    tree: OnlyTree = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be written; write nothing.")
    ] = False,
) -> None:
    """Write what the revisions make, as it stands in freshly migrated databases, beside the revisions.

    `drift` measures by it. Refused if a database is not at the head, or differs from the others of its tree.
    """
    options = options_of(context)
    topology = options.topology()
    trees = run.trees_of(options.project(), topology, tree)
    adoption.refuse_others(topology, trees)
    own = [
        each for each in trees if each.name in options.project().trees and topology.databases_of(each.name)
    ]
    made = [(each, snapshot.freezable(topology, each)) for each in own]
    rows = []
    for each, content in made:
        file = snapshot.file_of(each, content.revision)
        is_new = not file.exists() or file.read_text(encoding="utf-8") != snapshot.render(content)
        if is_new and not dry_run:
            snapshot.dump_snapshot(each, content)
        rows.append({"tree": each.name, "revision": content.revision, "file": str(file), "changed": is_new})
    show_rows(options, rows, empty=NO_DATABASE)


def _show_outcomes(options: Options, outcomes: Sequence[MigrationOutcome]) -> None:
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
    show_rows(options, rows, empty=NO_DATABASE)


class PhaseRefused(OpsError):
    """A phase of a deployment cannot run on a database."""

    exit_status = ExitStatus.REFUSED

    def __init__(self, database: str, reason: PhaseOrder) -> None:
        self.database = database
        super().__init__(f"{database}: {reason}")


def _pending(state: DatabaseState, phase: Phase | None) -> list[PhasedRevision]:
    if state.unreachable is not None:
        return []
    try:
        return run.pending(state.tree, state.revision, phase=phase)
    except PhaseOrder as reason:
        raise PhaseRefused(state.database, reason) from reason


def _lacking(topology: Topology, state: DatabaseState, phase: Phase | None) -> Iterator[PhasedRevision]:
    """List what `upgrade` would run in a database, in its order."""
    pending = _pending(state, phase)
    yield from run.pending_library(topology, state)
    yield from pending
    yield from run.following_library(topology, state, [each.revision for each in pending])


def _states(topology: Topology, trees: Sequence[ProjectTree]) -> list[DatabaseState]:
    return [state for each in trees for state in read_states(topology, each)]


def _refusals(states: Sequence[DatabaseState]) -> list[DatabaseRefused]:
    return [state.found.refusal for state in states if state.found and not state.found.is_ours]


def _ours(topology: Topology, trees: Sequence[ProjectTree]) -> list[DatabaseState]:
    """Examine the databases, and refuse to go on if one is not its tree's."""
    states = _states(topology, trees)
    if refused := _refusals(states):
        raise DatabasesRefused(refused)
    return states


def _upgrade_script(topology: Topology, state: DatabaseState, phase: Phase | None) -> str:
    """Render what `upgrade` would do in a database."""
    if state.found is None:
        return ""
    lacking = _pending(state, phase)
    # Where the revisions begin with the version table, they mark it themselves.
    schema = run.render_library(topology, state)
    marks = state.found.belonging == "as frozen" or (schema and not lacking)
    begin = (adoption.script(state.found, state.tree) if marks else "") + schema
    if lacking:
        begin += run.render_upgrade(state.tree, lacking[-1].revision, start=state.revision)
        begin += run.render_following(topology, state, [each.revision for each in lacking])
    return begin + run.render_distribution(topology, state.tree)


def _fail_if_any_is_down(states: Sequence[DatabaseState]) -> None:
    down = [state for state in states if state.unreachable is not None]
    for state in down:
        note(f"mesctl: {state.database} cannot be reached: {state.unreachable}")
    if down:
        raise typer.Exit(ExitStatus.FAILED)
