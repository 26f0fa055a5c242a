"""`mesctl migrate`: the schema of every database, by the same migrations as `alembic -n TREE`."""

from collections.abc import Iterator
from typing import Annotated

import typer

from migrations import run
from ops.fleet import connect_line, owner_of
from ops.options import note, options_of
from ops.rows import show_rows
from sharding.topology import Topology, Tree

app = typer.Typer(help="Show and change the schema of every database.", no_args_is_help=True)

# A service's database may be migrated before or after another's: none reads another's.
TREES: tuple[Tree, ...] = ("directory", "shop", "crm", "mes")

OnlyTree = Annotated[Tree | None, typer.Option("--tree", help="Only the databases of this tree.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the SQL for psql; change nothing.")]


@app.command()
def status(context: typer.Context, tree: OnlyTree = None) -> None:
    """Show the revision of every database."""
    options = options_of(context)
    rows = [
        {"database": name, "tree": each, "revision": revision, "head": head, "current": revision == head}
        for each, name, revision in _revisions(options.topology(), tree)
        for head in [run.head(each)]
    ]
    show_rows(options, rows, empty="the topology has no such database")


@app.command()
def plan(context: typer.Context, tree: OnlyTree = None) -> None:
    """List the revisions that each database lacks, in the order in which `upgrade` would run them."""
    options = options_of(context)
    rows = [
        {"database": name, "tree": each, "revision": lacking, "what": what}
        for each, name, revision in _revisions(options.topology(), tree)
        for lacking, what in run.pending(each, revision).items()
    ]
    show_rows(options, rows, empty="nothing to do: every database is at its head")


@app.command()
def upgrade(context: typer.Context, tree: OnlyTree = None, dry_run: DryRun = False) -> None:
    """Bring every database to its newest revision. May be called at any time."""
    options = options_of(context)
    topology = options.topology()
    if dry_run:
        for each, name, revision in _revisions(topology, tree):
            _print_script(topology, name, run.render_upgrade(each, start=revision))
        return
    for each in _chosen(tree):
        note(f"{each}: {', '.join(topology.tree(each)) or 'no database'}")
        run.upgrade(topology, each)
    status(context, tree)


@app.command()
def downgrade(
    context: typer.Context,
    revision: Annotated[str, typer.Argument(help="Where to go back to; `base` drops everything.")],
    tree: Annotated[Tree, typer.Option("--tree", help="The tree whose databases go back.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Take the databases of one tree back to a revision; what came later is dropped, with its data."""
    options = options_of(context)
    topology = options.topology()
    if dry_run:
        for _, name, start in _revisions(topology, tree):
            if start is not None:
                _print_script(topology, name, run.render_downgrade(tree, revision, start=start))
        return
    if not yes:
        names = ", ".join(topology.tree(tree))
        typer.confirm(f"Take {names} back to {revision} and lose what came later?", abort=True, err=True)
    run.downgrade(topology, tree, revision)
    status(context, tree)


def _chosen(tree: Tree | None) -> tuple[Tree, ...]:
    return TREES if tree is None else (tree,)


def _revisions(topology: Topology, tree: Tree | None) -> Iterator[tuple[Tree, str, str | None]]:
    for each in _chosen(tree):
        for name, revision in run.current(topology, each).items():
            yield each, name, revision


def _print_script(topology: Topology, name: str, script: str) -> None:
    database = topology.database(name)
    if script:
        print(f"-- {name}\n{connect_line(topology, database, role=owner_of(database))}{script}")
