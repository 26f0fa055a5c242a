"""The order system's panels among the DBA's pages: messages, prices, orders that wait, and reads."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from http.client import HTTPConnection
from typing import Any
from uuid import UUID

from prometheus_client.parser import text_string_to_metric_families

from app.console.audit.databases import OrderDatabases
from app.console.dead_letters import LetterFilter, NotDeadLetter, SetAsideMessage, find_letters, retry_letter
from app.console.problems import LIMITS, OrderFigures, Waiting, order_problems, read_figures
from app.kit.errors import AppError
from app.topology import admin_address, services_of
from ops.fleet import Outcome, raise_failures, results_of
from ops.options import Options
from ops.pages.content import (
    N_,
    Block,
    Button,
    Cell,
    Code,
    Figure,
    Figures,
    Panel,
    PanelAction,
    PanelContent,
    PanelRow,
    PanelTable,
    Sentence,
    Share,
    Since,
    State,
    Tone,
    tone_of,
    worst,
)
from ops.pages.history import plot_of, read_history
from ops.pages.live_panels import errors_of
from ops.problems.service import first_line
from ops.waiting import answers_of
from sharding.topology import Topology

PART_SECONDS = 8.0
HISTORY = timedelta(hours=6)
MOST_LETTERS = 50
SCRAPE_SECONDS = 3.0
READS = "readreplica_reads_total"
GROUP = N_("Work")


class AnswerRefused(AppError):
    """A service has answered with an error where its metrics are."""

    def __init__(self, status: int) -> None:
        super().__init__(f"it answered with {status}")


def panels(_topology: Topology) -> Sequence[Panel]:
    """Return the panels of the order system."""
    retry = PanelAction(
        name="retry",
        label=N_("Send again"),
        question=N_("The message is sent again at the relay's next turn, and its attempts are counted anew."),
        run=retry_message,
    )
    return [
        Panel(
            name="messages",
            title=N_("Messages"),
            read=read_messages,
            verb="mesctl orders dead-letters list",
            group=GROUP,
            every_seconds=10,
            is_wide=True,
            actions=(retry,),
        ),
        Panel(
            name="prices",
            title=N_("Prices"),
            read=read_prices,
            verb="mesctl problems",
            group=GROUP,
            every_seconds=10,
        ),
        Panel(
            name="reads",
            title=N_("Reads by reason"),
            read=read_reads,
            verb="mesctl monitoring",
            group=N_("Servers"),
            every_seconds=15,
        ),
    ]


def read_messages(options: Options) -> PanelContent:
    """Read how many messages each database owes, since when, and the dead letters."""
    topology = options.topology()
    databases = OrderDatabases(topology)
    letters: dict[str, Callable[[], Any]] = {
        f"letters {name}": partial(_letters, databases, name) for name in databases.services
    }
    answers = answers_of(
        {**_figure_sources(databases), **letters, "samples": _samples(topology, "app_outbox_messages")},
        deadline_seconds=PART_SECONDS,
    )
    unreached, figures = _figures(databases, answers)
    rows = [row for each in figures for row in _message_rows(each)]
    dead = [
        _letter_row(letter)
        for name in databases.services
        if not isinstance(found := answers[f"letters {name}"], Exception)
        for _, some in results_of(found)
        for letter in some
    ]
    owed = sum(waiting.count for each in figures for waiting in each.owed.values())
    blocks: list[Block] = [
        Figures(
            [
                Figure(N_("messages under way"), owed),
                Figure(N_("dead letters"), sum(w.count for each in figures for w in each.dead.values())),
            ]
        ),
        PanelTable(
            columns=(N_("from"), N_("to"), N_("under way"), N_("the oldest since"), N_("dead letters")),
            rows=rows,
            empty=N_("every message was acknowledged"),
        ),
    ]
    if dead:
        columns = (N_("order"), N_("message"), N_("way"), N_("set aside"), N_("behind it"), N_("why"))
        blocks.append(PanelTable(columns=columns, rows=dead, caption=N_("Dead letters"), shown=8))
    blocks += _plot(answers["samples"], N_("Messages under way"), "app_outbox_messages", "destination")
    return PanelContent(blocks=blocks, unreached=unreached, tone=tone_of((*rows, *dead)))


def _letters(databases: OrderDatabases, name: str) -> list[Outcome[list[SetAsideMessage]]]:
    return find_letters(databases, LetterFilter(source=name), limit=MOST_LETTERS)


def _message_rows(figures: OrderFigures) -> Iterator[PanelRow]:
    name, now = figures.database, figures.now
    for to in sorted({*figures.owed, *figures.dead}):
        owed, dead = figures.owed.get(to), figures.dead.get(to)
        tone: Tone = "" if owed is None else _tone("message not acknowledged, seconds", owed, figures)
        if dead is not None:
            tone = worst([tone, LIMITS["dead letter, seconds"].severity_of(dead.seconds(now)) or "ticket"])
        yield PanelRow(
            f"{name} {to}",
            (
                Code(name),
                Code(to),
                owed.count if owed else 0,
                Since(owed.oldest) if owed else None,
                dead.count if dead else 0,
            ),
            tone=tone,
        )


def _letter_row(letter: SetAsideMessage) -> PanelRow:
    return PanelRow(
        str(letter.message_id),
        (
            Code(str(letter.order_id)),
            Code(letter.type),
            Code(f"{letter.source} → {letter.destination}"),
            Since(letter.set_aside_at),
            letter.behind,
            Code(letter.reason[:300]),
        ),
        tone="ticket",
        command=f"mesctl orders dead-letters retry {letter.message_id}",
        button=Button("retry", str(letter.message_id)),
    )


def retry_message(options: Options, viewer: str, argument: str) -> str:
    """Send a dead letter again, as `mesctl orders dead-letters retry` does; the order's history says who."""
    try:
        message_id = UUID(argument)
    except ValueError:
        raise NotDeadLetter(UUID(int=0), "this is no id of a message") from None
    databases = OrderDatabases(options.topology())
    outcomes = find_letters(databases, LetterFilter(message_id=message_id))
    for _, letters in results_of(outcomes):
        for letter in letters:
            asyncio.run(retry_letter(databases, letter, actor=f"pages: {viewer}"))
            return f"sent again: {letter.type} of order {letter.order_id}"
    raise_failures(outcomes)
    raise NotDeadLetter(message_id, "it was sent again or handled meanwhile")


def read_prices(options: Options) -> PanelContent:
    """Read what waits for a price on each shard, and which orders stand in a status for too long."""
    topology = options.topology()
    databases = OrderDatabases(topology)
    answers = answers_of(
        {**_figure_sources(databases), "samples": _samples(topology, "app_pricing_jobs")},
        deadline_seconds=PART_SECONDS,
    )
    unreached, figures = _figures(databases, answers)
    shards = [each for each in figures if databases.services[each.database] == "mes"]
    rows = [_price_row(each) for each in shards]
    stuck = [_stuck_row(each, where) for each in shards for where in each.stuck]
    waiting = sum(each.unpriced.count for each in shards if each.unpriced)
    blocks: list[Block] = [
        Figures(
            [
                Figure(N_("wait for a price"), waiting),
                Figure(N_("workers are at"), sum(each.held for each in shards)),
            ]
        ),
        PanelTable(
            columns=(
                *(N_("shard"), N_("waiting"), N_("the oldest since"), N_("workers are at")),
                *(N_("most attempts"), N_("of order")),
            ),
            rows=rows,
        ),
    ]
    if stuck:
        columns = (N_("status"), N_("shard"), N_("orders"), N_("the oldest since"))
        blocks.append(
            PanelTable(
                columns=columns,
                rows=stuck,
                caption=N_("Orders that are in a status for longer than they may"),
            )
        )
    blocks += _plot(answers["samples"], N_("Jobs of pricing"), "app_pricing_jobs", "state")
    tone = worst([each.severity for facts in figures for each in order_problems(facts)] or ["right"])
    return PanelContent(blocks=blocks, unreached=unreached, tone=tone)


def _price_row(figures: OrderFigures) -> PanelRow:
    waiting = figures.unpriced
    attempts, order_id = figures.most_attempts or (None, None)
    return PanelRow(
        figures.database,
        (
            Code(figures.database),
            waiting.count if waiting else 0,
            Since(waiting.oldest) if waiting else None,
            figures.held,
            attempts,
            None if order_id is None else Code(str(order_id)),
        ),
        tone="" if waiting is None else _tone("price waited for, seconds", waiting, figures),
    )


def _stuck_row(figures: OrderFigures, stuck: Any) -> PanelRow:
    tone: Tone = LIMITS["orders stuck"].severity_of(stuck.waiting.count) or "ticket"
    count: Cell = stuck.waiting.count
    return PanelRow(
        f"{figures.database} {stuck.status}",
        (State(str(stuck.status), tone), Code(figures.database), count, Since(stuck.waiting.oldest)),
        tone=tone,
        command=f"mesctl orders trace {stuck.order_id}",
    )


def _tone(limit: str, waiting: Waiting, figures: OrderFigures) -> Tone:
    return LIMITS[limit].severity_of(waiting.seconds(figures.now)) or ""


def _figure_sources(databases: OrderDatabases) -> dict[str, Callable[[], Any]]:
    return {name: partial(read_figures, databases, name) for name in databases.services}


def _figures(
    databases: OrderDatabases, answers: Mapping[str, Any]
) -> tuple[dict[str, str], list[OrderFigures]]:
    named = {name: answers[name] for name in databases.services}
    unreached: dict[str, str] = {}
    for name, each in named.items():
        if isinstance(each, Exception):
            unreached |= errors_of(name, each)
    return unreached, [each for each in named.values() if isinstance(each, OrderFigures)]


def _samples(topology: Topology, metric: str) -> Callable[[], Any]:
    return partial(read_history, topology, (metric,), span=HISTORY)


def _plot(samples: Any, title: str, metric: str, label: str) -> Sequence[Block]:
    if isinstance(samples, Exception):
        return [PanelTable(columns=(), rows=[], empty=N_("the samples of the last hours cannot be read"))]
    return plot_of(title, samples, metric=metric, label=("database", label))


def read_reads(options: Options) -> PanelContent:
    """Read from every service where its reads went and why, since it was started."""
    topology = options.topology()
    addresses = {name: admin_address(topology, name) for name in services_of(topology)}
    asked = {name: partial(_scrape, *address) for name, address in addresses.items() if address}
    answers = answers_of(asked, deadline_seconds=PART_SECONDS)
    unreached = {name: first_line(each) for name, each in answers.items() if isinstance(each, Exception)}
    counts: dict[tuple[str, str, str, str], float] = {}
    for name, found in answers.items():
        if not isinstance(found, Exception):
            counts |= {(name, *labels): value for labels, value in found.items()}
    total = sum(counts.values())
    rows = [
        PanelRow(
            " ".join(key),
            (Code(key[0]), Code(key[1]), Code(key[2]), Sentence(key[3]), int(value), Share(value / total)),
        )
        for key, value in sorted(counts.items(), key=lambda each: -each[1])
        if value
    ]
    columns = (N_("service"), N_("database"), N_("node"), N_("reason"), N_("reads"), N_("of all"))
    table = PanelTable(columns=columns, rows=rows, empty=N_("no service has read yet"), shown=8)
    return PanelContent(blocks=[table], unreached=unreached, tone="right")


def _scrape(host: str, port: int) -> Mapping[tuple[str, str, str], float]:
    connection = HTTPConnection(host, port, timeout=SCRAPE_SECONDS)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        if answer.status != 200:
            raise AnswerRefused(answer.status)
        body = answer.read().decode()
    finally:
        connection.close()
    return {
        (sample.labels["cluster"], sample.labels["node"], sample.labels["reason"]): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
        if sample.name == READS
    }
