"""The CRM put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from app.crm.endpoints import router
from app.crm.errors import STATUSES
from app.crm.handlers import handle
from app.crm.service import CrmService
from app.database import open_database
from app.delivery import delivering, in_one
from app.flow.places import Places
from app.kit.clock import utc_now
from app.kit.health import Readiness
from app.kit.tasks import Background
from app.orders import CRM
from app.serve import make_app, timeouts_of
from app.settings import Settings
from sharding.topology import Topology


def build(settings: Settings, topology: Topology) -> FastAPI:
    """Make the CRM's application."""

    @asynccontextmanager
    async def parts(background: Background, readiness: Readiness) -> AsyncIterator[CrmService]:
        async with (
            open_database(topology, "crm", timeouts=timeouts_of(settings)) as orders,
            delivering(
                CRM,
                background,
                readiness,
                settings=settings,
                topology=topology,
                databases={"crm": orders},
                transact=in_one(orders),
                handle=handle,
            ) as delivery,
        ):
            places = Places(delivery.redis, delivery.signer)
            yield CrmService(orders=orders, places=places, now=utc_now, to_mes=delivery.to_mes)

    return make_app(
        "crm",
        description="Sellers confirm prices, close orders, and ask to call them off.",
        settings=settings,
        topology=topology,
        router=router,
        statuses=STATUSES,
        parts=parts,
    )
