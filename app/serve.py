"""What the three services share in becoming a process: an application, its health, its start and its end."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, NoReturn

import structlog
import uvicorn
from fastapi import APIRouter, FastAPI, Security
from fastapi.security import HTTPBearer
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from app import instruments
from app.access import endpoints, errors
from app.access.credentials import TokenKeys
from app.access.enforce import Access, Attempts
from app.access.limits import CallerLimits
from app.access.oidc import OidcProvider, open_provider
from app.access.refusals import RateLimited, RefusesAgain
from app.access.registry import Registry
from app.causality import open_callers, open_learned, refuse, store_of
from app.database import DatabaseTimeouts, open_directory
from app.files import ContentMismatch, ModelTooLarge, UnsupportedModelType
from app.flow.limiter import Shed
from app.flow.shedding import Admission
from app.kit import problem
from app.kit.admin import AdminAddress, Readings, measuring_lag, serving_admin
from app.kit.connections import ConnectionLimits, TooFewFiles, limited, log_accept_errors, raise_file_limit
from app.kit.etags import ChangedMeanwhile
from app.kit.health import ROUTINE, NotReady, Readiness, health_routes
from app.kit.middleware import BodyLimit, HeadAsGet, KeepsPeer, Observed, RequestLog, WellFormed
from app.kit.pages import pages
from app.kit.process import enter_with_retries, exit_on_signals, exit_with_fault, run_and_exit
from app.kit.strict import RequestLimit, StreamLimit, TooManyStreams
from app.kit.tasks import Background
from app.log_events import facts_of_path
from app.messaging.streams import connect_redis
from app.models.status import IllegalTransition
from app.orders import IdempotencyKeyReused, UnknownOrder
from app.settings import Settings, configure
from app.topology import admin_address, is_sandbox, redis_url, services_of
from readreplica.asgi import CausalTokens, CookieOptions
from readreplica.cluster import Cluster
from readreplica.signing import TokenText, parse_keys
from sharding.topology import Topology

_FORM_OVERHEAD_BYTES = 64 * 1024
_LONGEST_HEADER_BYTES = 16 * 1024
# As many as wait are looked at in one go, also when none can be accepted.
_BACKLOG = 512
_GARBAGE_AFTER = 10_000  # objects more than before, in place of 700: a request makes hundreds

log: structlog.stdlib.BoundLogger = structlog.get_logger("serve")

# For the description of the API alone: `app.access.enforce` reads the header.
_BEARER = Security(HTTPBearer(auto_error=False, description="An API key, a token, or an order's link."))

Build = Callable[[Settings, Topology], FastAPI]
"""Makes a service's application; it connects to nothing before its lifespan begins."""

STATUSES: problem.Statuses = {
    UnknownOrder: 404,
    IllegalTransition: 409,
    ModelTooLarge: 413,
    UnsupportedModelType: 415,
    ContentMismatch: 415,
    IdempotencyKeyReused: 422,
    NotReady: 503,
    RateLimited: 429,
    TooManyStreams: 429,
    ChangedMeanwhile: 412,
    Shed: 503,
}
"""The HTTP status of each error that more than one service knows; a service adds its own."""

Parts = Callable[[Background, Readiness], AbstractAsyncContextManager[object]]
"""Opens what a service works with, starts its background tasks, says what it cannot do without, and closes
it all at the end."""


class _Service(FastAPI):
    """An application whose description is made when it is first asked for: a start need not wait for it."""

    def openapi(self) -> dict[str, Any]:
        """Describe the API, with forms that have no other fields: `app.kit.strict` refuses them."""
        described = super().openapi()
        for name, schema in described["components"]["schemas"].items():
            if name.startswith("Body_"):
                schema["additionalProperties"] = False
        return described


def make_app(
    service: str,
    *,
    description: str,
    settings: Settings,
    topology: Topology,
    router: APIRouter,
    statuses: problem.Statuses,
    parts: Parts,
    front: APIRouter | None = None,
) -> FastAPI:
    """Assemble a service's application.

    Parameters:
        service: its name in the topology.
        description: for the OpenAPI document.
        settings: of this process.
        topology: where the identities are, and the tokens that clients cannot bring.
        router: the service's endpoints.
        statuses: the HTTP status of each error that only this service knows.
        parts: opens what the endpoints find as `app.state.parts`.
        front: pages for people, which stand before all else.
    """
    text = TokenText(parse_keys(settings.token_keys.get_secret_value()))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        background = Background(stop_seconds=settings.stop_seconds)
        readiness = Readiness(service)
        async with (
            connect_redis(redis_url(topology, service)) as redis,
            open_directory(
                topology,
                application_name=f"{service}-access",
                role=service,
                timeouts=timeouts_of(settings),
            ) as directory,
            open_provider(settings.oidc_of(service)) as oidc,
            parts(background, readiness) as opened,
            background,
        ):
            app.state.access = access = _open_access(
                service, directory, settings, oidc, in_sandbox=is_sandbox(topology)
            )
            app.state.limits = limits = CallerLimits(redis)
            background.start("identities", access.registry.run)
            background.start("identity uses", access.registry.run_uses)
            app.state.parts, app.state.background, app.state.readiness = opened, background, readiness
            keep_seconds = settings.token_seconds
            has_callers = settings.caller_header is not None
            app.state.token_store = open_callers(redis, keep_seconds=keep_seconds) if has_callers else None
            app.state.learned = open_learned(redis, service, keep_seconds=keep_seconds)
            if not text.is_signed:
                fix = "set MES_STORAGE_TOKEN_KEYS in every process"
                log.warning("tokens_not_signed", fix=f"browsers have none: {fix}")
            try:
                yield
            finally:
                await limits.settled()

    app = _Service(
        title=f"{service} API",
        version="1",
        description=description,
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from elsewhere; ours is in `app.kit.pages`
        redoc_url=None,
        # Ours is `Observed`: it knows the order, and the door; and malformed requests count as well.
        telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False},
        redirect_slashes=False,  # such a redirect has the host that the client names
    )
    app.state.max_json_bytes, app.state.request_seconds = settings.max_json_bytes, settings.request_seconds
    app.state.request_limit = RequestLimit(settings.max_requests)
    app.state.streams = StreamLimit(settings.max_streams)
    app.state.admission = Admission(service, most=settings.flow_requests)
    app.add_middleware(BodyLimit, max_bytes=settings.max_upload_bytes + _FORM_OVERHEAD_BYTES)
    app.add_middleware(
        CausalTokens,
        text=text,
        cookie=CookieOptions(
            max_age_seconds=settings.token_seconds,
            is_secure=settings.cookie_secure,
        ),
        caller_header=settings.caller_header,
        store_of=store_of,
        refuse=refuse,
    )
    app.add_middleware(HeadAsGet)
    app.add_middleware(WellFormed)
    app.add_middleware(RequestLog, facts_of=facts_of_path, routine=ROUTINE)
    # The last one is the first that sees a request.
    app.add_middleware(Observed, facts_of=facts_of_path)
    app.add_middleware(RefusesAgain)
    problem.install(app, {**STATUSES, **errors.STATUSES, **statuses})
    if front is not None:
        app.router.routes.extend(front.routes)
    app.include_router(pages(service))
    app.include_router(health_routes(service))
    app.include_router(router, dependencies=[_BEARER])
    if service != "shop":
        app.include_router(endpoints.staff_router)
    if service == "mes":
        app.include_router(endpoints.partners_router)
    return app


def _open_access(
    service: str, directory: Cluster, settings: Settings, oidc: OidcProvider | None, *, in_sandbox: bool
) -> Access:
    """Put together what finds out who calls."""
    tokens = TokenKeys.parse(settings.access_keys.get_secret_value(), is_sandbox=in_sandbox)
    if tokens is None:
        log.warning("access_tokens_not_signed", fix="set MES_STORAGE_ACCESS_KEYS in every process")
    return Access(
        service=service,
        registry=Registry(directory, stale_seconds=settings.identity_stale_seconds, in_sandbox=in_sandbox),
        tokens=tokens,
        door_header=settings.door_header,
        proxies=settings.proxies,
        attempts=Attempts(),
        oidc=oidc,
    )


def timeouts_of(settings: Settings) -> DatabaseTimeouts:
    """Return how long a service's requests wait for a database."""
    return DatabaseTimeouts(
        statement_seconds=settings.statement_seconds, queue_seconds=settings.queue_seconds
    )


def run(service: str, build: Build) -> NoReturn:
    """Serve until SIGTERM or SIGINT, end in good order, and exit with status 0; or 2 if it cannot start.

    While a database that the start needs is away, this waits for it and says so.
    """
    # uvicorn raises the signal again once it has stopped. By default that would kill the process there and
    # then, with messages half handled.
    exit_on_signals()
    settings, topology = configure(service)
    address = services_of(topology).get(service)
    if address is None:
        exit_with_fault(
            service, f"{settings.topology} has no [services.{service}]: add it, with host and port"
        )
    try:
        raise_file_limit(settings.max_connections)
    except TooFewFiles as error:
        exit_with_fault(service, str(error))
    app = build(settings, topology)
    server = uvicorn.Server(server_config(app, settings, host=address.host, port=address.port))
    run_and_exit(service, _serve(service, app, server, admin_address(topology, service)))


def server_config(app: FastAPI, settings: Settings, *, host: str, port: int) -> uvicorn.Config:
    """Return how uvicorn serves an application; connections are limited by `app.kit.connections`."""
    limits = ConnectionLimits(
        connections=settings.max_connections,
        header_seconds=settings.header_seconds,
        body_seconds=settings.body_seconds,
        answer_seconds=settings.answer_seconds,
    )
    # The peer is kept before uvicorn's own middleware puts the client's address in its place.
    proxied = ProxyHeadersMiddleware(app, trusted_hosts=settings.trusted_proxies)  # type: ignore[arg-type]
    return uvicorn.Config(
        KeepsPeer(proxied if settings.trusted_proxies else app),  # type: ignore[arg-type]
        host=host,
        port=port,
        http=limited(limits),
        ws="none",
        lifespan="off",
        backlog=_BACKLOG,
        h11_max_incomplete_event_size=_LONGEST_HEADER_BYTES,
        timeout_keep_alive=settings.idle_seconds,
        timeout_graceful_shutdown=settings.stop_seconds,
        proxy_headers=False,
        log_config=None,
        access_log=False,  # `RequestLog` writes it, without the client's address
        server_header=False,
    )


def spare_what_stays() -> None:
    """Have the garbage collector pass over all that is there by now, and come less often.

    Of a service it is about a million objects, which stay until its end. To look through them stopped every
    request for 200 ms, each three seconds under load.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE_AFTER, *gc.get_threshold()[1:])


async def _serve(service: str, app: FastAPI, server: uvicorn.Server, admin: AdminAddress | None) -> None:
    """Open what the service works with, and serve. uvicorn's own lifespan would turn errors into text."""
    asyncio.get_running_loop().set_exception_handler(log_accept_errors)

    async def ready() -> Readings:
        if not hasattr(app.state, "readiness"):
            return Readings(False, {"status": "starting"})
        readiness: Readiness = app.state.readiness
        return await readiness.read(app.state.background)

    async with (
        serving_admin(service, admin, ready),
        measuring_lag(instruments.event_loop_lag),
        AsyncExitStack() as opened,
    ):
        await enter_with_retries(opened, lambda: app.router.lifespan_context(app))
        spare_what_stays()
        await server.serve()
