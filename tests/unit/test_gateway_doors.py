"""The doors of the order system against the routes that its applications have."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute

from app.access.endpoints import partners_router, staff_router
from app.access.table import PAGES, RULES
from app.board.endpoints import router as board
from app.board.pages import front
from app.console.gateway import DOORS
from app.crm.endpoints import router as crm
from app.kit.caller import Door
from app.mes.endpoints import router as mes
from app.shop.endpoints import router as shop
from ops.gateway.model import GatewayInvalid, GatewayRoute, NoGateway, gateway_of
from sharding.errors import TopologyError
from sharding.topology import Topology

PARTNERS_OWN = (
    "orders/{order_id}",
    "orders/batch",
    "models",
    "quotes",
    "quotes/{quote_id}",
    "webhooks",
    "webhooks/{webhook_id}",
    "webhooks/{webhook_id}/test",
    "webhooks/{webhook_id}/replay",
)
SERVICES = {
    "shop": (shop,),
    "crm": (crm, staff_router),
    "mes": (mes, staff_router, partners_router),
    "board": (front, board, staff_router),
}


def routes_of(service: str, routers: tuple[APIRouter, ...]) -> Iterator[tuple[str, str, str]]:
    for route in (route for router in routers for route in router.routes):
        assert isinstance(route, APIRoute)
        for method in (route.methods or set()) - {"HEAD"}:
            yield service, method, route.path


def test_each_route_is_behind_a_door_and_each_door_leads_to_a_route() -> None:
    there = {each for name, routers in SERVICES.items() for each in routes_of(name, routers)}
    listed = {
        (route.service, method, route.path)
        for routes in DOORS.values()
        for route in routes
        for method in route.methods
        if route.service in SERVICES  # the DBA's pages are mesctl's own
    }
    assert listed == there


def test_a_partner_reaches_neither_operators_nor_sellers() -> None:
    paths = {(route.service, route.path) for route in DOORS["external"]}
    assert paths == {
        ("mes", "/v1/partners/{partner}/orders"),
        *(("mes", f"/v1/partners/{{partner}}/{what}") for what in PARTNERS_OWN),
        ("mes", "/v1/orders/{order_id}"),
        ("mes", "/v1/token"),
        ("mes", "/v1/usage"),
        ("crm", "/v1/orders/{order_id}"),
        *(("crm", f"/v1/orders/{{order_id}}/{what}") for what in ("approve", "requote", "cancel")),
    }


def test_the_gateway_leads_where_the_table_of_access_says() -> None:
    led = {
        (door, route.service, method, route.path)
        for door, routes in DOORS.items()
        for route in routes
        for method in route.methods
        if route.service in SERVICES
    }
    rules = {
        (door, *route) for route, rule in {**RULES, **PAGES}.items() for door in (*rule.doors, Door.INTERNAL)
    }
    # They are open to all, and ask no one who he is.
    files = {("board", "GET", path) for path in ("/static/{digest}/{name}", "/login")}
    doors = (Door.STAFF, Door.CUSTOMER, Door.INTERNAL)
    assert led == rules | {(door, *route) for route in files for door in doors}


def test_a_parameter_is_one_segment() -> None:
    pattern = re.compile(GatewayRoute(path="/v1/a.b/{x}", methods=("GET",), service="mes").pattern)
    assert pattern.fullmatch("/v1/a.b/7")
    for other in ("/v1/a.b/", "/v1/a.b/7/8", "/v1/aXb/7", "/v1/a.b/7/"):
        assert not pattern.fullmatch(other)


BASE = """
[trees.notes]
kind = "single"
[databases.notes]
tree = "notes"
dbname = "notes"
primary = { host = "127.0.0.1", port = 5432 }
[services.notes]
host = "127.0.0.1"
port = 8000
"""
GATEWAY = """
[gateway]
admin_port = 9901
[gateway.doors.external]
host = "127.0.0.1"
port = 8443
"""
NAMES = 'names = { notes = ["notes.localhost"] }\n'
NOTES = GatewayRoute(path="/v1/notes", methods=("GET",), service="notes")


def topology_of(folder: Path, text: str) -> Topology:
    path = folder / "topology.toml"
    path.write_text(BASE + text)
    return Topology.load(path)


def test_a_topology_without_a_gateway_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NoGateway, match=r"add a section \[gateway\]"):
        gateway_of(topology_of(tmp_path, ""), {"external": (NOTES,)})


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ('names = { notes = ["Notes.localhost"] }', "no host name in small letters"),
        ('names = { notes = ["*"] }', "no host name"),
        ('names = { notes = ["a.localhost"], other = ["a.localhost"] }', "leads to two services"),
        (NAMES + 'certificate = "a.pem"', "certificate and key come together"),
        (NAMES + 'clients_ca = "a.pem"', "clients_ca needs certificate and key"),
        (NAMES + "connections = 0", "connections"),
        (NAMES + "conections = 1", "conections"),
    ],
)
def test_a_wrong_door_is_refused_by_its_key(tmp_path: Path, section: str, said: str) -> None:
    with pytest.raises(TopologyError, match=said):
        gateway_of(topology_of(tmp_path, GATEWAY + section), {"external": (NOTES,)})


@pytest.mark.parametrize(
    ("routes", "said"),
    [
        ({}, "the project has no routes for it"),
        ({"external": (NOTES, NOTES)}, "is there twice"),
        ({"external": (GatewayRoute(path="v1", methods=("GET",), service="notes"),)}, "begins with /"),
        ({"external": (GatewayRoute(path="/v1", methods=("TRACE",), service="notes"),)}, "TRACE"),
        ({"external": (GatewayRoute(path="/v1", methods=(), service="notes"),)}, "methods"),
        ({"external": (GatewayRoute(path="/v1", methods=("GET",), service="x"),)}, r"\[services\.x\]"),
    ],
)
def test_routes_that_lead_nowhere_are_refused(
    tmp_path: Path, routes: dict[str, tuple[GatewayRoute, ...]], said: str
) -> None:
    with pytest.raises(GatewayInvalid, match=said):
        gateway_of(topology_of(tmp_path, GATEWAY + NAMES), routes)


def test_the_pages_are_behind_a_door_that_has_a_name_for_them(tmp_path: Path) -> None:
    shown = GatewayRoute(path="/", methods=("GET",), service="pages", is_optional=True)
    without = gateway_of(topology_of(tmp_path, GATEWAY + NAMES), {"external": (NOTES, shown)})
    assert without.doors[0].routes == (NOTES,)
    named = (
        GATEWAY + 'names = { notes = ["notes.localhost"], pages = ["dba.localhost"] }\n[pages]\nport = 9188\n'
    )
    made = gateway_of(topology_of(tmp_path, named), {"external": (NOTES, shown)})
    assert made.doors[0].routes == (NOTES, shown)
    assert made.upstreams[1].processes == (("127.0.0.1", 9188),)
    only_staff = {door for door, routes in DOORS.items() if any(each.service == "pages" for each in routes)}
    assert only_staff == {"staff"}


def test_a_sandbox_is_what_answers_nothing_in_earnest(tmp_path: Path) -> None:
    sandbox = '[gateway.sandbox]\nprefix = "mt_"\n[gateway.sandbox.processes]\nnotes = ["127.0.0.1:8100"]\n'
    made = gateway_of(topology_of(tmp_path, GATEWAY + NAMES + sandbox), {"external": (NOTES,)})
    assert [(each.name, each.processes) for each in made.upstreams] == [
        ("notes", (("127.0.0.1", 8000),)),
        ("notes-sandbox", (("127.0.0.1", 8100),)),
    ]
    for changed, said in (
        (sandbox.replace(":8100", ":8000"), "one of them answers in earnest"),
        (sandbox.replace("notes =", "other ="), "no service 'other'"),
        (sandbox.replace(":8100", ""), "write HOST:PORT"),
    ):
        with pytest.raises(GatewayInvalid, match=said):
            gateway_of(topology_of(tmp_path, GATEWAY + NAMES + changed), {"external": (NOTES,)})


def test_processes_are_those_of_the_topology(tmp_path: Path) -> None:
    processes = '[gateway.processes]\nnotes = ["10.0.0.2:8000", "[::1]:8001"]\n'
    made = gateway_of(topology_of(tmp_path, GATEWAY + NAMES + processes), {"external": (NOTES,)})
    [notes] = made.upstreams
    assert notes.processes == (("127.0.0.1", 8000), ("10.0.0.2", 8000), ("::1", 8001))
    wrong = processes.replace("10.0.0.2:8000", "10.0.0.2")
    with pytest.raises(GatewayInvalid, match="write HOST:PORT"):
        gateway_of(topology_of(tmp_path, GATEWAY + NAMES + wrong), {"external": (NOTES,)})
