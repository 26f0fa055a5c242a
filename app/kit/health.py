"""Whether a service is alive, and whether it can do its work: what it needs is asked, and not often."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NamedTuple

import structlog
from fastapi import APIRouter, Request
from psycopg import AsyncConnection
from pydantic import BaseModel, Field

from app.kit.admin import Readings
from app.kit.errors import AppError
from app.kit.problem import described
from app.kit.tasks import Background, within
from readreplica.cluster import Cluster
from readreplica.errors import NotThePrimary, one_line
from sharding.ids import IdGenerator

ANSWER_SECONDS = 1.0
KEEP_SECONDS = 1.0
"""How long an answer is given again, so that many who ask cost no more than one."""

Check = Callable[[], Coroutine[Any, Any, object]]
"""Raises if something cannot be used."""

ROUTINE = frozenset({"/livez", "/readyz", "/healthz"})
"""What programs ask every moment."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("health")


class NotReady(AppError):
    """The service cannot do its work; `missing` names what it lacks."""

    def __init__(self, service: str, missing: list[str]) -> None:
        self.service = service
        self.missing = missing
        super().__init__(f"{service} cannot do its work without: {', '.join(missing)}; see the log")


class Life(BaseModel):
    """A service that is alive."""

    service: str
    status: str = "ok"


class Health(Life):
    """A service that can do its work: "ok" all of it, "degraded" that of the databases which answer."""

    away: list[str] = Field(default=[], description="The databases that do not answer.", examples=[[]])


class _State(NamedTuple):
    missing: list[str]
    away: list[str]


class Readiness:
    """Asks what a service needs."""

    def __init__(self, service: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.service = service
        self._clock = clock
        self._needed: dict[str, Check] = {}
        self._databases: Mapping[str, Cluster] = {}
        self._asking: asyncio.Task[_State] | None = None
        self._asked_at = 0.0

    def need(self, name: str, check: Check) -> None:
        """Be ready only while this does not raise."""
        self._needed[name] = check

    def need_databases(self, databases: Mapping[str, Cluster]) -> None:
        """Be ready only while one of these answers.

        Not all: with one shard away the others' orders are taken and made, and a gateway that leaves a
        service out because of it would turn the loss of a part into the loss of everything.
        """
        self._databases = databases

    def need_ids(self, ids: IdGenerator) -> None:
        """Be ready only while there are ids for new orders."""

        async def check() -> None:
            ids.next_id()

        self.need("order ids", check)

    async def ask(self, background: Background) -> list[str]:
        """Return which databases are away.

        Raises:
            NotReady: it says what is missing.
        """
        now = self._clock()
        if self._asking is None or (self._asking.done() and now - self._asked_at >= KEEP_SECONDS):
            self._asking, self._asked_at = asyncio.create_task(self._ask()), now
        state = await asyncio.shield(self._asking)
        missing = [*state.missing, *sorted(background.down)]
        if missing:
            raise NotReady(self.service, missing)
        return state.away

    async def read(self, background: Background) -> Readings:
        """Return what the admin port says, which is what the data port answers."""
        try:
            away = await self.ask(background)
        except NotReady as error:
            return Readings(False, {"status": "not ready", "missing": error.missing})
        return Readings(True, {"status": "degraded" if away else "ok", "away": away})

    async def _ask(self) -> _State:
        probes = {f"database {name}": _probe(cluster) for name, cluster in self._databases.items()}
        needed = self._needed | probes
        faults = await asyncio.gather(*(_fault(name, check) for name, check in needed.items()))
        failed = [name for name, is_wrong in zip(needed, faults, strict=True) if is_wrong]
        away = [name for name in failed if name not in self._needed]
        missing = [name for name in failed if name in self._needed]
        if len(away) == len(self._databases):
            return _State([*missing, *away], [])
        return _State(missing, [name.removeprefix("database ") for name in away])


async def _fault(name: str, check: Check) -> bool:
    try:
        await within(check(), seconds=ANSWER_SECONDS)
    except Exception as error:  # whatever it is, this cannot be used
        log.warning("not_ready", missing=name, error=one_line(error))
        return True
    return False


def _probe(cluster: Cluster) -> Check:
    """Ask a cluster's primary, by a connection of its own: a pool in use says nothing of the server."""

    async def check() -> None:
        node = cluster.monitor.primary
        engine = cluster.primary if node is None else node.engine
        _, words = engine.dialect.create_connect_args(engine.url)
        async with await AsyncConnection.connect(**words, autocommit=True) as connection:
            cursor = await connection.execute("SELECT pg_is_in_recovery()", prepare=False)
            if await cursor.fetchone() != (False,):
                address = f"{engine.url.host}:{engine.url.port}"
                raise NotThePrimary(cluster.name, address, "it is in recovery")

    return check


def health_routes(service: str) -> APIRouter:
    """Make the routes that say how a service is; `app.state` has its `readiness` and its `background`."""
    router = APIRouter(tags=["health"])

    @router.get("/livez", description="Say that the process answers. Where this does not, restart it.")
    async def live() -> Life:
        """Return that the process answers."""
        return Life(service=service)

    async def ready(request: Request) -> Health:
        """Return whether the service can do its work.

        Raises:
            NotReady: it cannot.
        """
        readiness: Readiness = request.app.state.readiness
        away = await readiness.ask(request.app.state.background)
        return Health(service=service, status="degraded" if away else "ok", away=away)

    answers: Mapping[int | str, dict[str, Any]] = {503: described(503)}
    for path in ("/readyz", "/healthz"):
        router.add_api_route(
            path,
            ready,
            name=path.strip("/"),
            description="Say whether the service can do its work. Where this is 503, send it no requests.",
            responses=dict(answers),
        )
    return router
