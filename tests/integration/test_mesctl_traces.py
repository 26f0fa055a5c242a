"""`mesctl` sends a span of each verb, and of each batch that it archives, where a collector is configured."""

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ops import cli
from ops.errors import ExitStatus
from partitions import Month
from sharding.topology import Topology
from tests.collector import Collector, TakenSpan, collecting
from tests.integration.archive_rig import add_orders, order_ids, shard
from tests.integration.mesctl_rig import Mesctl
from tests.integration.test_telemetry_faults import dead_url

LONG_AGO = datetime.now(UTC) - timedelta(days=100)
IDS = order_ids(5, made=Month.of(LONG_AGO).start + timedelta(days=3))


def runs(collector: Collector) -> list[TakenSpan]:
    return [span for span in collector.spans if not span.parent]


def test_an_order_that_was_archived_is_found_in_the_span_of_its_batch(
    topology: Topology,
    topology_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with shard(topology, "mes_0") as engine, engine.begin() as connection:
        add_orders(connection, IDS, changed_at=LONG_AGO)
    monkeypatch.setenv("MES_STORAGE_LOGS", str(tmp_path))
    with collecting() as collector:
        monkeypatch.setenv("MES_STORAGE_OTLP_ENDPOINT", collector.url)
        said = Mesctl(topology_path, capsys)("archive", "run", "--grace", "5d", "--batch", "3", "--json")
    assert said.json["mes_0"]["orders_done"] == 5
    [run] = runs(collector)
    assert (run.service, run.name, run.failed) == ("mesctl", "mesctl archive run", False)
    assert run.facts["process.exit.code"] == 0
    batches = [span for span in collector.spans if span.parent == run.span]
    assert {span.name for span in batches} == {"archive batch"}
    assert [span.facts["mes_storage.archive.rows.orders_done"] for span in batches] == [3, 2]
    assert {span.facts["mes_storage.database"] for span in batches} == {"mes_0"}
    lines = [json.loads(line) for line in (tmp_path / "archive.log").read_text().splitlines()]
    spans = {span.span: span for span in batches}
    assert sorted(int(line["order"]["id"]) for line in lines) == sorted(IDS)
    for line in lines:
        batch = spans[line["span"]["id"]]
        assert line["trace"]["id"] == batch.trace == run.trace
        first, last = (int(batch.facts[f"mes_storage.archive.{end}"]) for end in ("first", "last"))
        assert first <= int(line["order"]["id"]) <= last


def test_a_run_that_fails_is_sent_whatever_the_ratio(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = str(tmp_path / "missing-secret.toml")
    with collecting() as collector:
        monkeypatch.setenv("MES_STORAGE_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("MES_STORAGE_TRACE_RATIO", "0")
        assert cli.run(["--topology", missing, "partitions", "plan"]) == ExitStatus.USAGE
        assert cli.run(["partitions", "plann"]) == ExitStatus.USAGE
        assert cli.run(["partitions", "plan", "--help"]) == ExitStatus.DONE
        monkeypatch.setenv("MES_STORAGE_TRACE_RATIO", "all")
        assert cli.run(["partitions", "plan", "--help"]) == ExitStatus.USAGE
    assert [span.name for span in collector.spans] == ["mesctl partitions plan", "mesctl partitions"]
    assert all(span.failed and span.facts["process.exit.code"] == 2 for span in collector.spans)
    assert "secret" not in str(collector.spans)
    assert capsys.readouterr().err.endswith("mesctl: MES_STORAGE_TRACE_RATIO must be a number from 0 to 1\n")


@pytest.mark.parametrize("answers", [True, False])
def test_a_collector_that_is_away_or_frozen_holds_up_the_end_for_a_moment_only(
    answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collecting(answers=False) as collector:
        monkeypatch.setenv("MES_STORAGE_OTLP_ENDPOINT", dead_url() if answers else collector.url)
        began = time.monotonic()
        assert cli.run(["partitions", "plan", "--help"]) == ExitStatus.DONE
        assert time.monotonic() - began < 15
        assert collector.asked.is_set() is not answers
