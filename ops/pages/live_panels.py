"""The panels of what happens now: problems, replicas, sessions and locks, units in doubt, and pools."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from ops.fleet import DatabasesFailed
from ops.monitoring.databases import PREFIX
from ops.options import Options
from ops.pages.content import (
    N_,
    Block,
    Button,
    Code,
    Figure,
    Figures,
    Panel,
    PanelAction,
    PanelContent,
    PanelRow,
    PanelTable,
    ProblemList,
    Seconds,
    Since,
    Size,
    State,
    Tone,
    tone_of,
    worst,
)
from ops.pages.history import failovers_of, lag_plot, read_history
from ops.pgbouncer import admin
from ops.pgbouncer.pooler import Pooler
from ops.problems.service import LIMITS, DatabaseFacts, Limit, first_line, node_problems, ranked
from ops.problems.sources import find_problems, read_facts, reading
from ops.replicas.nodes import NodeRow, NodeWatcher
from ops.shards.in_doubt import end, look
from ops.waiting import answers_of
from sharding.topology import Database, Topology
from sharding.writes.in_doubt import SAFE_AGE_SECONDS, InDoubt, RecoveryAction, Survey

PART_SECONDS = 8.0
"""How long the servers of a panel have together: a little less than the panel itself."""

SAFE_AGE = timedelta(seconds=SAFE_AGE_SECONDS)
HISTORY = timedelta(hours=6)


def live_panels(topology: Topology) -> list[Panel]:
    """Return the panels that a topology needs of these."""
    panels = [
        Panel(
            name="problems",
            title=N_("Problems"),
            read=read_problems,
            verb="mesctl problems",
            every_seconds=10,
            seconds=11,
            is_wide=True,
        )
    ]
    if any(database.replicas for database in topology.databases.values()):
        panels.append(
            Panel(
                name="replicas",
                title=N_("Replicas"),
                read=ReplicaReader(),
                verb="mesctl replicas lag",
                group=N_("Servers"),
                every_seconds=5,
            )
        )
    panels.append(
        Panel(
            name="sessions",
            title=N_("Sessions and locks"),
            read=read_sessions,
            verb="mesctl problems",
            group=N_("Servers"),
            every_seconds=5,
        )
    )
    if topology.names_of_kind("sharded"):
        panels.append(_in_doubt_panel())
    if topology.pgbouncer is not None:
        panels.append(_pools_panel())
    return panels


def read_problems(options: Options) -> PanelContent:
    """Read what is wrong, as `mesctl problems` shows it."""
    found = ranked(find_problems(options))
    return PanelContent(blocks=[ProblemList(found)], tone=worst([each.severity for each in found]) or "right")


class ReplicaReader:
    """Reads the nodes of every database; what it saw at the last reading dates what it sees now."""

    def __init__(self) -> None:
        self._watcher: NodeWatcher | None = None
        self._topology: Topology | None = None

    def __call__(self, options: Options) -> PanelContent:
        """Read the nodes of all databases side by side, and the lag of the last hours."""
        topology = options.topology()
        names = [name for name, database in sorted(topology.databases.items()) if database.replicas]
        if self._watcher is None or topology != self._topology:
            self._watcher, self._topology = NodeWatcher(topology, names), topology
        watcher = self._watcher
        looks = {name: partial(_look_at_nodes, watcher, topology.database(name)) for name in names}
        history = partial(
            read_history, topology, (f"{PREFIX}_replica_lag_seconds", f"{PREFIX}_up"), span=HISTORY
        )
        asked: dict[str, Callable[[], list[Any]]] = {**looks, "": history}
        answers = answers_of(asked, deadline_seconds=PART_SECONDS)
        unreached, rows = _split({name: answers[name] for name in names})
        table = PanelTable(
            columns=(N_("database"), N_("node"), N_("state"), N_("behind"), N_("WAL behind"), N_("timeline")),
            rows=[_node_row(row) for row in rows],
            empty=N_("no database has a replica"),
        )
        blocks: list[Block] = [table]
        series = answers[""]
        if isinstance(series, Exception):
            unreached[N_("samples")] = first_line(series)
        else:
            blocks += lag_plot(series)
            blocks += failovers_of(series)
        tones: list[Tone] = [each.severity for each in node_problems(rows)]
        return PanelContent(blocks=blocks, unreached=unreached, tone=worst(tones) or "right")


def _look_at_nodes(watcher: NodeWatcher, database: Database) -> list[NodeRow]:
    return list(watcher.judge(database, watcher.observe(database)))


def _node_row(row: NodeRow) -> PanelRow:
    is_right = row.role == "primary" or (row.role == "replica" and row.state == "serves reads")
    tone: Tone = "right" if is_right else "page" if row.role in {"rival", "-"} else "ticket"
    lag = row.lag_seconds
    return PanelRow(
        f"{row.database} {row.node}",
        (
            Code(row.database),
            Code(row.node),
            State(row.state, tone),
            None if lag is None else Seconds(lag),
            None if row.lag_bytes is None else Size(row.lag_bytes),
            row.timeline,
        ),
        tone="" if is_right else tone,
        command=None if is_right else f"mesctl replicas lag {row.database}",
    )


def read_sessions(options: Options) -> PanelContent:
    """Read the open transactions of every database, who waits for a lock, and who holds it."""
    topology = options.topology()
    asked = {name: partial(_facts, topology, base) for name, base in topology.databases.items()}
    answers = answers_of(asked, deadline_seconds=PART_SECONDS)
    unreached = {name: first_line(each) for name, each in answers.items() if isinstance(each, Exception)}
    facts = [each for each in answers.values() if isinstance(each, DatabaseFacts)]
    waits = [row for each in facts for row in _waits(each)]
    open_rows = sorted(
        (pair for each in facts for pair in _transactions(each)), key=lambda pair: pair[0], reverse=True
    )
    columns = (N_("waits"), N_("for"), N_("held by"), N_("since"))
    sessions = (N_("database"), N_("session"), N_("role"), N_("application"), N_("state"), N_("since"))
    rows = [row for _, row in open_rows]
    return PanelContent(
        blocks=[
            Figures(_session_figures(facts)),
            PanelTable(columns=columns, rows=waits, empty=N_("no session waits for a lock")),
            PanelTable(
                columns=sessions,
                rows=rows,
                empty=N_("no transaction is open"),
                caption=N_("Open transactions, the longest first"),
                shown=6,
            ),
        ],
        unreached=unreached,
        tone=tone_of((*waits, *rows)),
    )


def _facts(topology: Topology, database: Database) -> DatabaseFacts:
    with reading(topology, database, role=database.owner) as connection:
        return read_facts(connection, topology, database)


def _session_figures(facts: Sequence[DatabaseFacts]) -> list[Figure]:
    fullest = max(facts, key=lambda each: each.connections / max(1, each.connections_max), default=None)
    figures = [
        Figure(N_("open transactions"), sum(len(each.transactions) for each in facts)),
        Figure(N_("waits for locks"), sum(len(each.lock_waits) for each in facts)),
    ]
    if fullest is not None:
        share = fullest.connections / max(1, fullest.connections_max)
        tone: Tone = LIMITS["connections used, share"].severity_of(share) or ""
        shown = f"{fullest.connections} / {fullest.connections_max}"
        figures.append(Figure(N_("most connections used"), Code(f"{shown} ({fullest.name})"), tone))
    return figures


def _waits(facts: DatabaseFacts) -> Iterator[PanelRow]:
    for wait in facts.lock_waits:
        tone = _tone(LIMITS["lock waited for, seconds"], facts.now, wait.began)
        first = next((pid for pid in wait.blockers if pid > 0), None)
        command = f'{facts.psql} -c "SELECT pg_terminate_backend({first})"' if first else None
        yield PanelRow(
            f"{facts.name} {wait.pid}",
            (
                Code(f"{facts.name} {wait.pid} ({wait.role})"),
                Code(wait.relation) if wait.relation else N_("a row"),
                Code(", ".join(map(str, wait.blockers))),
                Since(wait.began),
            ),
            tone=tone,
            command=command if tone else None,
        )


def _transactions(facts: DatabaseFacts) -> Iterator[tuple[timedelta, PanelRow]]:
    kinds = {"idle in transaction": "idle", "idle in transaction (aborted)": "idle", "prepared": "prepared"}
    for each in facts.transactions:
        tone = _tone(LIMITS[f"transaction {kinds.get(each.state, 'open')}, seconds"], facts.now, each.began)
        cells = (Code(facts.name), Code(each.name), Code(each.role), Code(each.application))
        state = State(each.state, tone)
        row = PanelRow(f"{facts.name} {each.name}", (*cells, state, Since(each.began)), tone=tone)
        yield facts.now - each.began, row


def _tone(limit: Limit, now: datetime, since: datetime) -> Tone:
    return limit.severity_of((now - since).total_seconds()) or ""


def _in_doubt_panel() -> Panel:
    action = PanelAction(
        name="resolve",
        label=N_("End as decided"),
        question=N_("The unit is ended on all its shards as it was decided, and aborted if nothing was."),
        run=resolve_units,
    )
    return Panel(
        name="in-doubt",
        title=N_("Units in doubt"),
        read=read_in_doubt,
        verb="mesctl shards in-doubt list",
        group=N_("Work"),
        every_seconds=15,
        seconds=14,
        actions=(action,),
    )


def read_in_doubt(options: Options) -> PanelContent:
    """Read the prepared transactions of every sharded tree, and what is to be done with each."""
    topology = options.topology()
    trees = [name for name in topology.names_of_kind("sharded") if topology.trees[name].backend != "citus"]
    answers = answers_of({tree: partial(_survey, topology, tree) for tree in trees}, deadline_seconds=13)
    rows: list[PanelRow] = []
    unreached: dict[str, str] = {}
    for tree, answer in answers.items():
        if isinstance(answer, Exception):
            unreached |= errors_of(tree, answer)
            continue
        unreached |= answer.unreachable
        rows += [_unit_row(tree, each) for each in answer.found]
        rows += [_lost_row(tree, unit) for unit in answer.lost]
    columns = (N_("shard"), N_("transaction"), N_("decided"), N_("since"), N_("locks"), N_("who waits"))
    table = PanelTable(columns=columns, rows=rows, empty=N_("no transaction is prepared"))
    return PanelContent(blocks=[table], unreached=unreached, tone=tone_of(rows))


def _survey(topology: Topology, tree: str) -> Survey:
    return asyncio.run(look(topology, tree, (), older_than=SAFE_AGE))


def _unit_row(tree: str, each: InDoubt) -> PanelRow:
    part = each.prepared
    tone: Tone = LIMITS["transaction prepared, seconds"].severity_of(part.age_seconds) or ""
    is_ours = each.verdict not in {RecoveryAction.WAIT, RecoveryAction.FOREIGN}
    return PanelRow(
        part.gid,
        (
            Code(part.shard),
            Code(part.gid),
            State(each.verdict.value, tone),
            Since(part.prepared_at),
            Code(", ".join(part.locks)),
            len(part.waiting_pids),
        ),
        tone=tone,
        command=f"mesctl shards in-doubt resolve --tree {tree} {part.gid}" if is_ours else None,
        button=Button("resolve", f"{tree} {part.gid}") if is_ours else None,
    )


def _lost_row(tree: str, unit: Any) -> PanelRow:
    cells = (Code(", ".join(unit.shards)), Code(unit.unit_id), State(N_("lost"), "page"))
    command = f"mesctl shards in-doubt close --tree {tree} {unit.unit_id}"
    return PanelRow(unit.unit_id, (*cells, Seconds(unit.age_seconds), "", 0), tone="page", command=command)


def resolve_units(options: Options, _viewer: str, argument: str) -> str:
    """End the unit of a prepared transaction, as `mesctl shards in-doubt resolve` does."""
    tree, _, gid = argument.partition(" ")
    _, ended = asyncio.run(end(options.topology(), tree, [gid], older_than=SAFE_AGE))
    done = [f"{each.prepared.shard}: {each.error or each.verb.value.lower()}" for each in ended]
    return "; ".join(done) or "nothing was to be done"


def _pools_panel() -> Panel:
    action = PanelAction(
        name="resume",
        label=N_("Resume"),
        question=N_("Clients of the pool that wait go on."),
        run=resume_pool,
    )
    return Panel(
        name="pools",
        title=N_("Pools"),
        read=read_pools,
        verb="mesctl pgbouncer check",
        group=N_("Servers"),
        every_seconds=5,
        actions=(action,),
    )


def read_pools(options: Options) -> PanelContent:
    """Read the pools of every process of the pooler."""
    consoles = Pooler(options.topology()).consoles()
    asked = {str(console.address): partial(_pool_rows, console) for console in consoles}
    unreached, rows = _split(answers_of(asked, deadline_seconds=PART_SECONDS))
    columns = (
        N_("pool"),
        N_("role"),
        N_("state"),
        N_("active"),
        N_("waiting"),
        N_("longest wait"),
        N_("size"),
    )
    return PanelContent(
        blocks=[PanelTable(columns=columns, rows=rows, empty=N_("no pool"))],
        unreached=unreached,
        tone=tone_of(rows),
    )


def _pool_rows(console: admin.Console) -> list[PanelRow]:
    entries = {str(row["name"]): row for row in console.show("DATABASES")}
    return [
        _pool_row(row, entries.get(str(row["database"]), {}))
        for row in console.show("POOLS")
        if row["database"] != admin.DBNAME
    ]


def _pool_row(row: admin.Row, entry: admin.Row) -> PanelRow:
    name, is_paused = str(row["database"]), admin.is_paused(entry)
    waited = _number(row, "maxwait") + _number(row, "maxwait_us") / 1e6
    tone: Tone = "page" if waited >= 10 else "ticket" if is_paused or waited >= 1 else ""
    return PanelRow(
        f"{name} {row['user']}",
        (
            Code(name),
            Code(str(row["user"])),
            State(N_("paused"), "ticket") if is_paused else State(N_("runs"), "right"),
            int(_number(row, "sv_active")),
            int(_number(row, "cl_waiting")),
            Seconds(waited),
            int(_number(entry, "pool_size")),
        ),
        tone=tone,
        command=f"mesctl pgbouncer resume {name}"
        if is_paused
        else "mesctl pgbouncer check"
        if tone
        else None,
        button=Button("resume", name) if is_paused else None,
    )


def resume_pool(options: Options, _viewer: str, argument: str) -> str:
    """Let a paused pool go on, as `mesctl pgbouncer resume` does."""
    pooler = Pooler(options.topology())
    resumed = admin.resume(pooler.consoles(), pooler.entries(argument))
    return f"resumed: {', '.join(resumed)}" if resumed else "nothing to do"


def _number(row: Mapping[str, object], key: str) -> float:
    return float(str(row.get(key) or 0))


def _split(answers: Mapping[str, Any]) -> tuple[dict[str, str], list[Any]]:
    """Return what could not be read, with the reasons, and the rows of the others."""
    unreached: dict[str, str] = {}
    rows: list[Any] = []
    for name, answer in answers.items():
        if isinstance(answer, Exception):
            unreached |= errors_of(name, answer)
        else:
            rows += answer
    return unreached, rows


def errors_of(name: str, error: Exception) -> Mapping[str, str]:
    """Return what an error says could not be reached, each with its reason in a line."""
    if isinstance(error, DatabasesFailed):
        return {base: why or "" for base, why in error.errors.items()}
    return {name: first_line(error)}
