"""`mesctl orders` on real databases: what it prints, and its exit status."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import delete, insert, update

from app.console import slow
from app.models import crm, mes, shop
from app.models.status import Status
from ops import cli
from sharding.topology import Topology
from tests.integration.audit_rig import MADE_AT, SHARDS, Clerk, owed

Mesctl = Callable[..., int]


@pytest.fixture
def mesctl(topology_path: Path) -> Mesctl:
    return lambda *words: cli.run(["--topology", str(topology_path), *words])


@pytest.fixture
def clerk(topology: Topology) -> Clerk:
    clerk = Clerk(topology)
    clerk.shard_map()
    return clerk


def test_a_clean_audit_says_so_and_succeeds(
    mesctl: Mesctl, clerk: Clerk, capsys: pytest.CaptureFixture[str]
) -> None:
    clerk.orders(5)
    assert mesctl("orders", "audit") == 0
    assert capsys.readouterr().out == "5 orders compared, 0 faults, 0 in flight\n"


def test_an_audit_that_finds_something_names_it_and_fails(
    mesctl: Mesctl, clerk: Clerk, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = clerk.orders(5)[2]
    clerk.write("crm", delete(crm.CrmOrder).where(crm.CrmOrder.order_id == lost))
    assert mesctl("orders", "audit") == 1
    said = capsys.readouterr().out
    assert str(lost) in said
    assert said.endswith("5 orders compared, 1 fault, 0 in flight\n")


def test_an_audit_for_programs_has_ids_as_text(
    mesctl: Mesctl, clerk: Clerk, capsys: pytest.CaptureFixture[str]
) -> None:
    lost, late = clerk.orders(5)[2:4]
    clerk.write("crm", delete(crm.CrmOrder).where(crm.CrmOrder.order_id == lost))
    behind = update(mes.MesOrder).where(mes.MesOrder.order_id == late).values(price=None)
    clerk.write(SHARDS.shard_of(late), behind, owed(late))
    assert mesctl("orders", "audit", "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["clean"], report["orders"]) == (False, 5)
    assert (report["faults"]["missing"], report["in_flight"]) == (1, 1)
    assert {found["order_id"]: found["fault"] for found in report["findings"]} == {
        str(lost): "missing",
        str(late): "price differs",
    }


def test_a_trace_is_one_page_of_all_services(
    mesctl: Mesctl, clerk: Clerk, capsys: pytest.CaptureFixture[str]
) -> None:
    order_id = clerk.orders(3)[1]
    shard = SHARDS.shard_of(order_id)
    clerk.write(shard, owed(order_id), insert(mes.PricingJob).values(order_id=order_id))
    assert mesctl("orders", "trace", str(order_id)) == 0
    page = capsys.readouterr().out
    for expected in ("shop.orders", "crm.orders", f"{shard}.orders_hot", "90.00 EUR", "Rosa"):
        assert expected in page
    assert f"pricing job on {shard}: it waits, 0 attempts so far" in page
    assert f"order.shipped from {shard} to shop: under way since" in page


def test_a_trace_has_waits_tier_and_what_was_handled(
    mesctl: Mesctl, clerk: Clerk, capsys: pytest.CaptureFixture[str]
) -> None:
    order_id = clerk.orders(1)[0]
    shard = SHARDS.shard_of(order_id)
    start = MADE_AT - timedelta(hours=2)
    line = {"order_id": order_id, "event_no": 0, "status": Status.PACKAGING, "at": start, "actor": "Rosa"}
    receipt = {"order_id": order_id, "message_id": uuid4(), "source": shard, "type": "order.shipped"}
    clerk.write(shard, insert(mes.MesOrderEvent).values(line))
    clerk.write("crm", insert(crm.CrmInbox).values(receipt))
    assert mesctl("orders", "trace", str(order_id), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["tier"] for each in found["standings"]] == ["hot"] * 3
    packed, shipped = found["steps"]
    assert packed == {"status": "PACKAGING", "seconds": 7200.0, "is_wait": False, "ended": True}
    assert (shipped["status"], shipped["ended"]) == ("SHIPPED", False)
    [handled] = found["received"]
    assert (handled["service"], handled["type"], handled["source"]) == ("crm", "order.shipped", shard)
    assert mesctl("orders", "trace", str(order_id)) == 0
    page = capsys.readouterr().out
    assert "PACKAGING  2.0 h" in page
    assert "order.shipped" in page


def test_a_trace_has_the_newest_log_lines_where_there_are_logs(
    mesctl: Mesctl,
    clerk: Clerk,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    order_id = clerk.orders(1)[0]
    monkeypatch.setenv("MES_STORAGE_LOGS", str(tmp_path / "no logs"))
    assert mesctl("orders", "trace", str(order_id), "--json") == 0
    assert json.loads(capsys.readouterr().out)["logs"] == []

    line = {"@timestamp": "2026-12-02T05:00:00Z", "order": {"id": str(order_id)}, "log.level": "info"}
    more = {"event": {"action": "order_shipped"}, "service": {"name": "mes"}}
    (tmp_path / "mes.log").write_text(json.dumps(line | more) + "\n")
    monkeypatch.setenv("MES_STORAGE_LOGS", str(tmp_path))
    assert mesctl("orders", "trace", str(order_id)) == 0
    assert "2026-12-02T05:00:00Z mes INFO order_shipped" in capsys.readouterr().out


def test_a_trace_shows_what_was_set_aside_and_why(
    mesctl: Mesctl, clerk: Clerk, capsys: pytest.CaptureFixture[str]
) -> None:
    order_id = clerk.orders(1)[0]
    aside = update(mes.MesOutbox).values(set_aside_at=MADE_AT, set_aside_reason="unknown field", attempts=3)
    traced = update(mes.MesOutbox).values(traceparent=f"00-{'4b' * 16}-{'0f' * 8}-01")
    clerk.write(SHARDS.shard_of(order_id), owed(order_id), aside, traced)
    assert mesctl("orders", "trace", str(order_id)) == 0
    page = capsys.readouterr().out
    assert "SET ASIDE after 3 attempts: unknown field (mesctl orders dead-letters show 8a3c0f3e" in page
    assert f"trace {'4b' * 16}" in page


def test_a_trace_for_programs_has_the_same(
    mesctl: Mesctl, clerk: Clerk, capsys: pytest.CaptureFixture[str]
) -> None:
    order_id = clerk.orders(1)[0]
    assert mesctl("orders", "trace", str(order_id), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["order_id"] == str(order_id)
    assert [standing["status"] for standing in told["standings"]] == [Status.SHIPPED] * 3
    assert [(step["service"], step["actor"]) for step in told["history"]] == [("mes", "Rosa")]


def test_an_unknown_order_is_one_clear_line(
    mesctl: Mesctl, clerk: Clerk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mesctl("orders", "trace", "17") == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert (
        said.err == "mesctl: order 17 is known to no service: check the id, and that this is its platform\n"
    )


@pytest.mark.parametrize("order_id", ["seventeen", "-1", str(2**63)])
def test_what_is_no_id_is_wrong_usage(
    order_id: str, mesctl: Mesctl, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mesctl("orders", "trace", "--", order_id) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_how_long_orders_stand_in_each_status(
    mesctl: Mesctl, clerk: Clerk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over both shards, drafts from the Shop, and over several pages."""
    monkeypatch.setattr(slow, "PAGE_ORDERS", 4)
    made = datetime.now(UTC) - timedelta(days=2)
    order_ids = clerk.orders(20, made=made)
    event, draft = mes.MesOrderEvent, shop.ShopOrderEvent
    for number, order_id in enumerate(order_ids):
        clerk.write(SHARDS.shard_of(order_id), delete(event).where(event.order_id == order_id))
        lines = [(Status.SUBMITTED, 0), (Status.PRICE_CALCULATED, 60 + number), (Status.REJECTED, 100)]
        rows = [
            {"order_id": order_id, "event_no": no, "status": status, "at": made + timedelta(seconds=at)}
            for no, (status, at) in enumerate(lines)
        ]
        clerk.write(SHARDS.shard_of(order_id), insert(event).values([{**row, "actor": "x"} for row in rows]))
        first = {"order_id": order_id, "event_no": 1, "status": Status.INITIATED, "actor": "Ada"}
        submitted = {**first, "event_no": 2, "status": Status.SUBMITTED, "at": made}
        started = {**first, "at": made - timedelta(minutes=5)}
        clerk.write("shop", insert(draft).values([started, submitted]))
    assert mesctl("orders", "slow", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["orders"], found["is_sample"], found["share_waiting"]) == (20, False, 1.0)
    stages = {each["status"]: each for each in found["stages"]}
    assert stages.keys() == {"INITIATED", "SUBMITTED", "PRICE_CALCULATED"}
    assert (stages["INITIATED"]["p50"], stages["INITIATED"]["stays"]) == (300, 20)
    assert (stages["SUBMITTED"]["p50"], stages["SUBMITTED"]["stays"]) == (69.5, 20)
    assert len(found["slowest"]) == 10

    assert mesctl("orders", "slow") == 0
    page = capsys.readouterr().out
    assert "20 orders; 100% of their time is waiting" in page
    assert mesctl("orders", "slow", "--most-orders", "4", "--json") == 0
    assert json.loads(capsys.readouterr().out)["is_sample"]
    assert mesctl("orders", "slow", "--since", "1d") == 0
    assert capsys.readouterr().out == "no orders since then\n"
