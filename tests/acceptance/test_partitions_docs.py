"""What docs/how-to/partitions.md and archive.md show in Python is run, up to an archived payment."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.pool import NullPool

from partitions import Month, apply, check, read_catalog
from partitions.archive import move
from sharding.topology import Topology
from tests.acceptance.test_docs import ROOT, fenced

NOW = datetime(2026, 12, 2, 12, tzinfo=UTC)


def declared() -> dict[str, Any]:
    """Run the blocks of both pages, which follow each other."""
    scope: dict[str, Any] = {"__name__": "pages"}
    for name in ("partitions.md", "archive.md"):
        for block in fenced(ROOT / "docs" / "how-to" / name, "python"):
            exec(compile(block, name, "exec"), scope)
    return scope


def make_tables(engine: Engine, scope: dict[str, Any]) -> None:
    """Do what the team's first revision does: the tables, and the partitions of the LIST policy."""
    metadata, live = scope["Base"].metadata, scope["LIVE"]
    metadata.create_all(
        engine, tables=[table for name, table in metadata.tables.items() if name not in live.groups]
    )
    with engine.begin() as connection:
        for name, values in live.groups.items():
            listed = ", ".join(f"'{value}'" for value in sorted(values))
            connection.execute(text(f"CREATE TABLE {name} PARTITION OF payments FOR VALUES IN ({listed})"))
            for index in metadata.tables[name].indexes:
                index.create(connection, checkfirst=True)


def test_months_are_made_and_a_payment_is_archived_with_its_events(topology: Topology) -> None:
    scope = declared()
    mes_0 = topology.databases["mes_0"]
    engine = create_engine(topology.url("mes_0", role=mes_0.owner), poolclass=NullPool)
    make_tables(engine, scope)
    made = [action.table for action in apply(engine, scope["POLICIES"], NOW, since=Month(2026, 11))]
    assert {"payments_archive", "payment_events_archive"} <= set(made)
    with engine.begin() as connection:
        findings = check(
            scope["POLICIES"], read_catalog(connection, [each.table for each in scope["POLICIES"]]), NOW
        )
        assert findings == []
        connection.execute(
            text(
                "INSERT INTO payments VALUES (1, 'PAID', '2026-11-01', '2026-11-01'),"
                " (2, 'PAID', now(), now())"
            )
        )
        connection.execute(text("INSERT INTO payment_events VALUES (10, 1, 'paid'), (11, 2, 'paid')"))
    assert move(engine, scope["ARCHIVE"], NOW) == {"payments_done": 1, "payment_events": 1}
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT payment_id, created_at FROM payment_events_archive"))
        assert [tuple(row) for row in rows] == [(1, datetime(2026, 11, 1, tzinfo=UTC))]
