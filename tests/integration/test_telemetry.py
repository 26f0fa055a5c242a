"""What the order system shows by OpenTelemetry: orders through all services, and a real collector."""

import asyncio
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from opentelemetry.trace import get_current_span

from app.kit.telemetry import FRESH, is_kept
from app.mes.intake import cause_of_placing
from app.messaging.tracing import MESSAGE_TYPE, OUTCOME
from app.models.mes import Intake
from app.models.status import Status
from sharding.topology import Topology
from tests.collector import Collector, TakenSpan, collecting
from tests.integration.telemetry_program import KEY, PASSWORD
from tests.needs import require
from tests.order_traces import HANDLED_WITHIN_SECONDS, Found, Killed, follow
from tests.pooler import run_pooler

SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Shown:
    """What a run has shown."""

    orders: Mapping[str, str]
    metrics: str
    spans: list[TakenSpan]
    printed: str
    """What the program has printed before: its log."""

    def of(self, order: str) -> list[TakenSpan]:
        """Return the spans of an order."""
        return [span for span in self.spans if span.order == self.orders[order]]

    def samples(self, name: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Return a metric's samples by their labels."""
        return {
            tuple(sorted(re.findall(r'(\w+)="([^"]*)"', labels))): float(value)
            for found, labels, value in SAMPLE.findall(self.metrics)
            if found == name
        }

    def values(self, name: str, label: str) -> set[str]:
        """Return the values of one label."""
        return {dict(labels)[label] for labels in self.samples(name)}


async def run(topology: Topology, collector: Collector, ratio: float = 1.0) -> Shown:
    """Run the program on a topology's databases."""
    program = ["-m", "tests.integration.telemetry_program"]
    words = [sys.executable, *program, str(topology.path), collector.url, str(ratio)]
    process = await asyncio.create_subprocess_exec(
        *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0
    lines = out.decode().splitlines()
    found = next(json.loads(line) for line in lines if line.startswith('{"orders"'))
    log = "\n".join(line for line in lines if not line.startswith('{"orders"'))
    return Shown(found["orders"], found["metrics"], collector.spans, log)


@pytest.fixture(scope="module")
def whole(module_topology: Topology) -> Shown:
    """Show all of every order."""
    with collecting() as collector:
        shown = asyncio.run(run(module_topology, collector))
        assert {"app.order.created", "http.server.request.duration"} <= collector.metrics
    return shown


def test_an_order_is_found_by_its_id_in_every_service_up_to_its_end(whole: Shown) -> None:
    for order in whole.orders:
        spans = whole.of(order)
        names = {span.name for span in spans}
        assert {"process orders:crm", "price order", "INSERT", "SELECT"} <= names, (order, names)
        channel, ending = order.split()
        found = follow(spans, channel=channel, status=ending.upper())
        assert found.reaches_its_end, (order, found)
        assert not found.lost


def test_an_order_whose_trace_breaks_or_whose_end_is_missing_is_not_whole(whole: Shown) -> None:
    spans = whole.of("B2B closed")
    closed = "process orders:mes", "order.closed"
    # A slow consumer gets a message again, and handles it once.
    unended = [span for span in spans if (span.name, span.facts.get(MESSAGE_TYPE)) != closed]
    priced = [span for span in spans if span.name == "price order"]
    of_order = partial(follow, channel="B2B", status="CLOSED")

    def seen(**other: float) -> Found:
        times = {"CLOSED": 100.0, "SUBMITTED": 100.0, **other}
        killed = Killed("mes", last_seen=101.0, at=101.2)
        return of_order(unended, changed_at=times, killed=killed)

    elsewhere = [replace(span, trace="f" * 32) if span in priced else span for span in spans]
    assert not of_order(elsewhere).reaches_its_end
    assert not of_order(unended).reaches_its_end
    # It was lost with the MES, which was killed, or it was not: that was before its last moment, or after it.
    assert seen().reaches_its_end
    assert len(seen().lost) == 1
    assert not seen(CLOSED=101.0 - HANDLED_WITHIN_SECONDS - 0.1).reaches_its_end
    assert not seen(CLOSED=101.3).reaches_its_end
    # The pricing worker was not.
    rest = [span for span in spans if span not in priced]
    killed = Killed("mes", last_seen=101.0, at=101.2)
    assert not of_order(rest, changed_at={"SUBMITTED": 101.0}, killed=killed).reaches_its_end


@pytest.mark.parametrize("name", ["POST /v1/partners/{partner}/orders", "place"])
def test_a_partners_order_that_is_placed_in_another_trace_is_not_whole(whole: Shown, name: str) -> None:
    spans = whole.of("B2B closed")
    of_order = partial(follow, channel="B2B", status="CLOSED")
    elsewhere = [replace(span, trace="f" * 32) if span.name == name else span for span in spans]
    assert elsewhere != spans
    assert not of_order(elsewhere).reaches_its_end
    assert not of_order([span for span in spans if span.name != name]).reaches_its_end


def test_a_partners_order_is_placed_as_a_part_of_its_request(whole: Shown) -> None:
    for order in ("B2B closed", "B2B cancelled", "B2B rejected"):
        [placing] = [span for span in whole.of(order) if span.name == "place"]
        [request] = [span for span in whole.of(order) if span.name == "POST /v1/partners/{partner}/orders"]
        assert (placing.trace, placing.parent) == (request.trace, request.span)


def test_an_order_that_has_waited_for_long_is_linked_to_its_request() -> None:
    now, request = datetime.now(UTC), f"00-{'1' * 32}-{'2' * 16}-01"
    context, links = cause_of_placing(Intake(traceparent=request, received_at=now - FRESH), now=now)
    assert (format(get_current_span(context).get_span_context().trace_id, "x"), links) == ("1" * 32, [])
    old = Intake(traceparent=request, received_at=now - FRESH - timedelta(seconds=1))
    context, links = cause_of_placing(old, now=now)
    assert not get_current_span(context).get_span_context().is_valid
    assert [format(link.context.trace_id, "x") for link in links] == ["1" * 32]


def test_a_message_is_handled_in_the_trace_of_the_request_that_has_sent_it(whole: Shown) -> None:
    spans = {span.span: span for span in whole.spans}
    closing = next(span for span in whole.of("B2C closed") if span.name.endswith("/close"))
    chain = [span for span in whole.of("B2C closed") if span.trace == closing.trace]
    handled = next(span for span in chain if span.name == "process orders:mes")
    sent = spans[handled.parent]
    assert (sent.name, sent.kind, handled.kind) == ("send orders:mes", "PRODUCER", "CONSUMER")
    assert sent.parent == closing.span
    assert (closing.kind, closing.parent) == ("SERVER", "")
    # The MES passes it on to the Shop.
    assert any(span.name == "process orders:shop" for span in chain)
    facts = {"messaging.system": "redis", "messaging.operation.type": "process", OUTCOME: "handled"}
    assert facts.items() <= handled.facts.items()
    assert handled.facts["messaging.consumer.group.name"] == "mes"


@pytest.mark.parametrize(
    ("order", "maker"),
    [("B2C closed", "process orders:mes"), ("B2B closed", "place")],
)
def test_an_order_is_priced_in_the_trace_of_what_has_made_its_job(
    whole: Shown, order: str, maker: str
) -> None:
    spans = {span.span: span for span in whole.spans}
    attempts = [span for span in whole.of(order) if span.name == "price order"]
    assert attempts
    for attempt in attempts:
        chain = {span.span for span in whole.spans if span.trace == attempt.trace}
        assert attempt.parent in chain
        assert spans[attempt.parent].name == maker
    # What has come of it is there too.
    priced = {span.name for span in whole.spans if span.trace == attempts[-1].trace}
    assert "send orders:crm" in priced


def test_statements_and_commands_are_parts_of_work_and_nothing_is_without_a_cause(whole: Shown) -> None:
    spans = {span.span for span in whole.spans}
    first = [span for span in whole.spans if span.parent not in spans]
    assert {span.kind for span in first} <= {"SERVER", "CONSUMER", "PRODUCER"}, Counter(s.name for s in first)
    systems = {span.facts.get("db.system.name", span.facts.get("db.system")) for span in whole.spans}
    assert {"postgresql", "redis"} <= systems
    said = json.dumps([span.facts for span in whole.spans])
    assert "ada@example.org" not in said
    assert "Sara" not in said


def test_the_child_that_measures_has_a_span_in_the_attempt_to_price(whole: Shown) -> None:
    [attempt] = [span for span in whole.of("B2C closed") if span.name == "price order"]
    children = [span for span in whole.spans if span.trace == attempt.trace and span.name == "measure model"]
    assert all(child.seconds > 0 and child.facts["mes_storage.model.format"] == "stl" for child in children)
    measured = [span for span in whole.spans if span.name == "measure model"]
    assert measured  # the same ring is measured once


def test_each_transition_counts_once_by_the_service_that_decides_it(whole: Shown) -> None:
    found: Counter[tuple[str, str, str]] = Counter()
    for labels, count in whole.samples("app_order_transitions_total").items():
        facts = dict(labels)
        found[facts["from"], facts["to"], facts["channel"]] += int(count)
    for channel in ("B2C", "B2B"):
        assert found["SUBMITTED", "PRICE_CALCULATED", channel] == 2
        assert found["SUBMITTED", "REJECTED", channel] == 1
        assert found["PRICE_CALCULATED", "MANUFACTURING_APPROVED", channel] == 1
        assert found["PRICE_CALCULATED", "CANCELLED", channel] == 1
        assert found["SHIPPED", "CLOSED", channel] == 1
    assert found["FILE_UPLOADED", "SUBMITTED", "B2C"] == 3
    assert found["FILE_UPLOADED", "SUBMITTED", "B2B"] == 0
    created = {dict(labels)["channel"]: n for labels, n in whole.samples("app_order_created_total").items()}
    assert created == {"B2C": 3, "B2B": 3}
    stages = whole.samples("app_order_stage_duration_seconds_count")
    assert stages[("from", "SHIPPED"), ("to", "CLOSED")] == 2


def test_prices_messages_and_pools_are_measured(whole: Shown) -> None:
    prices = whole.samples("app_pricing_duration_seconds_count")
    assert prices[("outcome", "priced"), ("reused", "false")] >= 1
    assert prices[("outcome", "priced"), ("reused", "true")] >= 1
    assert whole.values("app_pricing_duration_seconds_count", "outcome") <= {"priced", "rejected", "failed"}
    assert whole.values("app_messages_sent_total", "destination") == {"shop", "crm", "mes"}
    assert "handled" in whole.values("app_messages_handled_total", "outcome")
    acknowledged = whole.values("app_message_acknowledged_duration_seconds_count", "destination")
    assert acknowledged == {"shop", "crm", "mes"}
    databases = {"shop", "crm", "mes_0", "mes_1"}
    assert databases <= whole.values("app_pool_wait_duration_seconds_count", "database")
    assert databases <= whole.values("app_pool_connections", "database")
    assert whole.values("app_pool_connections", "state") == {"used", "idle"}
    assert whole.samples("app_requests_in_progress") == {(): 0}
    assert whole.samples("app_pricing_running") == {(): 0}


def test_no_label_has_a_value_that_a_client_chooses(whole: Shown) -> None:
    routes = whole.values("http_server_request_duration_seconds_count", "http_route")
    assert "unmatched" in routes
    assert "/v1/orders/{order_id}" in routes
    assert not any(re.search(r"\d{3}", route) for route in routes)
    methods = whole.values("http_server_request_duration_seconds_count", "http_request_method")
    assert methods <= {"GET", "POST", "PUT", "HEAD", "_OTHER"}
    assert "_OTHER" in methods
    assert whole.values("http_server_request_duration_seconds_count", "door") == {"none"}
    transitions = whole.values("app_order_transitions_total", "to")
    assert transitions <= set(Status)
    series = Counter(name for name, _, _ in SAMPLE.findall(whole.metrics))
    assert max(series.values()) < 1000, series.most_common(3)


def test_no_secret_is_in_a_span_a_metric_or_the_log(whole: Shown) -> None:
    assert "request_refused" in whole.printed
    for text in (repr(whole.spans), whole.metrics, whole.printed):
        assert PASSWORD not in text
        assert KEY.rpartition("_")[2] not in text
        assert "eyJ" not in text  # as each token of ours begins


@pytest.mark.long
async def test_statements_through_a_pooler_are_spans_and_are_prepared_as_it_allows(
    topology_path: Path, tmp_path: Path
) -> None:
    pooled = run_pooler(topology_path, tmp_path / "pgbouncer", program=require("pgbouncer"))
    with pooled as running, collecting() as collector:
        shown = await run(running.topology, collector)
    for order in shown.orders:
        channel, ending = order.split()
        found = follow(shown.of(order), channel=channel, status=ending.upper())
        assert found.reaches_its_end, (order, found)
    statements = [span for span in shown.spans if span.facts.get("db.system.name") == "postgresql"]
    assert {span.facts["server.port"] for span in statements} == {running.port}
    assert not [span for span in statements if span.failed]
    # Far more often than psycopg waits before it prepares a statement.
    often = Counter(span.facts["db.query.text"] for span in statements).most_common(1)
    assert often[0][1] > 20


async def test_a_ratio_keeps_or_drops_whole_orders_and_always_keeps_what_failed(topology: Topology) -> None:
    with collecting() as collector:
        shown = await run(topology, collector, ratio=0.5)
    for order, order_id in shown.orders.items():
        spans = shown.of(order)
        if is_kept(order_id, 0.5):
            assert any(span.name == "price order" for span in spans)
            assert any(span.name == "process orders:crm" for span in spans)
        else:
            traces = {span.trace for span in spans}
            for trace in traces:
                assert any(span.failed for span in shown.spans if span.trace == trace), (order, spans)
