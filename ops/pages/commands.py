"""`mesctl pages`: the DBA's pages, served on loopback."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ops.errors import ExitStatus, OpsError
from ops.gateway.model import section_of
from ops.options import Options, options_of
from ops.output import print_json, report
from ops.pages.content import Panel, PanelContent
from ops.pages.section import pages_of
from ops.pages.sessions import SessionStore
from ops.ports import LOOPBACK

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from sharding.topology import Topology

app = typer.Typer(help="Serve the DBA's pages, and make a link that opens them.", no_args_is_help=True)

OWN_NAMES = ("localhost", "127.0.0.1", "::1")


class PagesMissing(OpsError):
    """The extra with Starlette, Jinja2 and Babel is not installed."""

    def __init__(self, module: str) -> None:
        super().__init__(f"{module} is not installed: install the extra, mesctl[pages]")


class NoPagesPort(OpsError):
    """Neither the topology nor the person says where the pages listen."""

    exit_status = ExitStatus.USAGE

    def __init__(self) -> None:
        super().__init__("no port: write [pages] port = 9188 into the topology, or give --port")


Port = Annotated[int | None, typer.Option(min=1, max=65535, help="Else that of [pages] in the topology.")]


@app.callback()
def pages() -> None:
    """Serve the DBA's pages, and make a link that opens them."""


@app.command()
def serve(
    context: typer.Context,
    port: Port = None,
    host: Annotated[str, typer.Option(help="The address at which it listens.")] = LOOPBACK,
    check: Annotated[bool, typer.Option("--check", help="Only say whether they can be served.")] = False,
) -> None:
    """Serve the pages until SIGTERM or Ctrl-C.

    Each panel shows what a verb of mesctl shows. It is read while somebody looks, by itself and with a
    deadline of its own: a server that does not answer hides nothing of the others.
    """
    options = options_of(context)
    topology = options.topology()
    chosen = port_of(topology, port)
    try:
        import uvicorn

        application = make_app(options, port=chosen)
    except ModuleNotFoundError as fault:
        raise PagesMissing(str(fault.name)) from fault
    if check:
        report(options, {"host": host, "port": chosen}, f"the pages can be served at {host}, port {chosen}")
        return
    config = uvicorn.Config(
        application,
        host=host,
        port=chosen,
        log_level="warning",
        access_log=False,
        server_header=False,
        forwarded_allow_ips=proxies_of(topology),
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run()


@app.command()
def link(context: typer.Context, port: Port = None) -> None:
    """Print a link that opens the pages once, within a day: for who has no login, or when none works."""
    options = options_of(context)
    url = make_link(options.home, port_of(options.topology(), port))
    if options.json:
        print_json({"url": url})
    else:
        print(url)


def port_of(topology: "Topology", named: int | None) -> int:
    """Return the port of the pages.

    Raises:
        NoPagesPort: there is none.
    """
    port = named or pages_of(topology).port
    if port is None:
        raise NoPagesPort
    return port


def proxies_of(topology: "Topology") -> list[str]:
    """Return the addresses of proxies that are believed: those of loopback, and the gateway's own."""
    source = section_of(topology).source if "gateway" in topology.sections else None
    return ["127.0.0.1", "::1", *([source] if source else [])]


def make_link(home: Path, port: int) -> str:
    """Make a link. The token stands behind #: no server, log or proxy gets it on its way."""
    return f"http://localhost:{port}/open#{SessionStore(home / 'pages').make_link()}"


def make_app(options: Options, *, port: int) -> "ASGIApp":
    """Make the application that serves the pages of a platform.

    Raises:
        ReferenceBroken: what the project adds cannot be imported.
    """
    from ops.pages.reading import PanelBoard
    from ops.pages.site import Site

    topology, project = options.topology(), options.project()
    section, entry = pages_of(topology), project.file.pages
    access = project.resolve("pages.access", entry.access)(topology) if entry.access else None
    site = Site(
        options,
        PanelBoard(options, panels_of(options), failed=_failed),
        SessionStore(options.home / "pages"),
        access=access,
        title=section.title or project.root.name,
        hosts=(*OWN_NAMES, *section.names),
        port=port,
        catalogues=[project.root / entry.catalogues] if entry.catalogues else [],
    )
    return site.app()


def panels_of(options: Options) -> Sequence[Panel]:
    """Return all panels by their groups; of a group those that are wide come first."""
    from ops.pages.change_panels import change_panels  # with SQLAlchemy, as all that reads databases
    from ops.pages.live_panels import live_panels
    from ops.pages.storage_panels import storage_panels

    topology, project = options.topology(), options.project()
    reference = project.file.pages.panels
    own: Iterable[Panel] = project.resolve("pages.panels", reference)(topology) if reference else ()
    found = [
        *live_panels(topology),
        *own,
        *storage_panels(topology, project),
        *change_panels(topology, project),
    ]
    groups = {panel.group: place for place, panel in reversed(list(enumerate(found)))}
    return sorted(found, key=lambda panel: (groups[panel.group], not panel.is_wide))


def _failed(panel: Panel, error: Exception) -> PanelContent:
    from ops.pages.live_panels import errors_of

    return PanelContent(unreached=errors_of(panel.title, error), tone="page")
