"""The Shop put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from app.database import open_database
from app.delivery import delivering, in_one
from app.files import ModelStore
from app.flow.places import Places
from app.kit.clock import utc_now
from app.kit.health import Readiness
from app.kit.tasks import Background
from app.orders import SHOP
from app.serve import make_app, timeouts_of
from app.settings import Settings
from app.shop.endpoints import router
from app.shop.service import ShopService, handle
from app.topology import files_url
from sharding.sessions import open_ids
from sharding.topology import Topology


def build(settings: Settings, topology: Topology) -> FastAPI:
    """Make the Shop's application."""

    @asynccontextmanager
    async def parts(background: Background, readiness: Readiness) -> AsyncIterator[ShopService]:
        # Before any task is started that would have to be stopped: this fails if the topology is wrong.
        models = ModelStore.open(files_url(topology))
        async with (
            open_database(topology, "shop", timeouts=timeouts_of(settings)) as orders,
            open_ids(topology, tree="shop") as ids,
        ):
            readiness.need_ids(ids)
            async with delivering(
                SHOP,
                background,
                readiness,
                settings=settings,
                topology=topology,
                databases={"shop": orders},
                transact=in_one(orders),
                handle=handle,
            ) as delivery:
                yield ShopService(
                    orders=orders,
                    places=Places(delivery.redis, delivery.signer),
                    ids=ids,
                    models=models,
                    max_upload_bytes=settings.max_upload_bytes,
                    now=utc_now,
                    to_mes=delivery.to_mes,
                )

    return make_app(
        "shop",
        description="Customers start orders, upload 3D models and submit them.",
        settings=settings,
        topology=topology,
        router=router,
        statuses={},
        parts=parts,
    )
