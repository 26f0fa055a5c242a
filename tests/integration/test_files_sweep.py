"""`mesctl orders sweep-files`: what no order names goes, and all else stays."""

import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import pytest
from sqlalchemy import insert, text, update

from app.console.audit.databases import OrderDatabases
from app.console.sweep import delete_unnamed, find_unnamed
from app.files import ModelStore
from app.models import mes, shop
from app.models.status import Status
from app.topology import files_url
from ops.fleet import open_engine
from sharding.topology import Topology
from tests.integration.audit_rig import Clerk
from tests.integration.mesctl_rig import Mesctl

OLD = timedelta(days=8)
ITEM = {"line_no": 1, "material": "brass", "finish": "matte", "quantity": 1, "model_name": "ring.stl"}


class Stream:
    """An uploaded model."""

    def __init__(self, content: bytes) -> None:
        self._content = BytesIO(content)

    async def read(self, size: int = -1, /) -> bytes:
        return self._content.read(size)


class Shelf:
    """The store of a topology, with models of several ages."""

    def __init__(self, topology: Topology) -> None:
        self.folder = topology.path.parent / "files"
        self.store = ModelStore.open(files_url(topology))

    async def put(self, content: bytes, *, age: timedelta = OLD) -> str:
        """Store a model as if that long ago; give its key."""
        stored = await self.store.put(Stream(content), "stl", 1000)
        at = time.time() - age.total_seconds()
        os.utime(self.folder / stored.key, (at, at))
        return stored.key

    def stored(self) -> set[str]:
        """The keys of all models."""
        return {each.key for each in self.store.listed()}


@pytest.fixture
def shelf(topology: Topology) -> Shelf:
    return Shelf(topology)


@pytest.fixture
async def named(topology: Topology, shelf: Shelf) -> list[str]:
    """Give the models that a draft, an order, an archived order and a detached partition name."""
    clerk = Clerk(topology)
    clerk.shard_map()
    draft, live, archived, detached = keys = [await shelf.put(b"named %d" % number) for number in range(4)]
    [order_id] = clerk.orders(1, status=Status.INITIATED)
    clerk.write("shop", update(shop.ShopOrder).values(model_key=draft))
    clerk.write("mes_0", insert(mes.MesOrderItem).values(order_id=order_id, model_key=live, **ITEM))
    database = topology.database("mes_1")
    with open_engine(topology, database, role=database.owner) as engine, engine.begin() as connection:
        for name, key in (("kept", archived), ("gone", detached)):
            connection.execute(text(f"CREATE TABLE {name} (LIKE order_items_archive INCLUDING CONSTRAINTS)"))
            row = {**ITEM, "order_id": order_id, "model_key": key}
            names = ", ".join(row)
            values = ", ".join(f":{each}" for each in row)
            connection.execute(text(f"INSERT INTO {name} ({names}) VALUES ({values})"), row)
        # Narrow, so that it overlaps no month that stands.
        month = f"FOR VALUES FROM ({order_id}) TO ({order_id + 1})"
        connection.execute(text("ALTER TABLE kept ALTER COLUMN order_id SET NOT NULL"))
        connection.execute(text(f"ALTER TABLE order_items_archive ATTACH PARTITION kept {month}"))
    return keys


@pytest.fixture
def mesctl(topology_path: Path, capsys: pytest.CaptureFixture[str]) -> Mesctl:
    return Mesctl(topology_path, capsys)


async def test_a_model_that_no_order_names_is_deleted_and_all_others_stay(
    mesctl: Mesctl, shelf: Shelf, named: list[str]
) -> None:
    replaced = await shelf.put(b"replaced")
    for key in (replaced, named[0]):
        await shelf.store.put_preview(key, "png", b"a picture")
    young = await shelf.put(b"under way", age=timedelta(days=6))
    planned = mesctl("orders", "sweep-files", "--dry-run")
    assert planned.status == 0
    assert planned.out.splitlines()[0].startswith(f"{replaced} 8 bytes, stored ")
    assert planned.out.splitlines()[1:] == ["1 of 6 models would be deleted, 8 bytes"]
    assert shelf.stored() == {*named, replaced, young}
    done = mesctl("orders", "sweep-files", "--json")
    assert (done.status, done.json["deleted"], done.json["bytes"], done.json["keys"]) == (0, 1, 8, [replaced])
    assert shelf.stored() == {*named, young}
    assert await shelf.store.read_preview(replaced, "png") is None
    assert await shelf.store.read_preview(named[0], "png") == b"a picture"
    assert mesctl("orders", "sweep-files").out == "0 of 5 models deleted, 0 bytes\n"
    assert mesctl("orders", "sweep-files", "--older-than", "5d").out == "1 of 5 models deleted, 9 bytes\n"


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """Give a port at which nothing listens."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])


@pytest.mark.parametrize("database", ["shop", "mes_1"])
@pytest.mark.usefixtures("named")
async def test_nothing_is_deleted_while_a_database_does_not_answer(
    mesctl: Mesctl, shelf: Shelf, refusing_port: int, topology: Topology, database: str
) -> None:
    await shelf.put(b"replaced")
    before, path = shelf.stored(), mesctl.topology_path
    head, name, rest = path.read_text().partition(f"[databases.{database}]")
    port = str(topology.database(database).primary.port)
    path.write_text(head + name + rest.replace(port, str(refusing_port), 1))
    said = mesctl("orders", "sweep-files")
    assert said.status == 1
    assert said.err.startswith(f"mesctl: {database}: ")
    assert shelf.stored() == before


async def test_an_upload_that_comes_between_is_kept(
    topology: Topology, shelf: Shelf, named: list[str]
) -> None:
    again = await shelf.put(b"the same ring again")
    before = datetime.now(UTC) - timedelta(days=7)
    found = find_unnamed(shelf.store, OrderDatabases(topology), before=before)
    assert [each.key for each in found.unnamed] == [again]
    await shelf.put(b"the same ring again", age=timedelta())
    assert list(delete_unnamed(shelf.store, found, before=before)) == []
    assert again in shelf.stored()


async def test_a_store_of_other_databases_is_left_alone(mesctl: Mesctl, shelf: Shelf) -> None:
    key = await shelf.put(b"of a customer")
    said = mesctl("orders", "sweep-files")
    assert (said.status, "no order names any of the 1 models" in said.err) == (3, True)
    assert shelf.stored() == {key}


def test_a_grace_period_that_an_upload_may_outlast_is_refused(mesctl: Mesctl) -> None:
    said = mesctl("orders", "sweep-files", "--older-than", "59m")
    assert (said.status, "give 1h or more" in said.err) == (2, True)
