"""The table of samples: written once a minute, read back, and never larger than it may be."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError

from ops.monitoring import samples
from ops.monitoring.databases import open_limited
from ops.monitoring.samples import (
    COARSE_KEPT,
    COARSE_SECONDS,
    FINE_KEPT,
    FINE_SECONDS,
    MAX_SERIES,
    SampleWriter,
    choose,
    read_series,
)
from ops.partitions.metrics import Sample
from sharding.topology import Topology

NOW = datetime(2026, 12, 2, 12, 0, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def some(number: int = 3, value: float = 1.0) -> list[Sample]:
    return [
        Sample("mes_storage_database_bytes", {"database": f"base_{each}"}, value) for each in range(number)
    ]


def count(topology: Topology, condition: str = "true") -> int:
    with open_limited(topology, topology.database("directory")) as connection:
        query = f"SELECT count(*) FROM metric_samples WHERE {condition}"
        return int(connection.exec_driver_sql(query, execution_options={"no_parameters": True}).scalar_one())


def fill(topology: Topology, *, since: datetime, until: datetime, step_seconds: int) -> None:
    """Write rows of the past at once."""
    with open_limited(topology, topology.database("directory"), read_only=False) as connection:
        connection.exec_driver_sql(
            "INSERT INTO metric_samples SELECT 'mes_storage_up', at, '{}', 1, %s"
            " FROM generate_series(%s::timestamptz, %s, make_interval(secs => %s)) AS at"
            " ON CONFLICT DO NOTHING",
            (step_seconds, since, until, step_seconds),
        )


def test_what_was_written_is_read_back(topology: Topology) -> None:
    writer = SampleWriter(topology)
    for minutes in range(3):
        now = NOW + minutes * MINUTE
        assert writer.is_due(now)
        assert writer.write(some(2, value=minutes), now=now) == 2
        assert not writer.is_due(now + timedelta(seconds=20))
    series = read_series(topology, ["mes_storage_database_bytes"], since=NOW - MINUTE)
    assert [each.labels for each in series] == [{"database": "base_0"}, {"database": "base_1"}]
    assert [point.value for point in series[0].points] == [0, 1, 2]
    assert series[0].points[0].at == NOW.replace(second=0)
    assert read_series(topology, ["mes_storage_database_bytes"], since=NOW, until=NOW + MINUTE)[0].points
    assert not read_series(topology, ["mes_storage_up"], since=NOW - MINUTE)


def test_two_exporters_write_a_minute_once(topology: Topology) -> None:
    assert SampleWriter(topology).write(some(), now=NOW) == 3
    assert SampleWriter(topology).write(some(), now=NOW + timedelta(seconds=10)) == 0


def test_first_sample_of_each_quarter_is_kept_longer(topology: Topology) -> None:
    writer = SampleWriter(topology)
    for minutes in range(20):
        writer.write(some(1), now=NOW + minutes * MINUTE)
    coarse = f"step_seconds = {COARSE_SECONDS}"
    assert count(topology, coarse) == 2
    assert count(topology, f"{coarse} AND extract(minute FROM at) IN (0, 15)") == 2
    assert count(topology, f"step_seconds = {FINE_SECONDS}") == 18


def test_old_rows_go_in_slices(topology: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "SLICE_ROWS", 100)
    fill(topology, since=NOW - FINE_KEPT - timedelta(hours=10), until=NOW, step_seconds=FINE_SECONDS)
    fill(topology, since=NOW - COARSE_KEPT - timedelta(days=1), until=NOW, step_seconds=COARSE_SECONDS)
    before, writer = count(topology), SampleWriter(topology)
    writer.write(some(1), now=NOW)
    assert 0 < before + 1 - count(topology) <= 2 * samples.SLICES * 100
    for minutes in range(1, 4):
        writer.write(some(1), now=NOW + minutes * MINUTE)
    fine, coarse = (f"step_seconds = {step} AND at <" for step in (FINE_SECONDS, COARSE_SECONDS))
    assert count(topology, f"{fine} '{NOW - FINE_KEPT}'::timestamptz") == 0
    assert count(topology, f"{coarse} '{NOW - COARSE_KEPT}'::timestamptz") == 0
    assert count(topology, f"{fine} '{NOW}'::timestamptz") > 2 * 24 * 60 - 15
    assert count(topology, f"{coarse} '{NOW - FINE_KEPT}'::timestamptz") > 27 * 24 * 4


def test_table_never_has_more_rows_than_it_may(topology: Topology) -> None:
    writer, most = SampleWriter(topology, max_rows=500), 0
    now = NOW
    for _ in range(60):
        writer.write(some(20), now=now)
        most = max(most, count(topology))
        now += MINUTE
    # They are counted once in a quarter of an hour.
    assert most <= 500 + 15 * 20
    assert count(topology, f"step_seconds = {COARSE_SECONDS}") == 4 * 20, "fine ones go first"


def test_clock_that_was_ahead_leaves_nothing_and_stops_nothing(topology: Topology) -> None:
    writer = SampleWriter(topology)
    writer.write(some(1), now=NOW + timedelta(days=400))
    assert writer.is_due(NOW)
    assert writer.write(some(1), now=NOW) == 1
    assert count(topology) == 1


def test_table_that_is_not_there_yet_is_an_error_of_its_own(topology: Topology) -> None:
    with open_limited(topology, topology.database("directory"), read_only=False) as connection:
        connection.exec_driver_sql("DROP TABLE metric_samples")
    with pytest.raises(DBAPIError, match="metric_samples"):
        SampleWriter(topology).write(some(), now=NOW)


def test_topology_without_a_directory_has_no_samples(tmp_path: Path) -> None:
    path = tmp_path / "topology.toml"
    path.write_text(
        '[trees.stock]\nkind = "single"\n[databases.stock]\ntree = "stock"\ndbname = "stock"\n'
        'primary = { host = "127.0.0.1", port = 1 }\n'
    )
    topology = Topology.load(path)
    assert SampleWriter(topology).write(some(), now=NOW) == 0
    assert read_series(topology, ["mes_storage_up"], since=NOW) == []


def names(found: Sequence[Sample]) -> list[str]:
    return [each.name for each in found]


def test_the_projects_own_come_first_and_all_are_bounded() -> None:
    read = [
        Sample("mes_storage_rows", {"database": "crm"}, 1),
        Sample("mes_storage_statement_seconds_total", {"queryid": "1"}, 1),
        Sample("mes_storage_up", {"database": "shop"}, 1),
        Sample("app_orders", {"status": "CLOSED"}, 1),
    ]
    assert names(choose(read)) == ["app_orders", "mes_storage_up", "mes_storage_rows"]
    many = [Sample("mes_storage_rows", {"database": str(each)}, 1) for each in range(2 * MAX_SERIES)]
    chosen = choose([*many, *read])
    assert len(chosen) == MAX_SERIES
    assert names(chosen)[:2] == ["app_orders", "mes_storage_up"]
    own = [Sample("app_orders", {"status": str(each)}, 1) for each in range(2 * MAX_SERIES)]
    both = names(choose([*own, *many]))
    assert both.count("app_orders") == both.count("mes_storage_rows") == MAX_SERIES // 2
