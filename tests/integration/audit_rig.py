"""A clerk who writes orders straight into the databases, as the services would have left them."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Engine, create_engine, insert
from sqlalchemy.pool import NullPool

from app.models import crm, mes, shop
from app.models.status import Channel, Status
from sharding.ids import first_id_at
from sharding.schema import DIRECTORY
from sharding.shard_map import ShardMap
from sharding.topology import Topology

MADE_AT = datetime(2026, 3, 10, 12, tzinfo=UTC)
SHARDS = ShardMap.even(["mes_0", "mes_1"], 64)


class Clerk:
    """Writes orders straight into the databases, as the services would have left them."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology

    def engine(self, name: str) -> Engine:
        role = self._topology.database(name).tree
        return create_engine(self._topology.url(name, role=role), poolclass=NullPool)

    def write(self, name: str, *statements: Any) -> None:
        with self.engine(name).begin() as connection:
            for statement in statements:
                connection.execute(statement)

    def orders(self, count: int, *, status: Status = Status.SHIPPED, made: datetime = MADE_AT) -> list[int]:
        """Have B2C orders in all three services, spread over both shards; give their ids."""
        order_ids = [first_id_at(made) + number for number in range(count)]
        rows = [order_row(order_id, status) for order_id in order_ids]
        self.write(
            "shop", insert(shop.ShopOrder).values([shop_order(order_id, status) for order_id in order_ids])
        )
        self.write("crm", insert(crm.CrmOrder).values(rows))
        for shard in SHARDS.shards:
            own = [row for row in rows if SHARDS.shard_of(row["order_id"]) == shard]
            if not own:
                continue
            step = {"event_no": 1, "status": status, "at": made, "actor": "Rosa"}
            events = [{"order_id": row["order_id"], **step} for row in own]
            self.write(shard, insert(mes.MesOrder).values(own), insert(mes.MesOrderEvent).values(events))
        return order_ids

    def shard_map(self) -> None:
        """Have the map in the directory."""
        row = {"tree": "mes", "version": SHARDS.version, "owners": ",".join(SHARDS.owners)}
        url = self._topology.url("directory", role="directory_owner")
        with create_engine(url, poolclass=NullPool).begin() as connection:
            connection.execute(insert(DIRECTORY.tables["shard_map_versions"]).values(**row))


def order_row(order_id: int, status: Status) -> dict[str, Any]:
    return {
        "order_id": order_id,
        "status": status,
        "channel": Channel.B2C,
        "summary": "a ring",
        "price": Decimal("90.00"),
        "version": 1,
    }


def shop_order(order_id: int, status: Status) -> dict[str, Any]:
    buyer = {"customer_name": "Ada", "customer_email": "ada@example.org", "idempotency_key": str(order_id)}
    piece = {"material": "brass", "finish": "matte", "quantity": 1}
    return {**order_row(order_id, status), **buyer, **piece}


def owed(order_id: int) -> Any:
    """Make the statement that owes the Shop a message about an order."""
    return insert(mes.MesOutbox).values(
        order_id=order_id,
        message_id="8a3c0f3e-0000-4000-8000-000000000001",
        destination="shop",
        type="order.shipped",
        data={},
    )
