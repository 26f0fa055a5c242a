"""`mesctl pgbouncer`: write the pooler's files, compare a running one with them, hold and release pools."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from psycopg.conninfo import make_conninfo

from ops.options import options_of
from ops.output import note, print_json, show_rows, show_written
from ops.pgbouncer import admin, files
from ops.pgbouncer.check import PoolerFinding
from ops.pgbouncer.errors import Differences
from ops.pgbouncer.plan import explain as explain_plans
from ops.pgbouncer.pooler import Pooler
from ops.pgbouncer.render import PoolerConfig, socket_dir

app = typer.Typer(help="Write, check and steer the pooler in front of the databases.", no_args_is_help=True)

DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done; change nothing.")]

Superuser = Annotated[str, typer.Option(help="The role that reads (`secrets`: stores) SCRAM secrets.")]

ForVersion = Annotated[
    str | None, typer.Option(help="PgBouncer's version; else the topology's, else that of the program here.")
]

MaxConnections = Annotated[
    int | None, typer.Option(min=1, help="max_connections of every server; else each is asked.")
]

Name = Annotated[str | None, typer.Argument(help="A database, a replica, or one pool; all without it.")]


@app.command()
def render(
    context: typer.Context,
    *,
    out: Annotated[Path, typer.Option(help="The folder of pgbouncer.ini, hba.conf and userlist.txt.")],
    explain: Annotated[bool, typer.Option("--explain", help="Show the arithmetic only.")] = False,
    for_version: ForVersion = None,
    max_connections: MaxConnections = None,
    superuser: Superuser = "postgres",
    dry_run: DryRun = False,
) -> None:
    """Write the pooler's files from the topology; what stands already is left alone."""
    options = options_of(context)
    pooler = Pooler(options.topology(), superuser=superuser)
    wanted = pooler.config(pooler.version(for_version), max_connections=max_connections)
    if explain:
        print_json(_arithmetic(wanted)) if options.json else print("\n".join(explain_plans(wanted.plans)))
        return
    texts = pooler.files(wanted, out)
    changed = files.changes(out, texts)
    if not dry_run:
        files.write(out, {name: texts[name] for name in changed})
        _make_socket_dirs(pooler)
    if options.json:
        print_json({"changed": sorted(changed), "servers": _arithmetic(wanted)})
    else:
        show_written(out, changed, dry_run=dry_run)


def _make_socket_dirs(pooler: Pooler) -> None:
    if pooler.section.processes > 1:
        for number in range(1, pooler.section.processes + 1):
            Path(socket_dir(pooler.section, number)).mkdir(parents=True, exist_ok=True)


def _arithmetic(wanted: PoolerConfig) -> list[dict[str, Any]]:
    return [
        {
            "server": str(plan.server),
            **asdict(plan.limits),
            "reserve": plan.reserve,
            "budget": plan.budget,
            "processes": plan.processes,
            "pools": [
                {"pool": sized.pool.entry, "role": sized.pool.role, "size": sized.size}
                for sized in plan.pools
            ],
        }
        for plan in wanted.plans
    ]


SECRETS_HELP = """\
Give every role the same SCRAM secret on all of its servers; no password changes.

PgBouncer logs in to a server with the very secret that is stored there, and knows one for each role.
"""


@app.command(help=SECRETS_HELP)
def secrets(context: typer.Context, superuser: Superuser = "postgres", dry_run: DryRun = False) -> None:
    """Store one SCRAM secret for each role on all of its servers."""
    options = options_of(context)
    changed = Pooler(options.topology(), superuser=superuser).equalise(dry_run=dry_run)
    rows = [
        {"role": role, "server": str(server)}
        for role, servers in sorted(changed.items())
        for server in servers
    ]
    if dry_run and not options.json:
        for row in rows:
            host, port = row["server"].rsplit(":", 1)
            print(_connect(host=host, port=port, dbname="postgres", user=superuser))
            # The secret is made when it is stored; psql asks for it: -v secret=...
            print(f"ALTER ROLE \"{row['role']}\" PASSWORD :'secret';")
        return
    show_rows(options, rows, empty="nothing to do: every role has one secret")


@app.command()
def check(
    context: typer.Context, for_version: ForVersion = None, max_connections: MaxConnections = None
) -> None:
    """Compare the running pooler with what `render` would write, and look for clients that wait."""
    options = options_of(context)
    pooler = Pooler(options.topology())
    wanted = pooler.config(pooler.version(for_version), max_connections=max_connections)
    _show_findings(context, pooler.check(wanted))


def _show_findings(context: typer.Context, findings: list[PoolerFinding]) -> None:
    rows = [asdict(finding) for finding in findings]
    show_rows(options_of(context), rows, empty="the pooler is what the topology asks for; nobody waits")
    if findings:
        raise Differences(len(findings))


@app.command()
def reload(
    context: typer.Context,
    for_version: ForVersion = None,
    max_connections: MaxConnections = None,
    dry_run: DryRun = False,
) -> None:
    """Let the running pooler read its files again, and check what it made of them."""
    pooler = Pooler(options_of(context).topology())
    wanted = pooler.config(pooler.version(for_version), max_connections=max_connections)
    before = pooler.check(wanted)
    if dry_run:
        _print_script(pooler, ["RELOAD"])
        return
    note(f"before: {len(before)} findings")
    for console in pooler.consoles():
        console.run("RELOAD")
    _show_findings(context, pooler.check(wanted))


@app.command()
def pause(
    context: typer.Context,
    name: Name = None,
    timeout_seconds: Annotated[
        float, typer.Option(min=0.1, help="How long open transactions have to end; then all is resumed.")
    ] = 5.0,
    dry_run: DryRun = False,
) -> None:
    """Let no new transaction begin, and wait until the open ones have ended; clients wait, none fails."""
    pooler = Pooler(options_of(context).topology())
    entries = pooler.entries(name)
    if dry_run:
        _print_script(pooler, [admin.statement("PAUSE", entry) for entry in entries])
        return
    admin.pause(pooler.consoles(), entries, timeout_seconds=timeout_seconds)
    limit = pooler.section.query_wait_seconds
    note(f"clients wait for at most {limit:g} s (pgbouncer.query_wait_seconds): resume before")
    _show_entries(context, entries, "paused")


@app.command()
def resume(context: typer.Context, name: Name = None, dry_run: DryRun = False) -> None:
    """Let paused pools go on."""
    pooler = Pooler(options_of(context).topology())
    entries = pooler.entries(name)
    if dry_run:
        _print_script(pooler, [admin.statement("RESUME", entry) for entry in entries])
        return
    _show_entries(context, admin.resume(pooler.consoles(), entries), "resumed")


@app.command()
def reconnect(context: typer.Context, name: Name = None, dry_run: DryRun = False) -> None:
    """Have pools open new connections as transactions end: after a failover behind one name."""
    pooler = Pooler(options_of(context).topology())
    entries = pooler.entries(name)
    if dry_run:
        _print_script(pooler, [admin.statement("RECONNECT", entry) for entry in entries])
        return
    admin.reconnect(pooler.consoles(), entries, timeout_seconds=5)
    _show_entries(context, entries, "reconnecting")


def _show_entries(context: typer.Context, entries: list[str], state: str) -> None:
    rows = [{"pool": entry, "state": state} for entry in entries]
    show_rows(options_of(context), rows, empty="nothing to do")


def _print_script(pooler: Pooler, statements: list[str]) -> None:
    for console in pooler.consoles():
        address = console.address
        print(_connect(host=address.host, port=address.port, dbname=admin.DBNAME, user=address.user))
        print("".join(f"{each};\n" for each in statements), end="")


def _connect(**words: Any) -> str:
    quoted = make_conninfo(**words).replace("\\", "\\\\").replace("'", "''")
    return f"\\connect '{quoted}'"
