"""What docs/how-to/online-changes.md shows in Python is run, on a shard and its real replica."""

import psycopg
from sqlalchemy import create_engine, inspect
from sqlalchemy.pool import NullPool

from app.models.mes import MesOrderItem
from ops.fleet import open_engine
from sharding.topology import Topology
from tests.acceptance.test_docs import ROOT, fenced
from tests.servers import PostgresServers

ITEMS = (
    "INSERT INTO materials VALUES ('gold_18k', 15.5, 78, 1.06);"
    "INSERT INTO order_items (order_id, line_no, material, finish, quantity, model_key, model_name)"
    "    SELECT id, 1, 'gold_18k', 'matte', id %% 5, 'k', 'n' FROM generate_series(1, 2500) AS id"
)


def test_python_of_the_page_runs_from_top_to_bottom(topology: Topology, postgres: PostgresServers) -> None:
    mes_0 = topology.databases["mes_0"]
    superuser = postgres.conninfo(mes_0.dbname)
    monitor = create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(superuser), poolclass=NullPool
    )
    blocks = fenced(ROOT / "docs" / "how-to" / "online-changes.md", "python")
    assert len(blocks) == 5
    with open_engine(topology, mes_0, role="mes_owner") as engine:
        with engine.begin() as connection:
            connection.exec_driver_sql(ITEMS)
        scope: dict[str, object] = {"engine": engine, "monitor": monitor}
        for block in blocks:
            exec(compile(block, "online-changes.md", "exec"), scope)
        columns = {
            column["name"]: str(column["type"]) for column in inspect(engine).get_columns("order_items")
        }
        assert columns["quantity"] == "BIGINT"
        assert columns.keys() == set(MesOrderItem.__table__.c.keys())
    assert scope["done"].rows_seen == 2_500  # type: ignore[attr-defined]
    assert scope["done"].finished  # type: ignore[attr-defined]
