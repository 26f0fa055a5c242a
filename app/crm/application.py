"""The CRM put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from app.background import Background
from app.clock import utc_now
from app.crm.endpoints import router
from app.crm.errors import STATUSES
from app.crm.handlers import handle
from app.crm.service import CrmService
from app.database import open_database
from app.delivery import in_one, start_delivery
from app.health import Readiness
from app.messaging.streams import open_redis
from app.orders import CRM
from app.serve import make_app, patience_of
from app.settings import Settings
from app.topology import redis_url
from sharding.topology import Topology


def build(settings: Settings, topology: Topology) -> FastAPI:
    """Make the CRM's application."""

    @asynccontextmanager
    async def parts(background: Background, readiness: Readiness) -> AsyncIterator[CrmService]:
        async with (
            open_database(topology, "crm", patience=patience_of(settings)) as orders,
            open_redis(redis_url(topology, "crm")) as redis,
        ):
            readiness.need_databases({"crm": orders})
            readiness.need_streams(redis, "crm")
            start_delivery(
                background,
                CRM,
                settings=settings,
                redis=redis,
                databases={"crm": orders},
                transact=in_one(orders),
                handle=handle,
            )
            yield CrmService(orders=orders, now=utc_now)

    return make_app(
        "crm",
        description="Sellers confirm prices, close orders, and ask to call them off.",
        settings=settings,
        redis_url=redis_url(topology, "crm"),
        router=router,
        statuses=STATUSES,
        parts=parts,
    )
