"""`mesctl problems` on real databases: what it finds, and that a silent server hides none of the others."""

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import insert, make_url, update

from app.models.mes import MesOrder, MesOutbox, PricingJob
from ops.embedded.servers import grant_monitor
from ops.problems.service import LIMITS, Limit
from sharding.topology import Topology
from tests.integration.audit_rig import SHARDS, Clerk
from tests.integration.mesctl_rig import Mesctl
from tests.project import PROJECT
from tests.servers import PostgresServers

pytestmark = pytest.mark.usefixtures("stats_rights")


@pytest.fixture
def mesctl(topology: Topology, topology_path: Path, capsys: pytest.CaptureFixture[str]) -> Mesctl:
    Clerk(topology).shard_map()
    found = Mesctl(topology_path, capsys, PROJECT.path)
    assert found("partitions", "apply").status == 0
    return found


@contextmanager
def session(topology: Topology, name: str) -> Iterator[psycopg.Connection]:
    database = topology.database(name)
    url = make_url(topology.url(database, role=database.role)).set(drivername="postgresql")
    words = {key: value for key, value in url.query.items() if isinstance(value, str)}
    where = {"host": url.host, "port": url.port, "dbname": url.database, "user": url.username}
    with psycopg.connect(**where, **words, password=url.password) as connection:  # type: ignore[arg-type]
        yield connection


def test_nothing_is_wrong(mesctl: Mesctl) -> None:
    said = mesctl("problems")
    assert (said.status, said.out) == (0, "nothing is wrong\n"), said.err


def test_who_may_not_see_the_sessions_of_others_is_noted(mesctl: Mesctl, postgres: PostgresServers) -> None:
    with postgres.primary.connect() as connection:
        connection.execute("REVOKE pg_monitor FROM crm_owner")
        said = mesctl("problems", "--json")
        grant_monitor(connection, "crm_owner")
    assert said.status == 0
    [noted] = said.json
    assert (noted["severity"], noted["object"]) == ("note", "sessions on crm")
    assert noted["command"].endswith('-c "GRANT pg_monitor TO crm_owner"')


def test_an_open_transaction_and_who_waits_for_it(
    mesctl: Mesctl, topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LIMITS, "transaction idle, seconds", Limit(0))
    monkeypatch.setitem(LIMITS, "lock waited for, seconds", Limit(0))
    with session(topology, "shop") as holder, session(topology, "shop") as waiter:
        holding, waiting = holder.info.backend_pid, waiter.info.backend_pid
        holder.execute("LOCK TABLE orders IN SHARE ROW EXCLUSIVE MODE")
        lock = Thread(target=waiter.execute, args=("LOCK TABLE orders IN SHARE ROW EXCLUSIVE MODE",))
        lock.start()
        wait_for_lock(topology, waiting)
        said = mesctl("problems", "--json")
        holder.rollback()
        lock.join()
    found = {each["object"]: each for each in said.json}
    assert said.status == 1
    waits = found[f"session {waiting} on shop"]
    assert waits["what"] == f"shop waits for a lock on orders: held by session {holding}"
    assert waits["since"]
    assert f"pg_terminate_backend({holding})" in waits["command"]
    assert f"transaction {holding} on shop" in found


def wait_for_lock(topology: Topology, pid: int) -> None:
    with session(topology, "shop") as asking:
        asking.autocommit = True
        until = time.monotonic() + 30
        while not asking.execute("SELECT FROM pg_locks WHERE pid = %s AND NOT granted", [pid]).fetchall():
            assert time.monotonic() < until


@contextmanager
def silent_server() -> Iterator[int]:
    """Listen as a frozen server does: its kernel takes connections, and nothing answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield listening.getsockname()[1]


def pointed(path: Path, database: str, port: int) -> None:
    text = path.read_text()
    head, found, tail = text.partition(f"[databases.{database}]")
    path.write_text(head + found + re.sub(r"port = \d+", f"port = {port}", tail, count=1))


def test_a_silent_server_is_a_problem_and_hides_no_other(mesctl: Mesctl, topology: Topology) -> None:
    shard = topology.database("mes_1")
    with psycopg.connect(owner_conninfo(topology, "mes_1")) as owner:
        owner.execute("UPDATE public.shard_identity SET map_version = 0")
    with silent_server() as port:
        pointed(mesctl.topology_path, "crm", port)
        pointed(mesctl.topology_path, "shop", 1)
        began = time.monotonic()
        said = mesctl("problems", "--json")
        took = time.monotonic() - began
    found = {each["object"]: each for each in said.json}
    assert said.status == 1
    assert found["database crm"]["what"].startswith("does not answer: ")
    assert found["database shop"]["what"].startswith("does not answer: connection failed: ")
    assert found[f"shard {shard.name}"]["what"] == "knows map version 0, and 1 is in force"
    assert took < 10
    assert [each["severity"] for each in said.json] == sorted(
        (each["severity"] for each in said.json), key=["page", "ticket", "note"].index
    )


def owner_conninfo(topology: Topology, name: str) -> str:
    database = topology.database(name)
    url = topology.url(database, role=database.owner)
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def test_a_watch_prints_what_begins_and_what_ends(mesctl: Mesctl, topology: Topology) -> None:
    pointed(mesctl.topology_path, "shop", 1)
    said = mesctl("problems", "--watch", "--count", "2", "--every-seconds", "1")
    assert said.status == 0
    begun = [line for line in said.out.splitlines() if "database shop" in line]
    assert len(begun) == 1  # it stands at the second look as well, and is said once
    assert re.match(r"\S+ begins page database shop: does not answer: ", begun[0])
    said = mesctl("problems", "--watch", "--count", "1", "--json")
    assert json.loads(said.out[: said.out.index("\n}") + 2])["change"] == "begins"


def test_what_waits_of_the_order_system(mesctl: Mesctl, topology: Topology) -> None:
    clerk, now = Clerk(topology), datetime.now(UTC)
    late, stuck = clerk.orders(2, made=now - timedelta(days=30))
    changed = update(MesOrder).where(MesOrder.order_id.in_([late, stuck])).values(changed_at=now)
    for shard in ("mes_0", "mes_1"):
        clerk.write(shard, changed)
    shard = SHARDS.shard_of(late)
    message = {"order_id": late, "type": "order.shipped", "data": {}}
    dead = {"destination": "crm", "set_aside_at": now - timedelta(hours=2), "set_aside_reason": "why"}
    job = {"order_id": late, "lease_expires_at": now - timedelta(minutes=20), "attempts": 5}
    clerk.write(
        shard,
        insert(MesOutbox).values(**message, message_id=uuid4(), **dead),
        # It waits behind the dead letter, which is the problem.
        insert(MesOutbox).values(
            **message, message_id=uuid4(), destination="crm", created_at=now - timedelta(1)
        ),
        insert(MesOutbox).values(
            **message, message_id=uuid4(), destination="shop", created_at=now - timedelta(1)
        ),
        insert(PricingJob).values(job),
    )
    too_long = update(MesOrder).where(MesOrder.order_id == stuck).values(changed_at=now - timedelta(days=15))
    clerk.write(SHARDS.shard_of(stuck), too_long)
    said = mesctl("problems", "--json")
    assert said.status == 1
    found = {(each["object"], each["severity"]): each for each in said.json}
    assert found.keys() == {
        (f"messages {shard} to crm", "page"),
        (f"messages {shard} to shop", "page"),
        (f"prices on {shard}", "page"),
        (f"prices on {shard}", "ticket"),
        (f"orders SHIPPED on {SHARDS.shard_of(stuck)}", "ticket"),
    }
    assert found[f"messages {shard} to crm", "page"]["what"].startswith("1 dead letter:")
    order = found[f"orders SHIPPED on {SHARDS.shard_of(stuck)}", "ticket"]
    assert order["command"] == f"mesctl orders trace {stuck}"
