"""Who may do what: every cell of the table against the running applications, and what revokes a caller."""

import asyncio
import itertools
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient, Response
from sqlalchemy import select, text

from app.access import identities
from app.access.credentials import TokenKeys, TokenUse
from app.access.enforce import COOKIE, Access, Attempts
from app.access.errors import (
    IdentitiesUnknown,
    IdentityExists,
    TooManyAttempts,
    TooManyKeys,
    UnknownIdentity,
)
from app.access.limits import PLANS, CallerLimits
from app.access.registry import Registry
from app.access.table import OWN_ONLY, RULES, Owner, rule_of
from app.board.application import build as build_board
from app.crm.application import build as build_crm
from app.kit.caller import Caller, Door, Role, calling
from app.mes.application import build as build_mes
from app.mes.handlers import _refuse
from app.messaging.events import CancelRequested, PriceRenewed
from app.models.directory import Identity, IdentityKey
from app.orders import MES, UnknownOrder, announce, lock_order, renew_price
from app.shop.application import build as build_shop
from readreplica.cluster import Cluster
from readreplica.sessions import WriteSession
from sharding.engines import open_cluster
from sharding.topology import Topology
from tests.callers import KEYS, acting
from tests.integration.board_rig import streaming, with_board
from tests.integration.services_rig import (
    MODEL,
    START,
    Services,
    client_of,
    eventually,
    fast_settings,
    new_key,
    ok,
    open_services,
    problem,
    save_map,
)

BUILDS = {"shop": build_shop, "crm": build_crm, "mes": build_mes, "board": build_board}
STREAM = "/v1/changes"
PROXY, PEER = "192.0.2.1", "127.0.0.1"
PARTNERS = ("atelier-nord", "bijoux-sud")
PASSWORD = "correct horse battery staple"


@dataclass
class Doors:
    """The three applications behind a proxy that is believed, and the keys of some callers."""

    apps: dict[str, FastAPI]
    services: Services
    directory: Cluster
    keys: dict[str, str]

    async def send(
        self,
        service: str,
        method: str,
        path: str,
        *,
        bearer: str | None = None,
        door: Door | str | None = None,
        peer: str | None = None,
        **content: Any,
    ) -> Response:
        """Send a request through a door, with a credential or without one; past the proxy without a door."""
        peer = peer or (PROXY if door is not None else PEER)
        headers = content.pop("headers", {}) | ({"X-Gateway-Door": str(door)} if door is not None else {})
        if bearer is not None:
            headers["Authorization"] = f"Bearer {bearer}"
        if (method, path) == ("GET", STREAM):
            async with streaming(
                self.apps[service], path, {"Host": "service", **headers}, peer=peer
            ) as stream:
                body = "" if stream.status == 200 else await stream.body.get()
                return Response(stream.status, headers=stream.headers, text=body)
        transport = ASGITransport(self.apps[service], raise_app_exceptions=False, client=(peer, 4711))
        async with AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.request(method, path, headers=headers, **content)

    async def change(self, work: Any) -> Any:
        """Change identities, and have the services hear of it."""
        changed = (await self.directory.transact(work)).value
        await self.refresh()
        return changed

    async def refresh(self) -> None:
        for app in self.apps.values():
            access: Access = app.state.access
            await access.registry.refresh()


@pytest.fixture(scope="module")
async def doors(module_topology: Topology) -> AsyncIterator[Doors]:
    async with open_doors(module_topology) as found:
        yield found


@asynccontextmanager
async def open_doors(without_board: Topology) -> AsyncIterator[Doors]:
    """Run the applications behind a proxy, and make callers of each role."""
    changes = {"trusted_proxies": PROXY}
    apps = {}
    topology = with_board(without_board)
    settings = fast_settings(topology).model_copy(update=changes)
    async with (
        open_services(topology, **changes) as services,
        client_of(build_board(settings, topology)) as board,
    ):
        for name in BUILDS:
            client: Any = board if name == "board" else getattr(services, name)
            apps[name] = client._transport.app
        async with open_cluster(
            topology, "directory", role="directory_owner", application_name="test"
        ) as directory:
            found = Doors(apps, services, directory, {})
            for app in apps.values():
                app.state.limits = CallerLimits(app.state.limits.redis, plans={})

            async def make(session: WriteSession) -> dict[str, str]:
                made = {}
                for name, role in [(partner, Role.PARTNER) for partner in PARTNERS] + [
                    (role.value, role) for role in Role if role not in OWN_ONLY
                ]:
                    key = await identities.create(session, name, role, by="test")
                    made[name] = key.text
                return made

            found.keys = await found.change(make)
            yield found
            for app in apps.values():
                await app.state.limits.settled()


@cache
def described() -> dict[str, Any]:
    """Read the descriptions of the applications."""
    topology = Topology.load(Path("app/console/topology.toml"))
    return {service: build(fast_settings(topology), topology).openapi() for service, build in BUILDS.items()}


def routes() -> set[tuple[str, str, str]]:
    """Read the routes of the applications, but not those of health and pages."""
    return {
        (service, method.upper(), path)
        for service, app in described().items()
        for path, methods in app["paths"].items()
        if path.startswith("/v1/")
        for method in methods
    }


def test_every_route_has_a_row_and_every_row_a_route() -> None:
    assert routes() == set(RULES)


def test_no_body_takes_a_field_that_is_not_its_own() -> None:
    """Nor can anyone set the status, the price or the owner of an order by sending it (mass assignment)."""
    open_bodies = []
    for service, app in described().items():
        schemas = app["components"]["schemas"]
        for path, methods in app["paths"].items():
            for method, route in methods.items():
                for content in route.get("requestBody", {}).get("content", {}).values():
                    body = schemas[content["schema"]["$ref"].rpartition("/")[2]]
                    if body.get("additionalProperties") is not False:
                        open_bodies.append((service, method, path))
    # A provider may send more than is read, says the standard.
    assert {path for _, _, path in open_bodies} <= {"/v1/oidc/logout"}


def test_cells_that_must_not_change_by_accident() -> None:
    take, approve = (
        rule_of("mes", "POST", "/v1/orders/{order_id}/take"),
        RULES["crm", "POST", "/v1/orders/{order_id}/approve"],
    )
    assert take is not None
    assert take.owners(Role.OPERATOR, Door.STAFF) is Owner.ANY
    for role, door in itertools.product(Role, Door):
        if role not in {Role.OPERATOR, Role.ADMIN}:
            assert take.owners(role, door) is None
    assert take.owners(Role.OPERATOR, Door.EXTERNAL) is None
    assert approve.owners(Role.PARTNER, Door.EXTERNAL) is Owner.OWN
    assert approve.owners(Role.PARTNER, Door.STAFF) is None
    assert approve.owners(Role.AUDITOR, Door.STAFF) is None
    readers = [rule for (_, method, _), rule in RULES.items() if method != "GET" and not rule.is_open]
    assert not [rule for rule in readers if Role.AUDITOR in rule.roles or Role.DBA in rule.roles]


async def test_every_cell_of_the_table_is_as_the_services_answer(doors: Doors) -> None:
    """Right means: let in, refused by 403, or answered as if another's order did not exist."""
    wrong, cells = await wrong_cells(doors)
    assert wrong == []
    assert cells > 1500


async def wrong_cells(doors: Doors) -> tuple[list[str], int]:
    """Ask for every route as every role at every door, for orders of one's own and of others.

    Returns:
        the cells that are wrong, and how many there are.
    """
    started = ok(await doors.services.start(), 201)
    other = ok(await doors.services.start(), 201)
    orders = {
        "shop": (started["order_id"], other["order_id"]),
        "mes": (await doors.services.b2b(), await of_partner(doors.services, PARTNERS[1])),
    }
    orders["crm"], orders["board"] = orders["mes"], orders["shop"]
    for order_id in orders["board"]:
        admin = partial(doors.send, "board", "GET", f"/v1/orders/{order_id}", bearer=doors.keys["admin"])
        await eventually(admin, lambda answer: answer.status_code == 200)
    for order_id in orders["crm"]:
        await doors.services.shows(doors.services.crm, order_id, "SUBMITTED")
    wrong, cells = [], 0
    for (service, method, path), rule in RULES.items():
        for role, door, owner in itertools.product(Role, Door, Owner):
            if "{" not in path and owner is Owner.ANY:
                continue
            cells += 1
            order_id = orders[service][0 if owner is Owner.OWN else 1]
            partner = PARTNERS[0 if owner is Owner.OWN else 1]
            bearer = (
                doors.keys[PARTNERS[0] if role is Role.PARTNER else role.value]
                if role is not Role.CUSTOMER
                else started["link"]
            )
            given = path.format(order_id=order_id, partner=partner, webhook_id="wh_none", quote_id="q_none")
            answer = await doors.send(service, method, given, bearer=bearer, door=door)
            reach = rule.owners(role, door)
            is_foreign = role in OWN_ONLY and (
                owner is Owner.ANY or (role is Role.CUSTOMER and service not in {"shop", "board"})
            )
            status = answer.status_code
            if reach is None:
                right = status == 403
            elif is_foreign and "{order_id}" in path:
                # Without a body a change is refused before anything is looked for.
                right = status in {404, 422}
            elif is_foreign and "{partner}" in path:
                right = status == 404
            elif "{webhook_id}" in path or "{quote_id}" in path:
                kind = "webhook" if "{webhook_id}" in path else "quote"
                right = status == 422 or problem(answer, 404)["type"].endswith(f":unknown-{kind}")
            elif "/oidc/" in path and method == "GET":
                right = problem(answer, 404)["type"].endswith(":oidc-off")
            else:
                right = status not in {401, 403, 404}
            if not right:
                wrong.append(f"{role} {owner} {door}: {method} {service}{path}: {status}")
    return wrong, cells


async def of_partner(services: Services, partner: str) -> str:
    """Order as another partner; give the order's id."""
    answer = await services.mes.post(
        f"/v1/partners/{partner}/orders",
        files={"file": ("ring.stl", MODEL)},
        data={"material": "brass", "finish": "matte", "quantity": "3"},
        headers={"Idempotency-Key": new_key()},
    )
    return await services.placed(answer)


async def test_without_a_credential_only_open_routes_answer(doors: Doors) -> None:
    for (service, method, path), rule in RULES.items():
        given = path.format(order_id=17, partner="atelier-nord", webhook_id="wh_none", quote_id="q_none")
        for door in Door:
            answer = await doors.send(service, method, given, door=door)
            is_open = rule.is_open and door in {*rule.doors, Door.INTERNAL}
            assert (answer.status_code == 401) is not is_open, (service, method, path, door, answer.text)
            if not is_open:
                assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_foreign_and_unknown_orders_are_answered_alike(doors: Doors) -> None:
    foreign = await of_partner(doors.services, PARTNERS[1])
    await doors.services.shows(doors.services.crm, foreign, "SUBMITTED")
    key = doors.keys[PARTNERS[0]]
    for service, method, what in (
        ("mes", "GET", ""),
        ("crm", "GET", ""),
        ("crm", "POST", "/approve"),
        ("crm", "POST", "/requote"),
    ):
        said = [
            problem(await doors.send(service, method, f"/v1/orders/{order_id}{what}", bearer=key), 404)
            for order_id in (foreign, "17")
        ]
        plain = [str(each).replace(foreign, "ID").replace("17", "ID") for each in said]
        assert plain[0] == plain[1]
    assert ok(await doors.services.crm.get(f"/v1/orders/{foreign}"))["status"] == "SUBMITTED"


async def test_a_partner_sees_his_own_order_before_it_is_placed_and_others_do_not(doors: Doors) -> None:
    answer = await doors.services.b2b_response()
    order_id = ok(answer, 202)["order_id"]
    mine, theirs = (doors.keys[partner] for partner in PARTNERS)
    ok(await doors.send("mes", "GET", f"/v1/orders/{order_id}", bearer=mine, door=Door.EXTERNAL))
    problem(await doors.send("mes", "GET", f"/v1/orders/{order_id}", bearer=theirs, door=Door.EXTERNAL), 404)
    await doors.services.placed(answer)


async def test_the_partner_approves_his_order(doors: Doors) -> None:
    order_id = await doors.services.b2b()
    await doors.services.price(order_id)
    await doors.services.shows(doors.services.crm, order_id, "PRICE_CALCULATED")
    approve = f"/v1/orders/{order_id}/approve"
    problem(await doors.send("crm", "POST", approve, bearer=doors.keys[PARTNERS[1]]), 404)
    ok(await doors.send("crm", "POST", approve, bearer=doors.keys[PARTNERS[0]], door=Door.EXTERNAL))
    shown = await doors.services.shows(doors.services.mes, order_id, "MANUFACTURING_APPROVED")
    assert shown["history"][-1]["actor"] == PARTNERS[0]


async def test_a_customer_confirms_the_price_of_his_own_order_and_nothing_more(doors: Doors) -> None:
    services = doors.services
    order_id = await services.b2c()
    await services.shows(services.mes, order_id, "SUBMITTED")
    own, other = (KEYS.sign(TokenUse.LINK, {"sub": str(each)}) for each in (order_id, 17))
    order = f"/v1/orders/{order_id}"
    # Before it has a price there is nothing to confirm.
    problem(await doors.send("crm", "POST", f"{order}/approve", bearer=own), 409)
    await services.price(order_id)
    await services.shows(services.crm, order_id, "PRICE_CALCULATED")
    problem(await doors.send("crm", "POST", f"{order}/approve", bearer=other), 404)
    for door in (Door.CUSTOMER, Door.STAFF, Door.EXTERNAL):
        problem(await doors.send("crm", "POST", f"{order}/approve", bearer=own, door=door), 403)
    for step in ("requote", "close"):
        problem(await doors.send("crm", "POST", f"{order}/{step}", bearer=own), 403)
    ok(await doors.send("crm", "POST", f"{order}/approve", bearer=own))
    shown = await services.shows(services.mes, order_id, "MANUFACTURING_APPROVED")
    assert shown["history"][-1]["actor"] == "customer"


async def test_a_customer_orders_by_a_link_of_his_own(doors: Doors) -> None:
    key = {"Idempotency-Key": f"a-key-that-no-one-guesses-{new_key()}"}
    short = await doors.send(
        "shop", "POST", "/v1/orders", door=Door.CUSTOMER, json=START, headers={"Idempotency-Key": "1"}
    )
    assert problem(short, 422)["type"].endswith(":idempotency-key-guessable")
    made = ok(
        await doors.send("shop", "POST", "/v1/orders", door=Door.CUSTOMER, json=START, headers=key), 201
    )
    own = {"bearer": made["link"], "door": Door.CUSTOMER}
    order = f"/v1/orders/{made['order_id']}"
    ok(await doors.send("shop", "PUT", f"{order}/model", files={"file": ("ring.stl", MODEL)}, **own))
    ok(await doors.send("shop", "POST", f"{order}/submit", **own))
    assert ok(await doors.send("shop", "GET", order, **own))["status"] == "SUBMITTED"
    other = ok(await doors.services.start(), 201)["order_id"]
    for path in (f"/v1/orders/{other}", "/v1/orders/17"):
        problem(await doors.send("shop", "GET", path, **own), 404)
        problem(await doors.send("shop", "POST", f"{path}/submit", **own), 404)
    # With a link of another order, a short key is refused as well: it would open what it was used for.
    again = await doors.send(
        "shop", "POST", "/v1/orders", json=START, headers={"Idempotency-Key": "1"}, **own
    )
    assert problem(again, 422)["type"].endswith(":idempotency-key-guessable")
    # The same key of a caller who is known is another one.
    same = await doors.services.start(key=key["Idempotency-Key"])
    assert ok(same, 201)["order_id"] != made["order_id"]


@pytest.mark.parametrize("spoofed", ["internal", "staff", "INTERNAL", "", "x" * 5000])
async def test_a_door_is_believed_from_the_proxy_alone(doors: Doors, spoofed: str) -> None:
    """Who connects himself is past the gateway, whatever he says; and no door makes a partner an operator."""
    key = doors.keys[PARTNERS[0]]
    answer = await doors.send("mes", "GET", "/v1/orders", bearer=key, door=spoofed, peer="192.0.2.7")
    problem(answer, 403)
    problem(await doors.send("mes", "POST", "/v1/orders/17/take", door=spoofed, peer="192.0.2.7"), 401)


async def test_a_service_token_opens_the_internal_door_alone(doors: Doors) -> None:
    token = acting("Rosa", Role.OPERATOR)["Authorization"].removeprefix("Bearer ")
    ok(await doors.send("mes", "GET", "/v1/orders", bearer=token))
    for door in (Door.STAFF, Door.EXTERNAL, Door.CUSTOMER):
        problem(await doors.send("mes", "GET", "/v1/orders", bearer=token, door=door), 401)


async def test_a_proxy_that_names_no_door_opens_none(doors: Doors) -> None:
    """It may be an outer one whose rule was forgotten; without a header it would be the internal door."""
    token = acting("Rosa", Role.OPERATOR)["Authorization"].removeprefix("Bearer ")
    for named in (None, "cellar", "", "internal, external"):
        answer = await doors.send("mes", "GET", "/v1/orders", bearer=token, peer=PROXY, door=named)
        assert problem(answer, 403)["type"].endswith(":door-unknown")
    problem(await doors.send("shop", "POST", "/v1/orders", json=START, peer=PROXY), 403)


async def test_scopes_bound_what_a_key_does(doors: Doors) -> None:
    async def make(session: WriteSession) -> str:
        made = await identities.create(session, "reader", Role.PARTNER, by="test", scopes=["read"])
        return made.text

    key = await doors.change(make)
    problem(await doors.send("mes", "GET", "/v1/orders/17", bearer=key), 404)
    problem(await doors.send("mes", "POST", "/v1/partners/reader/orders", bearer=key), 403)


async def test_a_key_for_trying_out_makes_no_order_in_earnest(doors: Doors) -> None:
    async def make(session: WriteSession) -> str:
        made = await identities.create(session, "trying", Role.PARTNER, by="test", sandbox=True)
        return made.text

    key = await doors.change(make)
    for path in ("orders", "orders/batch"):
        refused = problem(await doors.send("mes", "POST", f"/v1/partners/trying/{path}", bearer=key), 403)
        assert refused["type"].endswith("sandbox-order")
    ok(await doors.send("mes", "GET", "/v1/partners/trying/orders", bearer=key))


async def test_a_key_of_a_sandbox_and_one_in_earnest_open_nothing_of_the_other(doors: Doors) -> None:
    made = await doors.change(
        lambda s: identities.create(s, "tester", Role.PARTNER, by="test", in_sandbox=True)
    )
    tried, earnest = made.text, doors.keys[PARTNERS[0]]
    assert (tried[:3], earnest[:3]) == ("mt_", "mk_")
    for service, app in doors.apps.items():
        access: Access = app.state.access
        refused = problem(await doors.send(service, "GET", "/v1/orders/17", bearer=tried), 401)
        assert (refused["type"].rpartition(":")[2], refused["sandbox"]) == ("key-of-other-kind", False)
        access.registry.in_sandbox = True
        try:
            refused = problem(await doors.send(service, "GET", "/v1/orders/17", bearer=earnest), 401)
            assert (refused["type"].rpartition(":")[2], refused["sandbox"]) == ("key-of-other-kind", True)
            answer = await doors.send(service, "GET", "/v1/orders/17", bearer=tried)
            assert answer.status_code in {403, 404}  # known, and it has no such order
        finally:
            access.registry.in_sandbox = False
    client = {"grant_type": "client_credentials", "client_id": "tester", "client_secret": tried}
    problem(await doors.send("mes", "POST", "/v1/token", data=client), 401)


async def test_a_key_is_rotated_and_both_are_good_meanwhile(doors: Doors) -> None:
    first = (await doors.change(lambda s: identities.create(s, "rotating", Role.PARTNER, by="test"))).text
    second = (await doors.change(lambda s: identities.rotate(s, "rotating"))).text
    for key in (first, second):
        problem(await doors.send("mes", "GET", "/v1/orders/17", bearer=key), 404)
    with pytest.raises(TooManyKeys):
        await doors.change(lambda s: identities.rotate(s, "rotating"))
    await doors.change(lambda s: identities.revoke_key(s, first.split("_")[1]))
    problem(await doors.send("mes", "GET", "/v1/orders/17", bearer=first), 401)
    problem(await doors.send("mes", "GET", "/v1/orders/17", bearer=second), 404)


async def test_a_key_is_rotated_under_load_and_no_request_is_refused(doors: Doors) -> None:
    made = await doors.change(lambda s: identities.create(s, "busy", Role.PARTNER, by="test"))
    key, answers, is_over = made.text, Counter[int](), False

    async def load() -> None:
        while not is_over:
            answers[(await doors.send("mes", "GET", "/v1/usage", bearer=key)).status_code] += 1

    async def more_than(count: int) -> bool:
        return answers.total() > count

    async with asyncio.TaskGroup() as tasks:
        loads = [tasks.create_task(load()) for _ in range(4)]  # fewer than are worked on at once
        for _ in range(5):
            old = made.credential_id
            made = await doors.change(lambda s: identities.rotate(s, "busy", keep=timedelta(hours=1)))
            key = made.text
            await until(partial(more_than, answers.total() + 2 * len(loads)))  # no one asks with the old one
            await doors.change(partial(identities.revoke_key, key_id=old))
        is_over = True
    assert answers.keys() == {200}
    assert answers.total() >= 40


async def test_a_revoked_identity_is_out_at_the_next_look(doors: Doors) -> None:
    """Which is five times a second; a machine that is busy takes longer."""
    key = (await doors.change(lambda s: identities.create(s, "leaving", Role.OPERATOR, by="test"))).text
    ok(await doors.send("mes", "GET", "/v1/orders", bearer=key))
    await doors.directory.transact(lambda s: identities.revoke(s, "leaving"))
    ask = partial(doors.send, "mes", "GET", "/v1/orders", bearer=key)
    await eventually(ask, lambda answer: answer.status_code == 401, seconds=5.0)
    with pytest.raises(UnknownIdentity):
        await doors.directory.transact(lambda s: identities.rotate(s, "leaving"))
    with pytest.raises(IdentityExists):
        await doors.directory.transact(lambda s: identities.create(s, "leaving", Role.ADMIN, by="test"))


async def test_a_partner_turns_his_key_into_a_token(doors: Doors) -> None:
    key = doors.keys[PARTNERS[0]]
    form = {"grant_type": "client_credentials", "client_id": PARTNERS[0], "client_secret": key}
    answer = await doors.send("mes", "POST", "/v1/token", door=Door.EXTERNAL, data=form)
    token = ok(answer)["access_token"]
    assert answer.headers["Cache-Control"] == "no-store"
    problem(await doors.send("mes", "GET", "/v1/orders/17", bearer=token, door=Door.EXTERNAL), 404)
    problem(await doors.send("mes", "GET", "/v1/orders", bearer=token, door=Door.EXTERNAL), 403)
    for change in (
        {"client_id": PARTNERS[1]},
        {"client_secret": f"{key[:20]}{'A' if key[20] != 'A' else 'B'}{key[21:]}"},
        {"client_secret": token[:99]},
    ):
        problem(await doors.send("mes", "POST", "/v1/token", data=form | change), 401)
    problem(await doors.send("mes", "POST", "/v1/token", data=form | {"grant_type": "password"}), 422)


async def test_staff_log_in_with_a_cookie_that_scripts_and_other_sites_cannot_use(doors: Doors) -> None:
    await doors.change(lambda s: identities.create(s, "Rosa", Role.OPERATOR, by="test", password=PASSWORD))
    wrong = await doors.send(
        "mes", "POST", "/v1/login", door=Door.STAFF, json={"name": "Rosa", "password": "x"}
    )
    absent = await doors.send(
        "mes", "POST", "/v1/login", door=Door.STAFF, json={"name": "Eve", "password": "x"}
    )
    assert problem(wrong, 401)["detail"] == problem(absent, 401)["detail"]
    answer = await doors.send(
        "mes", "POST", "/v1/login", door=Door.STAFF, json={"name": "Rosa", "password": PASSWORD}
    )
    assert answer.status_code == 204
    said = answer.headers["Set-Cookie"]
    assert all(word in said for word in (f"{COOKIE}=", "HttpOnly", "Secure", "SameSite=strict", "Path=/"))
    cookie = {"Cookie": said.partition(";")[0]}
    ok(await doors.send("mes", "GET", "/v1/orders", door=Door.STAFF, headers=cookie))
    ours, theirs = {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "cross-site"}
    take = "/v1/orders/17/take"
    problem(await doors.send("mes", "POST", take, door=Door.STAFF, headers=cookie | ours), 404)
    for headers in (theirs, {"Origin": "https://evil.example"}, {"Origin": "null"}, {}):
        refused = problem(
            await doors.send("mes", "POST", take, door=Door.STAFF, headers=cookie | headers), 403
        )
        assert refused["type"].endswith(":cross-site-request")
    # As a bearer it is no good: a page's script has no use for what it steals.
    session = cookie["Cookie"].partition("=")[2]
    problem(await doors.send("mes", "GET", "/v1/orders", bearer=session), 401)
    await doors.change(lambda s: identities.revoke(s, "Rosa"))
    problem(await doors.send("mes", "GET", "/v1/orders", door=Door.STAFF, headers=cookie), 401)


async def test_who_guesses_is_made_to_wait_and_no_one_else(doors: Doors) -> None:
    bad = "mk_abcdefghijkl_" + "A" * 43
    statuses = [
        (await doors.send("crm", "GET", "/v1/orders", bearer=bad, peer="198.51.100.9")).status_code
        for _ in range(25)
    ]
    assert statuses == [401] * 20 + [429] * 5
    refused = await doors.send("crm", "GET", "/v1/orders", bearer=bad, peer="198.51.100.9")
    assert 0 < int(refused.headers["Retry-After"]) <= 60
    for peer in ("198.51.100.9", "198.51.100.10"):
        ok(await doors.send("crm", "GET", "/v1/orders", bearer=doors.keys["seller"], peer=peer))


async def test_no_other_site_reads_an_answer_and_none_says_what_serves_it(doors: Doors) -> None:
    asking = {"Origin": "https://evil.example", "Access-Control-Request-Method": "GET"}
    for service, method, status in itertools.product(BUILDS, ("OPTIONS", "TRACE", "GET"), (405,)):
        answer = await doors.send(service, method, "/v1/orders/17", headers=asking)
        assert answer.status_code == (401 if method == "GET" else status)
        assert [name for name in answer.headers if name.startswith("access-control-")] == []
        assert answer.headers.keys() & {"server", "x-powered-by"} == set()


@pytest.mark.parametrize(
    "header",
    ["Basic cm9zYTpyb3Nh", "Bearer", "Bearer ", "bearer  x", "Digest x", "Bearer " + "x" * 8000, "mk_"],
)
async def test_a_header_that_is_no_credential(doors: Doors, header: str) -> None:
    answer = await doors.send(
        "crm", "GET", "/v1/orders", headers={"Authorization": header}, peer="203.0.113.5"
    )
    problem(answer, 401)


async def test_a_session_that_has_ended_is_as_none(doors: Doors) -> None:
    """Browsers keep a cookie for longer than it is good: it must not keep its owner from a new one."""
    await doors.change(lambda s: identities.create(s, "Lena", Role.SELLER, by="test", password=PASSWORD))
    ended = KEYS.sign(TokenUse.SESSION, {"sub": "Lena", "iid": 1}, now=datetime.now(UTC) - timedelta(days=1))
    of_other_keys = TokenKeys({"old": "x" * 32}).sign(TokenUse.SESSION, {"sub": "Lena", "iid": 1})
    login = partial(doors.send, "crm", "POST", "/v1/login", json={"name": "Lena", "password": PASSWORD})
    for cookie in (ended, of_other_keys, "x"):
        for _ in range(25):
            headers = {"Cookie": f"{COOKIE}={cookie}"}
            problem(await doors.send("crm", "GET", "/v1/orders", door=Door.STAFF, headers=headers), 401)
        assert (await login(door=Door.STAFF, headers=headers)).status_code == 204
        answer = await doors.send("crm", "POST", "/v1/logout", door=Door.STAFF, headers=headers)
        assert answer.status_code == 204
        assert f'{COOKIE}="";' in answer.headers["Set-Cookie"]
    # Who logs out ends that session, wherever its cookie was copied to, and no other one.
    cookies = []
    for _ in range(2):
        answer = await login(door=Door.STAFF)
        assert answer.status_code == 204, answer.text
        cookies.append({"Cookie": answer.headers["Set-Cookie"].partition(";")[0]})
    ends = {**cookies[0], "Sec-Fetch-Site": "same-origin"}
    for service in ("board", "crm"):
        answer = await doors.send(service, "POST", "/v1/logout", door=Door.STAFF, headers=ends)
        assert answer.status_code == 204
        await doors.refresh()
        for other in ("crm", "mes"):
            problem(await doors.send(other, "GET", "/v1/orders/17", door=Door.STAFF, headers=cookies[0]), 401)
            problem(await doors.send(other, "GET", "/v1/orders/17", door=Door.STAFF, headers=cookies[1]), 404)


async def test_bad_passwords_are_counted_while_others_are_checked(doors: Doors) -> None:
    """A password takes long to check, in threads: those that come meanwhile are counted too, by IPv6 /64."""
    at_once = asyncio.Semaphore(4)

    async def login(peer: str) -> int:
        async with at_once:
            body = {"name": "Eve", "password": "x"}
            return (await doors.send("mes", "POST", "/v1/login", json=body, peer=peer)).status_code

    found = await asyncio.gather(*(login(f"2001:db8:7:1::{number:x}") for number in range(30)))
    assert Counter(found) == {401: 20, 429: 10}
    assert await login("2001:db8:7:2::1") == 401


def test_attempts_are_counted_across_threads() -> None:
    attempts = Attempts(clock=lambda: 0.0)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            let_in = sum(threads.map(lambda _: is_counted(attempts), range(4000)))
    finally:
        sys.setswitchinterval(interval)
    assert let_in == 20


def is_counted(attempts: Attempts) -> bool:
    try:
        attempts.count("203.0.113.77")
    except TooManyAttempts:
        return False
    return True


async def test_two_credentials_are_one_too_many(doors: Doors) -> None:
    transport = ASGITransport(doors.apps["crm"])
    async with AsyncClient(transport=transport, base_url="http://service") as client:
        headers = [("Authorization", f"Bearer {doors.keys['seller']}"), ("Authorization", "Bearer x")]
        problem(await client.get("/v1/orders", headers=headers), 401)


async def test_what_was_known_stays_good_for_a_time_while_the_directory_is_away(
    module_topology: Topology,
) -> None:
    topology = module_topology
    await save_map(topology)
    moment = 0.0
    async with open_cluster(
        topology, "directory", role="directory_owner", application_name="test"
    ) as directory:
        made = (
            await directory.transact(lambda s: identities.create(s, "known", Role.SELLER, by="test"))
        ).value
        registry = Registry(directory, stale_seconds=300, clock=lambda: moment)
        with pytest.raises(IdentitiesUnknown):
            registry.find(made.text)
        await registry.refresh()
        moment = 299.0
        assert registry.find(made.text) is not None
        moment = 301.0
        with pytest.raises(IdentitiesUnknown):
            registry.find(made.text)
        await registry.write_uses()
        rows = await directory.transact(_last_use)
        assert rows.value is not None


@pytest.mark.parametrize("never", ["infinity", "-infinity", "20000-01-01", "0300-01-01 BC"])
async def test_a_time_that_python_has_not_keeps_no_other_identity_from_being_read(
    doors: Doors, never: str
) -> None:
    made = await doors.change(lambda s: identities.create(s, f"n{never}", Role.SELLER, by="test"))
    of_it = text("UPDATE identity_keys SET expires_at = CAST(:at AS timestamptz) WHERE key_id = :key")
    await doors.change(lambda s: s.execute(of_it, {"at": never, "key": made.credential_id}))
    other = await doors.change(lambda s: identities.create(s, f"o{never}", Role.SELLER, by="test"))
    assert (await doors.send("crm", "GET", "/v1/orders", bearer=other.text)).status_code == 200
    is_good = not never.startswith("-") and "BC" not in never
    answer = await doors.send("crm", "GET", "/v1/orders", bearer=made.text)
    assert answer.status_code == (200 if is_good else 401)
    await doors.change(lambda s: identities.revoke(s, f"n{never}"))


@pytest.mark.parametrize(
    "limits",
    [
        '{"requests_per_second": "50"}',
        '{"requests_per_second": 0, "burst": -1}',
        '{"burst": null}',
        '{"concurrent": "x", "colour": 1}',
        '{"burst": 1e308}',
        '{"concurrent": true}',
        '["x"]',
        "7",
    ],
)
async def test_limits_that_are_nonsense_are_those_of_the_role(doors: Doors, limits: str) -> None:
    name = f"partner of {limits[:60]}"
    made = await doors.change(lambda s: identities.create(s, name, Role.PARTNER, by="test"))
    of_it = text("UPDATE identities SET limits = CAST(:limits AS jsonb) WHERE name = :name")
    await doors.change(lambda s: s.execute(of_it, {"limits": limits, "name": name}))
    known = doors.apps["mes"].state.access.registry.find(made.text)
    caller = Caller(name=name, role=Role.PARTNER, identity_id=1, limits=known.identity.limits)
    assert CallerLimits(doors.apps["mes"].state.limits.redis).plan_of(caller) == PLANS[Role.PARTNER]


async def test_a_lock_on_a_key_delays_no_revocation(
    doors: Doors, module_topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The times of last use are written beside the looking, and the looking waits for no lock."""
    monkeypatch.setattr("app.access.registry.USED_SECONDS", 0.05)
    made = await doors.change(lambda s: identities.create(s, "locked", Role.SELLER, by="test"))
    leaving = await doors.change(lambda s: identities.create(s, "outgoing", Role.SELLER, by="test"))
    registry = Registry(doors.directory, stale_seconds=300)
    await registry.refresh()
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks, doors.directory.write() as session:
        try:
            await session.execute(
                select(IdentityKey).where(IdentityKey.key_id == made.credential_id).with_for_update()
            )
            assert registry.find(made.text) is not None
            tasks.create_task(registry.run(stop))
            tasks.create_task(registry.run_uses(stop))
            await until(lambda: is_writing(doors.directory))
            await doors.directory.transact(lambda s: identities.revoke(s, "outgoing"))
            await until(lambda: is_unknown(registry, leaving.text))
        finally:
            stop.set()
            await session.rollback()


async def is_writing(directory: Cluster) -> bool:
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%last_used_at%'"
    )
    async with directory.read() as session:
        return bool(await session.scalar(text(waiting)))


async def is_unknown(registry: Registry, key: str) -> bool:
    return registry.find(key) is None


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await holds():  # noqa: ASYNC110 (what is waited for is in another server)
            await asyncio.sleep(0.02)


async def test_another_partner_cannot_lock_an_order(doors: Doors) -> None:
    """He asks by a key of his own, and the order's owner is asked before its row is locked."""
    order_id = int(await doors.services.approved())

    async def try_it(session: WriteSession) -> None:
        with pytest.raises(UnknownOrder):
            await lock_order(session, MES, order_id)

    async def hold(session: WriteSession) -> None:
        await lock_order(session, MES, order_id)
        for caller in (
            Caller(name=PARTNERS[1], role=Role.PARTNER),
            Caller(name="customer", role=Role.CUSTOMER, order_ids=frozenset({17})),
        ):
            with calling(caller):
                async with asyncio.timeout(10):
                    await doors.services.shards.transact(order_id, try_it)

    await doors.services.shards.transact(order_id, hold)


async def renew(services: Services, order_id: str) -> None:
    """Do what the pricing worker does when an order is priced anew."""

    async def work(session: WriteSession) -> None:
        order, now = await lock_order(session, MES, int(order_id)), datetime.now(UTC)
        event = PriceRenewed(actor="pricing", price=Decimal("400.00"), items=())
        await renew_price(session, MES, order, event, now=now)
        await announce(session, MES, order, event, now=now)

    await services.shards.transact(int(order_id), work)


STAFF = ("Sara Seller", "Otto Operator", "Olga Operator")


async def test_partners_see_roles_and_no_names_of_staff(doors: Doors) -> None:
    """By each route that a partner reaches, whatever he asks for, and by all statuses of his order."""
    sara, otto = (acting(name, role) for name, role in zip(STAFF, (Role.SELLER, Role.OPERATOR), strict=False))
    asked: dict[str, Any] = {
        "files": {"file": ("ring.stl", MODEL)},
        "headers": {"Idempotency-Key": new_key()},
        "data": {"material": "brass", "finish": "matte", "quantity": "3"},
    }
    services, key, partner = doors.services, doors.keys[PARTNERS[0]], f"/v1/partners/{PARTNERS[0]}"
    order_id = await services.placed(await services.mes.post(f"{partner}/orders", **asked))
    order = f"/v1/orders/{order_id}"
    await services.price(order_id)
    await services.shows(services.crm, order_id, "PRICE_CALCULATED")
    ok(await services.crm.post(f"{order}/requote", headers=sara), 202)
    await eventually(partial(services.mes.get, order), lambda answer: "requote_requested" in answer.text)
    await renew(services, order_id)
    await eventually(partial(services.crm.get, order), lambda answer: "price_renewed" in answer.text)
    ok(await services.crm.post(f"{order}/approve", headers=sara))
    await services.shows(services.mes, order_id, "MANUFACTURING_APPROVED")
    ok(await services.mes.post(f"{order}/take", headers=otto))
    await services.shows(services.crm, order_id, "MANUFACTURING_STARTED")

    async def refuse(session: WriteSession) -> None:
        asked_for = CancelRequested(actor=STAFF[0], reason="too late")
        held = await lock_order(session, MES, int(order_id))
        await _refuse(session, MES, held, asked_for, datetime.now(UTC))

    await services.shards.transact(int(order_id), refuse)
    refused = partial(services.crm.get, order)
    await eventually(refused, lambda answer: "cancel_refused" in answer.text)
    assert STAFF[1] in (await refused()).text
    said = []
    for (service, method, path), rule in RULES.items():
        for door in (Door.EXTERNAL, Door.INTERNAL):
            if rule.owners(Role.PARTNER, door) is None:
                continue
            given = path.format(
                order_id=order_id, partner=PARTNERS[0], webhook_id="wh_none", quote_id="q_none"
            )
            content = (
                asked if path.endswith("/orders") and method == "POST" else {"json": {"reason": "no more"}}
            )
            content = {**content, "headers": dict(content.get("headers", {}))} if method == "POST" else {}
            answer = await doors.send(service, method, given, bearer=key, door=door, **content)
            said.append(f"{method} {service}{path} {answer.status_code}: {answer.headers} {answer.text}")
    assert [each for each in said if any(name in each for name in STAFF)] == []
    shown = {
        service: ok(await doors.send(service, "GET", order, bearer=key, door=Door.EXTERNAL))
        for service in ("mes", "crm")
    }
    assert shown["mes"]["operator"] == "operator"
    actors = [(line["status"], line["actor"]) for line in shown["crm"]["history"]]
    assert actors[:4] == [
        ("SUBMITTED", PARTNERS[0]),
        ("PRICE_CALCULATED", "pricing"),
        ("PRICE_CALCULATED", "seller"),
        ("PRICE_CALCULATED", "pricing"),
    ]
    assert [line["detail"] for line in shown["mes"]["history"] if "cancel_refused" in line["detail"]] == [
        {"cancel_refused": "it is already MANUFACTURING_STARTED", "asked_by": "seller"}
    ]
    # Our own people see names.
    mine = ok(await services.mes.get(order))
    assert (mine["operator"], mine["history"][-2]["actor"]) == (STAFF[1], STAFF[1])


async def _last_use(session: WriteSession) -> Any:
    used = select(IdentityKey.last_used_at).join(Identity).where(Identity.name == "known")
    found = await session.scalars(used)
    return found.one()
