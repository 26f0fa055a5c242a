"""The panels of what changes slowly: archives, schemas, and when what is full."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from ops.fleet import Member, attempt, members
from ops.forecast.commands import NO_SAMPLES, read_forecast
from ops.forecast.model import LimitLine
from ops.migrate import run
from ops.migrate.commands import state_row
from ops.monitoring.databases import PREFIX
from ops.options import Options
from ops.pages.content import (
    N_,
    Block,
    Code,
    Figure,
    Figures,
    Panel,
    PanelContent,
    PanelRow,
    PanelTable,
    Sentence,
    Since,
    Size,
    State,
    Tone,
    tone_of,
)
from ops.pages.history import plot_of, read_history
from ops.partitions.archiving import ArchiveState, read_state
from ops.problems.service import first_line
from ops.problems.sources import members_of
from ops.project.project import Project
from ops.waiting import answers_of
from sharding.topology import Topology

PART_SECONDS = 8.0
DAY = timedelta(days=1)


def change_panels(topology: Topology, project: Project) -> list[Panel]:
    """Return the panels that a topology and a project need of these."""
    panels: list[Panel] = []
    if any(member.tree.archives for member in members_of(topology, project)):
        panels.append(
            Panel(
                name="archive",
                title=N_("Archive"),
                read=read_archive,
                verb="mesctl archive status",
                group=N_("Storage"),
                every_seconds=120,
                seconds=20,
            )
        )
    panels += [
        Panel(
            name="migrations",
            title=N_("Migrations"),
            read=read_migrations,
            verb="mesctl migrate status",
            group=N_("Storage"),
            every_seconds=60,
        ),
        Panel(
            name="forecast",
            title=N_("Forecast"),
            read=read_forecasts,
            verb="mesctl forecast",
            group=N_("Storage"),
            every_seconds=300,
            seconds=25,
            is_wide=True,
        ),
    ]
    return panels


def read_archive(options: Options) -> PanelContent:
    """Read what waits for each archive, what is held back and archived, and when rows were moved last."""
    topology, project, now = options.topology(), options.project(), datetime.now(UTC)
    chosen = [member for member in members(topology, project) if member.tree.archives]
    asked: dict[str, Callable[[], Any]] = {
        member.database.name: partial(
            attempt, member.database, partial(_archive_states, topology, member, now)
        )
        for member in chosen
    }
    asked[""] = partial(read_history, topology, (f"{PREFIX}_archive_waiting_rows",), span=2 * DAY)
    answers = answers_of(asked, deadline_seconds=18)
    unreached: dict[str, str] = {}
    rows: list[PanelRow] = []
    samples = answers[""]
    series = [] if isinstance(samples, Exception) else samples
    moved = {
        each.labels.get("database", ""): max(
            (
                after.at
                for before, after in zip(each.points, each.points[1:], strict=False)
                if after.value < before.value
            ),
            default=None,
        )
        for each in series
    }
    for member in chosen:
        name = member.database.name
        outcome = answers[name]
        if isinstance(outcome, Exception):
            unreached[name] = first_line(outcome)
            continue
        if outcome.error is not None:
            unreached[name] = outcome.error
            continue
        rows += [_archive_row(name, archive, state, moved.get(name)) for archive, state in outcome.result]
    columns = (
        *(N_("database"), N_("archive"), N_("waiting"), N_("held back"), N_("archived"), N_("months")),
        N_("rows last moved"),
    )
    plot = plot_of(
        N_("Rows that wait for the archive"),
        series,
        metric=f"{PREFIX}_archive_waiting_rows",
        label=("database",),
    )
    blocks: list[Block] = [PanelTable(columns=columns, rows=rows, empty=N_("no archives")), *plot]
    return PanelContent(blocks=blocks, unreached=unreached, tone=tone_of(rows))


def _archive_states(topology: Topology, member: Member, now: datetime) -> list[tuple[str, ArchiveState]]:
    return [(policy.archive, read_state(topology, member, policy, now)) for policy in member.tree.archives]


def _archive_row(database: str, archive: str, state: ArchiveState, moved: datetime | None) -> PanelRow:
    waiting = state.waiting.rows
    return PanelRow(
        f"{database} {archive}",
        (
            Code(database),
            Code(archive),
            waiting,
            state.waiting.owed,
            sum(state.archived.values()),
            len(state.archived),
            None if moved is None else Since(moved),
        ),
        command="mesctl archive run" if waiting else None,
    )


def read_migrations(options: Options) -> PanelContent:
    """Read the revision of every database, and how the latest run on it ended."""
    topology, project = options.topology(), options.project()
    trees = run.trees_of(project, topology, None)
    asked: dict[str, Callable[[], Any]] = {
        tree.name: partial(lambda each: list(run.read_states(topology, each)), tree) for tree in trees
    }
    answers = answers_of({**asked, "": lambda: run.read_ledger(topology)}, deadline_seconds=PART_SECONDS)
    ledger = answers[""] if not isinstance(answers[""], Exception) else {}
    unreached: dict[str, str] = {}
    rows: list[PanelRow] = []
    for tree in trees:
        states = answers[tree.name]
        if isinstance(states, Exception):
            unreached |= dict.fromkeys(topology.databases_of(tree.name), first_line(states))
            continue
        unreached |= {each.database: each.unreachable for each in states if each.unreachable}
        rows += [_migration_row(state_row(each, ledger)) for each in states if not each.unreachable]
    columns = (N_("database"), N_("tree"), N_("revision"), N_("newest"), N_("state"), N_("latest run"))
    tone = tone_of(rows)
    return PanelContent(
        blocks=[PanelTable(columns=columns, rows=rows, shown=20)], unreached=unreached, tone=tone
    )


def _migration_row(found: Mapping[str, Any]) -> PanelRow:
    is_current = bool(found["current"])
    state = State(N_("current"), "right") if is_current else State(N_("not current"), "ticket")
    names = ("database", "tree", "revision", "head")
    cells = [Code(str(found[name])) if found[name] is not None else None for name in names]
    return PanelRow(
        str(found["database"]),
        (*cells, state, Sentence(str(found["last_run"])) if found["last_run"] else None),
        tone="" if is_current else "ticket",
        command=None if is_current else f"mesctl migrate plan --tree {found['tree']}",
    )


def read_forecasts(options: Options) -> PanelContent:
    """Read when what is full, by the samples of the last month."""
    topology, now = options.topology(), datetime.now(UTC)
    found, has_samples = read_forecast(topology, now=now, history=30 * DAY, horizon=90 * DAY)
    if not has_samples:
        return PanelContent(blocks=[PanelTable(columns=(), rows=[], empty=NO_SAMPLES)], tone="note")
    rows = [_limit_row(line, now) for line in found.limits]
    figures = [
        Figure(f"{line.what} {line.object}".strip(), line.full_at, _limit_tone(line, now))
        for line in found.limits
        if line.full_at is not None and line.what != "months ahead"
    ][:3]
    columns = (N_("what"), N_("of"), N_("now"), N_("limit"), N_("full"), N_("earliest"), N_("latest"))
    blocks: list[Block] = [Figures(figures)] if figures else []
    table = PanelTable(columns=columns, rows=rows, shown=8)
    return PanelContent(blocks=[*blocks, table], tone=tone_of(rows))


def _limit_row(line: LimitLine, now: datetime) -> PanelRow:
    is_bytes = line.what == "disk"
    value, limit = (Size(each) if is_bytes else round(each, 2) for each in (line.value, line.limit))
    tone = _limit_tone(line, now)
    dates = (line.earliest, line.latest) if line.full_at else (None, None)
    return PanelRow(
        f"{line.what} {line.object}",
        (
            line.what,
            Code(line.object),
            value,
            limit if line.limit else None,
            line.full_at if line.full_at and not line.note else Sentence(line.note or "after the horizon"),
            *dates,
        ),
        tone=tone,
        command=line.command if tone and line.command.startswith("mesctl") else None,
    )


def _limit_tone(line: LimitLine, now: datetime) -> Tone:
    if line.full_at is None:
        return ""
    left = line.full_at - now
    # An hour of growth says little about the days to come.
    is_known = line.history_seconds >= DAY.total_seconds()
    if left < 2 * DAY:
        return "page" if is_known else "ticket"
    return "ticket" if is_known and left < 14 * DAY else ""
