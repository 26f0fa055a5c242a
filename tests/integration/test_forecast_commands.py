"""`mesctl forecast` on the table of samples: what it reads, what it prints, and what it does not guess."""

from datetime import UTC, datetime, timedelta

import pytest

from ops.errors import ExitStatus
from ops.monitoring.databases import open_limited
from sharding.topology import Topology
from tests.integration.forecast_growth import grow
from tests.integration.mesctl_rig import Mesctl

SERIES = """
    INSERT INTO metric_samples (metric, at, labels, value, step_seconds)
    SELECT metric, at, labels::jsonb,
           base + by_hour * extract(epoch FROM at - %(since)s::timestamptz) / 3600, %(step)s
    FROM generate_series(%(since)s::timestamptz, %(until)s, make_interval(secs => %(step)s)) AS at, (VALUES
        ('mes_storage_disk_bytes', '{"database": "mes_0", "node": "primary"}', 1e11, 0),
        ('mes_storage_disk_free_bytes', '{"database": "mes_0", "node": "primary"}', 8e10, -1e8),
        ('mes_storage_database_bytes', '{"database": "mes_0"}', 1e10, 1e8),
        ('mes_storage_partitions_months_ahead', '{"database": "mes_0", "table": "orders_archive"}', 3, 0),
        ('app_orders', '{"database": "shop", "status": "CLOSED"}', 1000, 60)
    ) AS series (metric, labels, base, by_hour)
"""


@pytest.fixture
def mesctl(topology: Topology, capsys: pytest.CaptureFixture[str]) -> Mesctl:
    return Mesctl(topology.path, capsys)


def fill(topology: Topology, *, hours: float, step: int) -> datetime:
    """Write samples of the last hours; return the moment of the last one."""
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    values = {"since": now - timedelta(hours=hours), "until": now, "step": step}
    with open_limited(topology, topology.database("directory"), read_only=False) as connection:
        connection.exec_driver_sql(SERIES, values)
    return now


@pytest.mark.parametrize(("hours", "step"), [(3.0, 60), (20 * 24.0, 900)])
def test_date_of_the_full_disk_is_said_with_its_range(
    topology: Topology, mesctl: Mesctl, hours: float, step: int
) -> None:
    now = fill(topology, hours=hours, step=step)
    said = mesctl("forecast", "--json")
    assert said.status == ExitStatus.DONE, said.err
    lines = {line["what"]: line for line in said.json["limits"]}
    expected = now + timedelta(hours=(8e10 - hours * 1e8) / 1e8)
    for key in ("earliest", "full_at", "latest"):
        assert abs(datetime.fromisoformat(lines["disk"][key]) - expected) < timedelta(hours=10)
    assert lines["disk"]["command"].startswith("mesctl archive run")
    assert datetime.fromisoformat(lines["months ahead"]["full_at"]).day == 1
    growth = {line["what"]: line for line in said.json["growth"]}
    assert growth["app orders"]["per_day"] == pytest.approx(1440, rel=0.02)
    assert growth["bytes"]["at_horizon"] == pytest.approx(1e10 + (hours + 90 * 24) * 1e8, rel=0.02)
    printed = mesctl("forecast")
    assert f"{expected:%Y-%m-%d}" in printed.out
    assert "mesctl partitions apply" in printed.out
    near = mesctl("forecast", "--horizon", "2d", "--json").json["limits"]
    assert [line["note"] for line in near if line["what"] == "disk"] == ["after the horizon"]


def test_too_little_is_said_and_not_guessed(topology: Topology, mesctl: Mesctl) -> None:
    assert "no samples" in mesctl("forecast").out
    assert mesctl("forecast", "--json").json["limits"] == []
    fill(topology, hours=0.2, step=60)
    [disk] = [line for line in mesctl("forecast", "--json").json["limits"] if line["what"] == "disk"]
    assert disk["full_at"] is None
    assert disk["note"].startswith("too little history: 13 samples over 12 min")
    assert "too little history" in mesctl("forecast").out
    assert mesctl("forecast", "--horizon", "soon").status == ExitStatus.USAGE


def test_growth_of_a_real_database_is_foreseen(topology: Topology) -> None:
    found = grow(topology, orders_an_hour=100, every_hours=3, seed=1)
    assert {each.metric for each in found} == {"app_orders", "mes_storage_rows", "mes_storage_database_bytes"}
    assert all(each.actual_hours > 40 for each in found)
    assert max(each.error for each in found) <= 0.2, found
