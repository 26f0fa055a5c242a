"""`mesctl orders dead-letters` on real outboxes: what is listed, sent again, given up, restored, refused."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from getpass import getuser
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from sqlalchemy import delete, insert, select, update

from app.console.audit.databases import OrderDatabases
from app.console.dead_letters import LetterFilter, find_letters, retry_letter
from app.console.monitoring.samples import read_samples
from app.models.crm import CrmInbox, CrmOrder
from app.models.mes import MesAuditLine, MesOrderEvent, MesOutbox
from app.models.status import Status
from ops.errors import ExitStatus
from ops.fleet import results_of
from ops.waiting import wait_until
from sharding.topology import Topology
from tests.integration.audit_rig import MADE_AT, SHARDS, Clerk
from tests.integration.mesctl_rig import Mesctl
from tests.integration.services_rig import Services, open_services
from tests.project import PROJECT

REFUSED = ExitStatus.REFUSED


@pytest.fixture
def mesctl(topology_path: Path, capsys: pytest.CaptureFixture[str]) -> Mesctl:
    return Mesctl(topology_path, capsys, PROJECT.path)


@pytest.fixture
def clerk(topology: Topology) -> Clerk:
    return Clerk(topology)


def set_aside(clerk: Clerk, order_id: int, **changed: Any) -> UUID:
    """Have MES owe the CRM a message that it could not handle; give its id."""
    row = {
        "order_id": order_id,
        "message_id": uuid4(),
        "destination": "crm",
        "type": "order.shipped",
        "data": {"actor": "Rosa"},
        "attempts": 5,
        "set_aside_at": MADE_AT,
        "set_aside_reason": "cannot become SHIPPED",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        **changed,
    }
    clerk.write(SHARDS.shard_of(order_id), insert(MesOutbox).values(row))
    found: UUID = row["message_id"]
    return found


def rows(clerk: Clerk, order_id: int) -> list[Any]:
    with clerk.engine(SHARDS.shard_of(order_id)).connect() as connection:
        query = select(MesOutbox.__table__).where(MesOutbox.order_id == order_id)
        return list(connection.execute(query.order_by(MesOutbox.sequence)))


def history(clerk: Clerk, order_id: int) -> list[Any]:
    with clerk.engine(SHARDS.shard_of(order_id)).connect() as connection:
        query = select(MesOrderEvent.__table__).where(MesOrderEvent.order_id == order_id)
        return list(connection.execute(query.order_by(MesOrderEvent.event_no)))


def audited(clerk: Clerk, order_id: int) -> list[tuple[str, str, str]]:
    """Read what a person has done to the messages of an order, by the audit log."""
    with clerk.engine(SHARDS.shard_of(order_id)).connect() as connection:
        lines = MesAuditLine.__table__
        query = select(lines.c.action, lines.c.caller, lines.c.role).where(
            lines.c.order_id == order_id, lines.c.credential == "mesctl"
        )
        return [tuple(row) for row in connection.execute(query.order_by(lines.c.line_no))]


def test_what_waits_behind_one_is_no_message_that_the_relay_has_left(
    topology: Topology, clerk: Clerk
) -> None:
    first, *_ = clerk.orders(4)
    set_aside(clerk, first)
    set_aside(clerk, first, set_aside_at=None, type="order.closed", attempts=0)
    labels = {"database": SHARDS.shard_of(first), "destination": "crm"}
    found = {each.name: each.value for each in read_samples(topology) if each.labels == labels}
    assert found["app_outbox_messages"] == found["app_dead_letters"] == 1
    assert found["app_outbox_oldest_seconds"] == 0
    assert found["app_dead_letters_oldest_seconds"] > 0


def test_they_are_listed_with_reason_and_times_and_what_waits_behind(mesctl: Mesctl, clerk: Clerk) -> None:
    first, second, *_ = clerk.orders(4)
    letter = set_aside(clerk, first)
    set_aside(clerk, first, set_aside_at=None, type="order.closed", attempts=0)  # it waits behind
    set_aside(clerk, second, destination="shop", type="order.rejected")
    listed = {each["message_id"]: each for each in mesctl("orders", "dead-letters", "list", "--json").json}
    assert len(listed) == 2
    assert listed[str(letter)] | {"created_at": ""} == {
        "message_id": str(letter),
        "order_id": str(first),
        "source": SHARDS.shard_of(first),
        "destination": "crm",
        "type": "order.shipped",
        "attempts": 5,
        "created_at": "",
        "set_aside_at": str(MADE_AT),
        "reason": "cannot become SHIPPED",
        "behind": 1,
    }
    for words in (
        ["--destination", "crm"],
        ["--type", "order.shipped"],
        ["--order", str(first)],
        ["--source", SHARDS.shard_of(first), "--destination", "crm"],
    ):
        found = mesctl("orders", "dead-letters", "list", "--json", *words).json
        assert [each["message_id"] for each in found] == [str(letter)], words
    assert mesctl("orders", "dead-letters", "list", "--older-than", "9000d").out == "no dead letters\n"


def test_one_is_shown_with_its_content_and_without_the_customer(mesctl: Mesctl, clerk: Clerk) -> None:
    [order_id] = clerk.orders(1)
    data = {"actor": "Ada", "customer": {"name": "Ada", "email": "ada@example.org"}, "summary": "a ring"}
    letter = set_aside(clerk, order_id, type="order.submitted", data=data)
    said = mesctl("orders", "dead-letters", "show", str(letter), "--json")
    assert said.json["data"] == {"actor": "Ada", "customer": "(masked)", "summary": "a ring"}
    assert "ada@example.org" not in mesctl("orders", "dead-letters", "show", str(letter)).out


def test_one_is_due_again_with_its_attempts_counted_anew(mesctl: Mesctl, clerk: Clerk) -> None:
    [order_id] = clerk.orders(1)
    letter = set_aside(clerk, order_id)
    assert "would be sent again" in mesctl("orders", "dead-letters", "retry", str(letter), "--dry-run").out
    assert rows(clerk, order_id)[0].set_aside_at == MADE_AT
    assert mesctl("orders", "dead-letters", "retry", str(letter)).status == 0
    [row] = rows(clerk, order_id)
    assert (row.attempts, row.set_aside_at, row.set_aside_reason) == (0, None, None)
    assert audited(clerk, order_id) == [("dead_letter_retried", getuser(), "dba")]

    again = mesctl("orders", "dead-letters", "retry", str(letter))
    assert again.status == REFUSED
    assert "is no dead letter: it is under way, sent 0 times" in again.err


def test_all_that_a_filter_leaves(mesctl: Mesctl, clerk: Clerk) -> None:
    first, second, third = clerk.orders(3)
    set_aside(clerk, first)
    set_aside(clerk, second)
    set_aside(clerk, third, destination="shop")
    said = mesctl("orders", "dead-letters", "retry", "--all", "--destination", "crm", "--dry-run", "--json")
    assert len(said.json["sent_again"]) == 2
    assert mesctl("orders", "dead-letters", "retry", "--all", "--destination", "crm").status == 0
    left = mesctl("orders", "dead-letters", "list", "--json").json
    assert [each["order_id"] for each in left] == [str(third)]
    assert mesctl("orders", "dead-letters", "retry").status == ExitStatus.USAGE


def test_one_is_discarded_with_a_line_in_the_history_and_restored(mesctl: Mesctl, clerk: Clerk) -> None:
    [order_id] = clerk.orders(1)
    letter = set_aside(clerk, order_id)
    [before] = rows(clerk, order_id)
    assert mesctl("orders", "dead-letters", "discard", str(letter)).status == ExitStatus.USAGE
    assert mesctl("orders", "dead-letters", "discard", str(letter), "--reason", "x", "--dry-run").status == 0
    assert rows(clerk, order_id) == [before]

    said = mesctl("orders", "dead-letters", "discard", str(letter), "--reason", "agreed with Sara")
    assert said.status == 0, said.err
    assert rows(clerk, order_id) == []
    line = history(clerk, order_id)[-1]
    assert line.status == Status.SHIPPED  # as it was: no status is changed
    assert line.actor.startswith("mesctl: ")
    assert line.detail["reason"] == "agreed with Sara"
    assert line.detail["dead_letter"] == "cannot become SHIPPED"
    gone = mesctl("orders", "dead-letters", "discard", str(letter), "--reason", "again")
    assert gone.status == REFUSED
    assert "no outbox and no inbox has it" in gone.err

    undo = ("orders", "dead-letters", "restore", str(letter), "--order", str(order_id))
    assert mesctl(*undo).status == 0
    [after] = rows(clerk, order_id)
    for name in ("sequence", "type", "data", "created_at", "traceparent"):
        assert getattr(after, name) == getattr(before, name), name
    assert after.set_aside_at is None
    assert "it was restored already" in mesctl(*undo).err
    assert len(history(clerk, order_id)) == 3
    assert audited(clerk, order_id) == [
        ("dead_letter_discarded", getuser(), "dba"),
        ("dead_letter_restored", getuser(), "dba"),
    ]


def test_one_whose_order_is_unknown_is_discarded_with_a_line_in_the_audit_log(
    mesctl: Mesctl, clerk: Clerk
) -> None:
    order_id = 2**40
    letter = set_aside(clerk, order_id)
    assert mesctl("orders", "dead-letters", "discard", str(letter), "--reason", "none has it").status == 0
    assert (rows(clerk, order_id), history(clerk, order_id)) == ([], [])
    assert audited(clerk, order_id) == [("dead_letter_discarded", getuser(), "dba")]


def test_a_restored_one_passes_nothing_and_comes_once(mesctl: Mesctl, clerk: Clerk) -> None:
    [order_id] = clerk.orders(1)
    letter = set_aside(clerk, order_id)
    assert mesctl("orders", "dead-letters", "discard", str(letter), "--reason", "x").status == 0
    set_aside(clerk, order_id, set_aside_at=None, type="order.closed", attempts=1)  # the relay has sent it
    undo = ("orders", "dead-letters", "restore", str(letter), "--order", str(order_id))
    refused = mesctl(*undo)
    assert refused.status == REFUSED
    assert "what was written after it is under way" in refused.err

    everything = delete(MesOutbox).where(MesOutbox.order_id == order_id)
    clerk.write(SHARDS.shard_of(order_id), everything)
    assert mesctl(*undo).status == 0
    clerk.write(SHARDS.shard_of(order_id), everything)  # it was delivered
    again = mesctl(*undo)
    assert again.status == REFUSED
    assert "it was restored already" in again.err
    assert rows(clerk, order_id) == []


def test_a_history_never_keeps_the_customers_address(mesctl: Mesctl, clerk: Clerk) -> None:
    [order_id] = clerk.orders(1)
    data = {"actor": "Ada", "customer": {"name": "Ada", "email": "ada@example.org"}}
    letter = set_aside(clerk, order_id, type="order.submitted", data=data)
    assert mesctl("orders", "dead-letters", "discard", str(letter), "--reason", "x").status == 0
    assert "ada@example.org" not in str(history(clerk, order_id))
    refused = mesctl("orders", "dead-letters", "restore", str(letter), "--order", str(order_id))
    assert refused.status == REFUSED
    assert "is never kept" in refused.err


def test_what_was_handled_meanwhile_is_refused_and_said(mesctl: Mesctl, clerk: Clerk) -> None:
    [order_id] = clerk.orders(1)
    handled = uuid4()
    receipt = {"order_id": order_id, "message_id": handled, "source": "mes_0", "type": "order.shipped"}
    clerk.write("crm", insert(CrmInbox).values(receipt))
    refused = mesctl("orders", "dead-letters", "retry", str(handled))
    assert refused.status == REFUSED
    assert "crm has handled it at " in refused.err


def test_the_holder_of_the_row_goes_first(mesctl: Mesctl, clerk: Clerk, topology: Topology) -> None:
    """As the relay does, when it settles a late acknowledgement."""
    [order_id] = clerk.orders(1)
    letter = set_aside(clerk, order_id)
    shard = SHARDS.shard_of(order_id)
    with clerk.engine(shard).connect() as relay, ThreadPoolExecutor(1) as pool:
        relay.execute(delete(MesOutbox).where(MesOutbox.message_id == letter))
        waits = pool.submit(mesctl, "orders", "dead-letters", "discard", str(letter), "--reason", "x")
        assert wait_until(lambda: _waits(clerk, shard), timeout_seconds=30)
        relay.commit()
        said = waits.result(timeout=30)
    assert said.status == REFUSED
    assert "handled or discarded meanwhile" in said.err
    assert len(history(clerk, order_id)) == 1


def _waits(clerk: Clerk, shard: str) -> bool:
    with clerk.engine(shard).connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE NOT granted"
            " AND datname = current_database()"
        )
        return bool(found.rowcount)


def test_a_database_that_is_away_hides_nothing_of_the_others(
    mesctl: Mesctl, clerk: Clerk, topology: Topology
) -> None:
    [order_id] = clerk.orders(1)
    letter = set_aside(clerk, order_id)
    text = mesctl.topology_path.read_text().replace("[databases.shop]", "[databases.shop]\n#", 1)
    port = topology.database("shop").primary.port
    head, found, tail = text.partition("[databases.shop]")
    mesctl.topology_path.write_text(head + found + tail.replace(f"port = {port}", "port = 1", 1))
    said = mesctl("orders", "dead-letters", "list", "--json")
    assert said.status == ExitStatus.FAILED
    assert [each["message_id"] for each in said.json] == [str(letter)]
    assert said.err.startswith("mesctl: shop: ")


@pytest_asyncio.fixture
async def services(topology: Topology) -> AsyncIterator[Services]:
    async with open_services(topology) as services:
        yield services


async def test_a_running_relay_delivers_what_is_retried(
    services: Services, topology: Topology, clerk: Clerk
) -> None:
    """From the refusal of a message to its delivery, once what was wrong is mended."""
    order_id = int(await services.b2c())
    await services.shows(services.crm, str(order_id), "SUBMITTED")
    too_early = set_aside(clerk, order_id, set_aside_at=None, set_aside_reason=None, attempts=0)
    databases = OrderDatabases(topology)

    def found() -> list[Any]:
        outcomes = find_letters(databases, LetterFilter(message_id=too_early))
        return [each for _, letters in results_of(outcomes) for each in letters]

    async with asyncio.timeout(30):
        while not found():
            await services.shows(services.crm, str(order_id), "SUBMITTED")
    [letter] = found()
    assert "cannot become SHIPPED" in letter.reason
    packed = update(CrmOrder).where(CrmOrder.order_id == order_id).values(status=Status.PACKAGING)
    clerk.write("crm", packed)
    await retry_letter(databases, letter)
    await services.shows(services.crm, str(order_id), "SHIPPED")
    assert found() == []
