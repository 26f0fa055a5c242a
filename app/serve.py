"""What the three services share in becoming a process: an application, its health, its start and its end."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import FrameType
from typing import NoReturn

import structlog
import uvicorn
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import RedirectResponse
from pydantic import BaseModel
from sqlalchemy.exc import OperationalError, ProgrammingError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential

from app import problem
from app.background import Background
from app.errors import AppError
from app.limits import BodyLimit
from app.logs import configure_logging
from app.problem_docs import described
from app.settings import Settings, SettingsInvalid, load_settings
from sharding.errors import NodesExhausted, ShardingError
from sharding.topology import Topology

_FORM_OVERHEAD_BYTES = 64 * 1024
_WRONG_USAGE = 2
_LONGEST_PAUSE_SECONDS = 2.0

# psycopg's OperationalError: the directory cannot be reached, or does not let anybody in yet.
_PASSING = (OperationalError, NodesExhausted)
# ProgrammingError: the database has no such table, so it was not migrated.
_WRONG = (AppError, ShardingError, ProgrammingError)

log: structlog.stdlib.BoundLogger = structlog.get_logger("serve")

Build = Callable[[Settings, Topology], FastAPI]
"""Makes a service's application; it connects to nothing before its lifespan begins."""

Parts = Callable[[Background], AbstractAsyncContextManager[object]]
"""Opens what a service works with, starts its background tasks, and closes it all at the end."""


class Health(BaseModel):
    """A service that does all of its work."""

    service: str
    status: str = "ok"


class Unhealthy(AppError):
    """A background task of the service is down, so messages wait; it is being restarted."""

    def __init__(self, service: str, down: Mapping[str, str]) -> None:
        self.service = service
        self.down = sorted(down)
        super().__init__(f"{service}: {', '.join(self.down)} has died and is being restarted; see the log")


def make_app(
    service: str,
    *,
    description: str,
    settings: Settings,
    router: APIRouter,
    statuses: problem.Statuses,
    parts: Parts,
) -> FastAPI:
    """Assemble a service's application.

    Parameters:
        service: its name in the topology.
        description: for the OpenAPI document.
        settings: of this process.
        router: the service's endpoints.
        statuses: the HTTP status of each error that only this service knows.
        parts: opens what the endpoints find as `app.state.parts`.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        background = Background(stop_seconds=settings.stop_seconds)
        async with parts(background) as opened, background:
            app.state.parts, app.state.background = opened, background
            yield

    app = FastAPI(
        title=f"{service} API",
        version="1",
        description=description,
        lifespan=lifespan,
        # As many as the largest form has: of a field that is sent twice, nobody can say which one counts.
        form_limits={"max_files": 1, "max_fields": 3, "max_part_size": 4096},
    )
    app.add_middleware(BodyLimit, max_bytes=settings.max_upload_bytes + _FORM_OVERHEAD_BYTES)
    problem.install(app, {Unhealthy: 503, **statuses})
    app.include_router(_common_routes(service))
    app.include_router(router)
    return app


def _common_routes(service: str) -> APIRouter:
    router = APIRouter()

    @router.get("/", include_in_schema=False)
    async def to_the_documentation() -> RedirectResponse:
        return RedirectResponse("docs")

    @router.get("/healthz", tags=["health"], responses={503: described(503)})
    async def health(request: Request) -> Health:
        """Say whether the service does all of its work, background tasks included."""
        background: Background = request.app.state.background
        if background.down:
            raise Unhealthy(service, background.down)
        return Health(service=service)

    return router


def run(service: str, build: Build) -> NoReturn:
    """Serve until SIGTERM or SIGINT, end in good order, and exit with status 0; or 2 if it cannot start.

    While a database that the start needs is away, this waits for it and says so.
    """
    for signum in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again once it has stopped. By default that would kill the process there
        # and then, with messages half handled.
        signal.signal(signum, _leave)
    try:
        settings = load_settings()
        topology = Topology.load(settings.topology)
        address = topology.services[service]
    except (SettingsInvalid, ShardingError) as error:
        _refuse(service, str(error))
    except KeyError:
        _refuse(service, f"{settings.topology} has no [services.{service}]: add it, with host and port")
    configure_logging(service, level=settings.log_level)
    app = build(settings, topology)
    config = uvicorn.Config(
        app,
        host=address.host,
        port=address.port,
        lifespan="off",
        timeout_graceful_shutdown=settings.stop_seconds,
        log_config=None,
        server_header=False,
    )
    try:
        asyncio.run(_serve(app, uvicorn.Server(config)))
    except _WRONG as error:
        # The first line of it: SQLAlchemy's go on with the statement and a link.
        _refuse(service, f"cannot start: {str(error).partition(chr(10))[0]}")
    sys.exit(0)


async def _serve(app: FastAPI, server: uvicorn.Server) -> None:
    """Open what the service works with, and serve. uvicorn's own lifespan would turn errors into text."""
    patiently = AsyncRetrying(
        retry=retry_if_exception_type(_PASSING),
        wait=wait_exponential(multiplier=0.1, max=_LONGEST_PAUSE_SECONDS),
        before_sleep=_say_once,
        reraise=True,
    )
    async with AsyncExitStack() as opened:

        async def start() -> None:
            await opened.enter_async_context(app.router.lifespan_context(app))

        await patiently(start)
        await server.serve()


def _say_once(state: RetryCallState) -> None:
    if state.attempt_number == 1 and state.outcome is not None:
        log.warning("start_waits", error=str(state.outcome.exception()).partition("\n")[0])


def _leave(_signum: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)


def _refuse(service: str, fault: str) -> NoReturn:
    sys.stderr.write("".join(f"{service}: {line}\n" for line in fault.splitlines()))
    sys.exit(_WRONG_USAGE)
