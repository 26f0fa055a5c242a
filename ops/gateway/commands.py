"""`mesctl gateway`: write Envoy's files, prove them, and have a running Envoy take them."""

from dataclasses import asdict
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ops.gateway import envoy
from ops.gateway.model import KIB, Gateway, GatewayRoute, gateway_of, section_of
from ops.gateway.rotation import KEPT, MAX_BYTES
from ops.gateway.rotation import rotate as rotate_log
from ops.options import Options, options_of
from ops.output import note, print_json, show_rows, show_written
from ops.pgbouncer import files

if TYPE_CHECKING:
    from ops.project.project import Project
    from sharding.topology import Topology

app = typer.Typer(help="Write, check and reload the gateway in front of the services.", no_args_is_help=True)

MIB = KIB * KIB

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the files, which Envoy watches.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be written; change nothing.")]


def gateway_for(project: "Project", topology: "Topology") -> Gateway:
    """Return the gateway of a project on a topology.

    Raises:
        NoGateway, GatewayInvalid, TopologyError, ReferenceBroken: it has none, or it is wrong.
    """
    reference = project.file.gateway.routes
    routes: dict[str, tuple[GatewayRoute, ...]] = (
        {} if reference is None else project.resolve("gateway.routes", reference)
    )
    return gateway_of(topology, routes)


def _gateway(options: Options) -> Gateway:
    return gateway_for(options.project(), options.topology())


@app.command()
def render(context: typer.Context, folder: Folder, dry_run: DryRun = False) -> None:
    """Write Envoy's files; what stands already is left alone."""
    options = options_of(context)
    folder = folder.resolve()
    texts = envoy.files_of(_gateway(options), folder)
    changed = files.changes(folder, texts)
    if not dry_run:
        files.write(folder, {name: texts[name] for name in changed})
    if options.json:
        print_json({"changed": sorted(changed)})
    else:
        show_written(folder, changed, dry_run=dry_run)


@app.command()
def routes(context: typer.Context) -> None:
    """List what each door lets in."""
    options = options_of(context)
    rows = [
        {
            "door": door.name,
            "methods": " ".join(route.methods),
            "path": route.path,
            "service": route.service,
            "names": " ".join(door.section.names[route.service]),
            "body_bytes": route.body_bytes,
            "seconds": None if route.is_stream else route.seconds,
        }
        for door in _gateway(options).doors
        for route in door.routes
    ]
    show_rows(options, rows, empty="no door lets anything in")


@app.command()
def check(
    context: typer.Context,
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Compare the Envoy that runs on these files, too.")
    ] = None,
) -> None:
    """Prove what `render` would write: by Envoy itself, and by the dates of the certificates."""
    from ops.gateway import service  # with `cryptography`, which `--help` does without

    options = options_of(context)
    gateway = _gateway(options)
    found = service.certificate_findings(gateway, now=datetime.now(UTC))
    try:
        said = service.validate(gateway, (folder or Path()).resolve(), program=service.find_envoy())
    except service.EnvoyMissing as error:
        note(f"the files are not checked by Envoy: {error}")
    else:
        found += [service.GatewayFinding("files", said)] if said else []
    if folder is not None:
        found += service.RunningGateway(gateway, folder.resolve()).findings()
    show_rows(options, [asdict(each) for each in found], empty="the gateway is what the topology asks for")
    if found:
        raise service.GatewayDiffers(len(found))


@app.command()
def rotate(
    context: typer.Context,
    folder: Folder,
    max_mib: Annotated[int, typer.Option(min=0, help="Leave a smaller log alone.")] = MAX_BYTES // MIB,
    keep: Annotated[int, typer.Option(min=1, help="How many older files stay.")] = KEPT,
) -> None:
    """Begin Envoy's access log anew if it has grown large; no line is lost.

    `mesctl up` starts a process beside Envoy that does so by itself.
    """
    options = options_of(context)
    port = section_of(options.topology()).admin_port
    log = folder.resolve() / envoy.ACCESS_LOG
    try:
        is_done = rotate_log(log, port, max_bytes=max_mib * MIB, kept=keep)
    except (OSError, HTTPException) as error:
        from ops.gateway.service import EnvoySilent

        raise EnvoySilent(port, str(error)) from error
    if options.json:
        print_json({"rotated": [log.name] if is_done else []})
    else:
        print(f"{log.name}: begun anew" if is_done else "nothing to do: it is small")


@app.command()
def reload(context: typer.Context, folder: Folder, dry_run: DryRun = False) -> None:
    """Write what has changed, and wait until the running Envoy has it in force.

    What Envoy refuses is taken back: it goes on with the files of before, and no request fails.
    """
    from ops.gateway import service

    options = options_of(context)
    gateway = _gateway(options)
    folder = folder.resolve()
    if dry_run:
        changed = files.changes(folder, envoy.files_of(gateway, folder))
        print("\n".join(line for lines in changed.values() for line in lines) or "nothing to write")
        return
    if said := service.validate(gateway, folder, program=service.find_envoy()):
        raise service.FilesRefused(said)
    taken = service.RunningGateway(gateway, folder).reload()
    if options.json:
        print_json({"changed": taken})
    else:
        print("\n".join(f"{name}: in force" for name in taken) or "nothing to do: all of it is in force")
