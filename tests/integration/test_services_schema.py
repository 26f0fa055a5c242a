"""The APIs do what their descriptions say: valid requests are taken, what is refused is described."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from http.cookiejar import DefaultCookiePolicy
from typing import Any, TypeAlias, cast

import httpx
import pytest
import schemathesis
import uvicorn
from fastapi import FastAPI
from hypothesis import assume, given, seed, settings
from hypothesis.errors import Unsatisfiable
from requests import Session
from schemathesis.checks import CheckFunction, not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    content_type_conformance,
    missing_required_header,
    negative_data_rejection,
    positive_data_acceptance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from app.access.credentials import TokenUse
from app.access.table import rule_of
from app.board.application import build as build_board
from app.crm.application import build as build_crm
from app.kit.caller import Door, Role
from app.mes.application import build as build_mes
from app.serve import server_config
from app.settings import Settings
from app.shop.application import build as build_shop
from ops.ports import LOOPBACK
from ops.waiting import wait_until
from sharding.topology import Topology
from tests.callers import KEYS, acting
from tests.integration.services_rig import fast_settings, new_key, save_map

pytestmark = [pytest.mark.field, pytest.mark.long]
BUILDS: Mapping[str, Callable[[Settings, Topology], FastAPI]] = {
    "shop": build_shop,
    "crm": build_crm,
    "mes": build_mes,
    "board": build_board,
}
EXAMPLES = 10
"""Of each operation, seeded. A description that allows any status, any reason or a quantity of 0 is found by
ten as by 25; `make soak` tries ten times as many."""
Case: TypeAlias = "schemathesis.Case[Any]"
CHECKS: list[CheckFunction] = [
    allow_header_conformance,
    content_type_conformance,
    missing_required_header,
    negative_data_rejection,
    not_a_server_error,
    positive_data_acceptance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
]


@contextmanager
def served(app: FastAPI, settings: Settings) -> Iterator[str]:
    """Serve an application on a loop of its own; give its URL."""
    server = uvicorn.Server(server_config(app, settings, host=LOOPBACK, port=0))

    async def serve() -> None:
        async with app.router.lifespan_context(app):
            await server.serve()

    thread = threading.Thread(target=asyncio.run, args=[serve()])
    thread.start()
    try:
        assert wait_until(lambda: server.started, timeout_seconds=60)
        yield f"http://{LOOPBACK}:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def urls(module_topology: Topology) -> Iterator[Mapping[str, str]]:
    """Serve the three services and the board; give where they are."""
    asyncio.run(save_map(module_topology))
    made = fast_settings(module_topology)
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(served(build(made, module_topology), made))
            for name, build in BUILDS.items()
        }


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """Give a session that connects once, takes no cookies, and does not look for a .netrc."""
    with Session() as session:
        session.trust_env = False
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        yield session


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    """Give a client that all requests share: each of its own would read every authority's certificate."""
    with httpx.Client() as client:
        yield client


def said_otherwise(case: Case) -> bool:
    """Return whether a case is refused by what no schema can say, and the text of the description does."""
    body = case.body if isinstance(case.body, dict) else {}
    # Of a whole number JSON Schema says nothing about how it is written.
    return isinstance(body.get("quantity"), float)


def mend(case: Case) -> None:
    """Mend what no schema says: orders of a batch have keys of their own, and a webhook a public host."""
    body: dict[str, Any] = case.body if isinstance(case.body, dict) else {}
    for each in body.get("orders", ()):
        each |= {"idempotency_key": new_key(), "quantity": int(each["quantity"])}
    if "url" in body:
        body["url"] = "https://erp.example.com/hooks"
    if case.path.endswith("/quotes"):  # by a file or by a model, and no schema of a form says so
        body.pop("file", None)
        body["model"] = body.get("model") or "AYd2Fq"


STRANGERS = ("Unknown operator", "Unknown model")


@pytest.mark.parametrize("examples", [EXAMPLES, pytest.param(10 * EXAMPLES, marks=pytest.mark.soak)])
@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("service", BUILDS)
def test_what_the_description_says_holds(
    urls: Mapping[str, str], session: Session, service: str, mode: GenerationMode, examples: int
) -> None:
    schema = schemathesis.openapi.from_url(f"{urls[service]}/openapi.json")
    tried = 0
    operations = (cast("Any", found).ok() for found in schema.get_all_operations())
    # A stream has no end to wait for.
    for operation in (each for each in operations if each.path != "/v1/changes"):

        @seed(16)
        @settings(max_examples=examples, database=None)
        @given(case=operation.as_strategy(generation_mode=mode))
        def holds(case: Case) -> None:
            assume(not said_otherwise(case))
            case.headers.pop("Causal-Token", None)  # nor what is a signature
            if service == "mes":
                case.query.pop("cursor", None)
            if mode is GenerationMode.POSITIVE and "Idempotency-Key" in case.headers:
                case.headers["Idempotency-Key"] = new_key()  # nor that one key is for one request
            if mode is GenerationMode.POSITIVE:
                mend(case)
            case.headers.update(acting("Rosa"))
            answer = case.call(session=session)
            # Nor how a file's name ends; all of them end wrongly here.
            is_file = case.media_type == "multipart/form-data" and answer.status_code == 415
            # Nor which operators and models there are.
            is_stranger = answer.status_code == 422 and answer.json()["title"] in STRANGERS
            is_known = not (is_file or is_stranger)
            checks = [check for check in CHECKS if is_known or check is not positive_data_acceptance]
            case.validate_response(answer, checks=checks)

        with suppress(Unsatisfiable):  # of an operation without parameters there is no wrong request
            holds()
            tried += 1
    assert tried > 3


ROLE_CHECKS: list[CheckFunction] = [
    content_type_conformance,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]
ROLE_EXAMPLES = 3
ROLES = (Role.PARTNER, Role.CUSTOMER, Role.OPERATOR, Role.SELLER, Role.AUDITOR, Role.DBA)
PARTNER = "atelier-nord"


def as_role(role: Role) -> dict[str, str]:
    """Return the credential of a role: of a customer it is the link of an order."""
    if role is Role.CUSTOMER:
        return {"Authorization": f"Bearer {KEYS.sign(TokenUse.LINK, {'sub': '17'})}"}
    return acting(PARTNER, role)


@pytest.mark.parametrize("role", ROLES)
def test_each_role_is_answered_as_described_and_let_in_where_the_table_says(
    urls: Mapping[str, str], role: Role
) -> None:
    tried = {True: 0, False: 0}
    for service, url in urls.items():
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        for operation in (cast("Any", found).ok() for found in schema.get_all_operations()):
            rule = rule_of(service, operation.method.upper(), operation.path)
            if rule is None:  # health, and the pages
                continue
            may = rule.owners(role, Door.INTERNAL) is not None
            tried[may] += 1

            @seed(17)
            @settings(max_examples=ROLE_EXAMPLES if may else 1, database=None)
            @given(case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
            def holds(case: Case) -> None:
                case.headers.pop("Causal-Token", None)
                case.query.pop("cursor", None)
                if "Idempotency-Key" in case.headers:
                    case.headers["Idempotency-Key"] = new_key()
                mend(case)
                case.path_parameters |= {"partner": PARTNER} if "partner" in case.path_parameters else {}
                case.headers.update(as_role(role))
                answer = case.call()
                is_refused = answer.status_code == 403
                assert is_refused is not may, f"{case.method} {case.path}: {answer.text}"  # noqa: B023 (called at once)
                case.validate_response(answer, checks=ROLE_CHECKS)

            holds()
    assert min(tried.values()) > 0


@pytest.mark.parametrize("service", BUILDS)
def test_methods(urls: Mapping[str, str], http: httpx.Client, service: str) -> None:
    url = urls[service]
    for path in ("/healthz", "/livez", "/docs", "/openapi.json", "/"):
        assert http.request("TRACE", url + path).status_code == 405
        assert http.request("FOO", url + path).status_code == 405
        got, head = http.get(url + path), http.head(url + path)
        assert (head.status_code, head.content) == (got.status_code, b"")
        for name in ("content-type", "content-length"):
            assert head.headers.get(name) == got.headers.get(name)
    head = http.head(f"{url}/v1/orders/17", headers=acting("Rosa"))
    assert (head.status_code, head.content) == (404, b"")
    assert http.head(f"{url}/v1/orders/17").status_code == 401
    refused = http.post(f"{url}/v1/orders/17")
    assert refused.status_code == 405
    assert set(refused.headers["allow"].split(", ")) == {"GET", "HEAD"}


@pytest.mark.parametrize("service", BUILDS)
@pytest.mark.parametrize("host", ["evil.example", "evil.example:80@", "[::1", "evil.example/x?y#"])
def test_the_host_that_a_client_names_is_in_no_answer(
    urls: Mapping[str, str], http: httpx.Client, service: str, host: str
) -> None:
    headers = {"Host": host, "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "evil"}
    for path in (
        "/",
        "/docs",
        "/docs/",
        "/v1/orders/",
        "/v1/orders/17",
        "/nowhere",
        "/openapi.json",
        "/healthz",
    ):
        answer = http.get(urls[service] + path, headers=headers)
        assert answer.status_code in {200, 307, 400, 401, 404}, answer.text
        assert "evil" not in answer.text
        assert "evil" not in str(answer.headers)
        assert "://" not in answer.headers.get("location", "")


@pytest.mark.parametrize("service", BUILDS)
def test_the_page_for_people_needs_nothing_from_elsewhere(
    urls: Mapping[str, str], http: httpx.Client, service: str
) -> None:
    # The board has pages of its own at its root.
    page = http.get(f"{urls[service]}/{'docs' if service == 'board' else ''}", follow_redirects=True)
    assert page.url.path == "/docs"
    assert "http" not in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "<script>" not in page.text
    assert "style=" not in page.text
    for address, kind in (
        ("docs/swagger-ui.css", "text/css"),
        ("docs/swagger-ui-bundle.js", "text/javascript"),
        ("docs/start.js", "text/javascript"),
    ):
        assert address in page.text
        asset = http.get(f"{urls[service]}/{address}")
        assert asset.status_code == 200
        assert asset.headers["content-type"].startswith(kind)
        assert len(asset.content) > 50
    assert http.get(f"{urls[service]}/redoc").status_code == 404
