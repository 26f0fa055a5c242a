"""The panels of what is stored: shards and partitions."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Engine, text

import partitions
from ops.fleet import Member, attempt, results_of
from ops.monitoring.databases import PREFIX
from ops.options import Options
from ops.pages.content import (
    N_,
    About,
    Block,
    Button,
    Cell,
    Code,
    Panel,
    PanelAction,
    PanelContent,
    PanelRow,
    PanelTable,
    Sentence,
    ShardPart,
    ShardPicture,
    Share,
    Size,
    State,
    Tone,
    tone_of,
    worst,
)
from ops.pages.history import last_rates, plot_of, read_history
from ops.pages.live_panels import errors_of
from ops.partitions.commands import command_of, describe_bound
from ops.partitions.metrics import months_ahead
from ops.partitions.service import apply_partitions, partitioned, run_on_each
from ops.problems.service import first_line
from ops.problems.sources import members_of
from ops.project.project import Project
from ops.shards.service import ShardRow, load_shard_map, look_at_shard, skew
from ops.waiting import answers_of
from partitions.bounds import Month
from partitions.catalog import Catalog
from partitions.check import PartitionFinding
from partitions.policy import MonthlyRange
from sharding.shard_map import ShardMap
from sharding.topology import Topology

PART_SECONDS = 8.0
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
SKEW: Mapping[str, float] = {"ticket": 1.25, "page": 2.0}
"""From where on the rows of the fullest shard, over the mean, are worth a plan of moves."""

BLOAT = 0.2
"""The share of dead rows from which on vacuum is behind."""

_DEAD = text("SELECT relname, n_live_tup AS live, n_dead_tup AS dead FROM pg_stat_user_tables")


def storage_panels(topology: Topology, project: Project) -> list[Panel]:
    """Return the panels that a topology and a project need of these."""
    panels = [_shards_panel(tree) for tree in topology.names_of_kind("sharded") if tree in project.trees]
    if any(member.tree.policies for member in members_of(topology, project)):
        panels.append(_partitions_panel())
    return panels


def _shards_panel(tree: str) -> Panel:
    return Panel(
        name=f"shards-{tree}",
        title=N_("Shards"),
        read=partial(read_shards, tree=tree),
        verb=f"mesctl shards list --tree {tree}",
        group=N_("Storage"),
        every_seconds=30,
        is_wide=True,
    )


def read_shards(options: Options, *, tree: str) -> PanelContent:
    """Read who owns which bucket, and the rows, the size and the load of every shard."""
    topology, project = options.topology(), options.project()
    metrics = (f"{PREFIX}_transactions_total",)
    asked: dict[str, Callable[[], Any]] = {
        "map": lambda: asyncio.run(load_shard_map(topology, tree)),
        "samples": partial(read_history, topology, metrics, span=HOUR),
    }
    first = answers_of(asked, deadline_seconds=PART_SECONDS / 2)
    shard_map, samples = first["map"], first["samples"]
    if isinstance(shard_map, Exception):
        return PanelContent(unreached=errors_of(N_("the shard map"), shard_map), tone="page")
    assert isinstance(shard_map, ShardMap)
    unreached = {N_("samples"): first_line(samples)} if isinstance(samples, Exception) else {}
    series = [] if isinstance(samples, Exception) else samples
    databases = topology.databases_of(tree)
    looks = {
        name: partial(
            attempt, base, partial(look_at_shard, topology, project.tree(tree), shard_map, base, exact=False)
        )
        for name, base in databases.items()
    }
    outcomes = answers_of(looks, deadline_seconds=PART_SECONDS)
    rows: dict[str, ShardRow] = {}
    for name, outcome in outcomes.items():
        if isinstance(outcome, Exception):
            unreached[name] = first_line(outcome)
        elif outcome.result is None:
            unreached[name] = outcome.error or ""
        else:
            rows[name] = outcome.result
    uneven = skew(list(rows.values())) if len(rows) == len(databases) else None
    loads = last_rates(series)
    blocks: list[Block] = [
        ShardPicture(
            tree=tree,
            version=shard_map.version,
            owners=shard_map.owners,
            shards=[_shard_part(name, shard_map, rows.get(name), loads.get(name)) for name in databases],
            skew=uneven,
        ),
        PanelTable(
            columns=(
                *(N_("shard"), N_("address"), N_("buckets"), N_("live rows"), N_("archived rows")),
                *(N_("size"), N_("knows map version")),
            ),
            rows=[_shard_row(row, shard_map) for row in rows.values()],
        ),
        *plot_of(
            N_("Transactions in a second"),
            series,
            metric=f"{PREFIX}_transactions_total",
            label=("database",),
            is_rate=True,
        ),
    ]
    tone: Tone = "right"
    if uneven is not None:
        tone = next((tone for tone in ("page", "ticket") if uneven >= SKEW[tone]), "right")
    return PanelContent(blocks=blocks, unreached=unreached, tone=worst([tone, *_map_tones(rows, shard_map)]))


def _shard_part(name: str, shard_map: ShardMap, row: ShardRow | None, load: float | None) -> ShardPart:
    buckets = shard_map.owners.count(name)
    if row is None:
        return ShardPart(name, buckets, None, None, load)
    return ShardPart(name, buckets, row.live_rows + row.archived_rows, row.bytes, load)


def _shard_row(row: ShardRow, shard_map: ShardMap) -> PanelRow:
    is_behind = row.map_version != shard_map.version
    version = State(str(row.map_version or N_("never")), "page" if is_behind else "")
    numbers: list[Cell] = [row.live_rows, row.archived_rows]
    if not row.exact:
        numbers = [About(row.live_rows), About(row.archived_rows)]
    return PanelRow(
        row.shard,
        (Code(row.shard), Code(row.address), row.buckets, *numbers, Size(row.bytes), version),
        tone="page" if is_behind else "",
        command="mesctl shards init" if is_behind else None,
    )


def _map_tones(rows: Mapping[str, ShardRow], shard_map: ShardMap) -> list[Tone]:
    return ["page" for row in rows.values() if row.buckets and row.map_version != shard_map.version]


def _partitions_panel() -> Panel:
    action = PanelAction(
        name="apply",
        label=N_("Make what is missing"),
        question=N_("Partitions that the policies want are made; the application goes on meanwhile."),
        run=apply_to_tree,
    )
    return Panel(
        name="partitions",
        title=N_("Partitions"),
        read=read_partitions,
        verb="mesctl partitions list",
        group=N_("Storage"),
        every_seconds=60,
        is_wide=True,
        actions=(action,),
    )


def apply_to_tree(options: Options, _viewer: str, tree: str) -> str:
    """Make the partitions of a tree that are missing, as `mesctl partitions apply` does."""
    done = apply_partitions(
        options.topology(), options.project(), now=datetime.now(UTC), tree=tree, max_clock_difference=HOUR
    )
    actions = [
        f"{base.name}: {action.table}: {action.summary}" for base, each in results_of(done) for action in each
    ]
    errors = [f"{each.database.name}: {each.error}" for each in done if each.error]
    return "; ".join([*actions, *errors]) or "nothing to do: every partition stands"


def read_partitions(options: Options) -> PanelContent:
    """Read every partition with its rows and bytes, what is missing, and how many rows are dead."""
    topology, project, now = options.topology(), options.project(), datetime.now(UTC)

    def read(member: Member, engine: Engine) -> tuple[Catalog, dict[str, tuple[int, int]]]:
        with engine.connect() as connection:
            names = [policy.table for policy in member.tree.policies]
            dead = {row.relname: (row.live, row.dead) for row in connection.execute(_DEAD)}
            return partitions.read_catalog(connection, names), dead

    chosen = [each for each in partitioned(topology, project) if each.tree.name in topology.trees]
    outcomes = run_on_each(topology, chosen, read)
    unreached = {each.database.name: each.error for each in outcomes if each.error is not None}
    findings: list[PanelRow] = []
    tables: list[PanelRow] = []
    pieces: list[PanelRow] = []
    for member, outcome in zip(chosen, outcomes, strict=True):
        if outcome.result is None:
            continue
        catalog, dead = outcome.result
        found = partitions.check(member.tree.policies, catalog, now)
        findings += [_finding(member, each) for each in found]
        tables += list(_tables(member, catalog, dead, now))
        pieces += list(_pieces(member, catalog, dead, now))
    blocks: list[Block] = [
        *([PanelTable(columns=(N_("where"), N_("what")), rows=findings)] if findings else []),
        PanelTable(
            columns=(
                *(N_("database"), N_("table"), N_("partitions"), N_("rows"), N_("size")),
                *(N_("dead rows"), N_("months ahead")),
            ),
            rows=tables,
        ),
        PanelTable(
            columns=(N_("partition"), N_("bound"), N_("rows"), N_("size"), N_("dead rows")),
            rows=pieces,
            caption=N_("Every partition, the largest first"),
            shown=0,
        ),
    ]
    pieces.sort(key=lambda row: -_bytes_of(row))
    return PanelContent(
        blocks=blocks,
        unreached=unreached,
        tone=tone_of((*findings, *tables)),
    )


def _bytes_of(row: PanelRow) -> float:
    return next((cell.value for cell in row.cells if isinstance(cell, Size)), 0.0)


def _finding(member: Member, finding: PartitionFinding) -> PanelRow:
    name = member.database.name
    where = finding.partition or finding.table
    tone: Tone = "page" if "in no query" in finding.fault else "ticket"
    command = command_of(finding)
    button = Button("apply", member.tree.name) if command == "mesctl partitions apply" else None
    cells = (Code(f"{name}: {where}"), Sentence(finding.fault))
    return PanelRow(f"{name} {where} {finding.fault}", cells, tone=tone, command=command, button=button)


def _tables(
    member: Member, catalog: Catalog, dead: Mapping[str, tuple[int, int]], now: datetime
) -> Iterator[PanelRow]:
    for policy in member.tree.policies:
        table = catalog[policy.table]
        ahead = None
        if isinstance(policy, MonthlyRange):
            ahead = months_ahead(policy, table, Month.of(now))
        counts = [dead.get(each.name, (0, 0)) for each in table.partitions]
        share = _share(sum(live for live, _ in counts), sum(gone for _, gone in counts))
        yield PanelRow(
            f"{member.database.name} {table.name}",
            (
                Code(member.database.name),
                Code(table.name),
                len(table.partitions),
                About(sum(each.rows or 0 for each in table.partitions)),
                Size(sum(each.size_bytes for each in table.partitions)),
                share,
                ahead,
            ),
            tone="ticket" if ahead is not None and ahead < 1 else "",
        )


def _pieces(
    member: Member, catalog: Catalog, dead: Mapping[str, tuple[int, int]], now: datetime
) -> Iterator[PanelRow]:
    policies = {policy.table: policy for policy in member.tree.policies}
    for table in catalog.values():
        for each in table.partitions:
            live, gone = dead.get(each.name, (0, 0))
            yield PanelRow(
                f"{member.database.name} {each.name}",
                (
                    Code(f"{member.database.name}: {each.name}"),
                    Code(describe_bound(each.bound, policies[table.name], now)),
                    None if each.rows is None else About(each.rows),
                    Size(each.size_bytes),
                    _share(live, gone),
                ),
            )


def _share(live: int, dead: int) -> Cell:
    return Share(dead / (live + dead)) if live + dead else None
