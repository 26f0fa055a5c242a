"""`mesctl orders` on real databases: what it prints, and its exit status."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, update

from app.models import crm, mes
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


def test_a_trace_shows_what_was_set_aside_and_why(
    mesctl: Mesctl, clerk: Clerk, capsys: pytest.CaptureFixture[str]
) -> None:
    order_id = clerk.orders(1)[0]
    aside = update(mes.MesOutbox).values(set_aside_at=MADE_AT, set_aside_reason="unknown field", attempts=3)
    clerk.write(SHARDS.shard_of(order_id), owed(order_id), aside)
    assert mesctl("orders", "trace", str(order_id)) == 0
    assert "SET ASIDE after 3 attempts: unknown field" in capsys.readouterr().out


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
