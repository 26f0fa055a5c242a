"""`mesctl doctor`: is everything there that the project names?"""

from dataclasses import asdict
from typing import Annotated

import typer

from ops.project.doctor import check_databases, check_project, check_topology
from ops.errors import ExitStatus
from ops.output import note
from ops.options import options_of
from ops.output import show_rows


def doctor(
    context: typer.Context,
    databases: Annotated[bool, typer.Option(help="Connect to the databases as well.")] = True,
) -> None:
    """Check every reference of the project and every database.

    It imports what the project file names, reads the revisions, compares project and topology, and connects
    to each database as its owner and as its services do. Nothing is changed. Exit status 1 if anything is
    wrong.
    """
    options = options_of(context)
    project = options.project()
    note(f"project: {project.path}")
    findings = list(check_project(project))
    if options.topology_path.exists():
        topology = options.topology()
        note(f"topology: {topology.path}")
        findings += check_topology(project, topology)
        findings += check_databases(topology) if databases else ()
    else:
        note(f"topology: there is no {options.topology_path}; `mesctl up` makes one from a template")

    show_rows(options, [asdict(each) for each in findings], empty="nothing is wrong")
    if findings:
        raise typer.Exit(ExitStatus.FAILED)
