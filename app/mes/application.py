"""The MES put together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import structlog
from fastapi import FastAPI

from app.audit_log import Sealer, in_lines
from app.database import open_directory, open_shards
from app.delivery import delivering
from app.files import ModelStore
from app.flow.control import FlowControl, RateOptions, SenderMeter
from app.flow.grants import PARTNERS, Allowance
from app.flow.places import Places, PlacesPublisher
from app.kit.clock import utc_now
from app.kit.health import Readiness
from app.kit.process import process_name
from app.kit.tasks import Background
from app.mes.endpoints import Services, router
from app.mes.errors import STATUSES
from app.mes.handlers import MesHandlers
from app.mes.hot_list import HotLists
from app.mes.intake import Drain, IntakeState, PartnerIntake
from app.mes.outgoing import WebhookSender
from app.mes.public import PublicApi
from app.mes.quotes import QUOTE_STATUSES
from app.mes.service import MesService
from app.mes.webhook_endpoints import WEBHOOK_STATUSES, Endpoints
from app.mes.webhooks import Dispatcher
from app.models.directory import DirectoryAuditLine, DirectoryAuditSeal
from app.orders import MES
from app.serve import make_app, timeouts_of
from app.settings import Settings
from app.topology import files_url
from readreplica.cluster import Cluster
from sharding.scatter import CursorKeys
from sharding.sessions import ShardedSessions, open_ids
from sharding.topology import Topology

log: structlog.stdlib.BoundLogger = structlog.get_logger("mes")


def build(settings: Settings, topology: Topology) -> FastAPI:
    """Make the MES's application."""

    @asynccontextmanager
    async def parts(background: Background, readiness: Readiness) -> AsyncIterator[Services]:
        # Before any task is started that would have to be stopped: this fails if the topology is wrong.
        models = ModelStore.open(files_url(topology))
        async with (
            open_shards(topology, application_name="mes", timeouts=timeouts_of(settings)) as sessions,
            open_ids(topology, tree="mes") as ids,
            open_directory(topology, application_name="mes-flow") as directory,
        ):
            readiness.need_ids(ids)
            meter = SenderMeter(floor=settings.flow_floor_per_second)
            allowance = Allowance(floor_per_second=settings.flow_floor_per_second)
            bells = {name: asyncio.Event() for name in sessions.clusters}
            intake = IntakeState(allowance, arrived=bells, placed=partial(meter.count, PARTNERS))
            async with delivering(
                MES,
                background,
                readiness,
                settings=settings,
                topology=topology,
                databases=sessions.clusters,
                transact=sessions.transact,
                handle=MesHandlers(utc_now).handle,
                receives=meter.receive,
            ) as delivery:
                redis, signer = delivery.redis, delivery.signer
                process = process_name()
                control = FlowControl(
                    directory,
                    sessions.clusters,
                    redis,
                    signer,
                    process=process,
                    allowance=allowance,
                    meter=meter,
                    options=RateOptions(floor=settings.flow_floor_per_second),
                    pricing_seconds=settings.flow_pricing_seconds,
                )
                background.start("flow control", control.run)
                background.start("places", PlacesPublisher(sessions, redis, signer, process).run)
                for shard in sessions.clusters:
                    background.start(f"intake {shard}", Drain(sessions, shard, intake).run)
                partners = PartnerIntake(
                    sessions=sessions,
                    ids=ids,
                    models=models,
                    max_upload_bytes=settings.max_upload_bytes,
                    now=utc_now,
                    state=intake,
                    most_of_shard=settings.intake_shard_orders,
                    most=settings.intake_orders,
                )
                operators = MesService(
                    sessions=sessions,
                    now=utc_now,
                    intake=intake,
                    places=Places(redis, signer),
                    cursor_keys=_cursor_keys(settings),
                    lists=HotLists(redis),
                )
                cursor_keys = operators.cursor_keys or CursorKeys.random()
                endpoints = Endpoints(directory, allows_local=settings.webhook_local)
                sender = WebhookSender(allows_local=settings.webhook_local)
                background.start("audit directory", _directory_sealer(directory, sessions).run)
                background.start("webhooks", Dispatcher(sessions, endpoints, sender).run)
                public = PublicApi(
                    sessions=sessions,
                    intake=partners,
                    state=intake,
                    places=operators.places,
                    models=models,
                    keys=cursor_keys,
                    endpoints=endpoints,
                    # Someone waits for the answer, and no longer than for any.
                    sender=replace(sender, seconds=settings.request_seconds / 2),
                    now=utc_now,
                )
                yield Services(operators, partners, public)

    return make_app(
        "mes",
        description="Partners order here; operators list, take and advance orders.",
        settings=settings,
        topology=topology,
        router=router,
        statuses={**STATUSES, **WEBHOOK_STATUSES, **QUOTE_STATUSES},
        parts=parts,
    )


def _directory_sealer(directory: Cluster, sessions: ShardedSessions) -> Sealer:
    """Return what seals the directory's own audit log. A shard keeps the head: no log vouches for itself."""
    shard = sessions.clusters[min(sessions.clusters)]
    return Sealer(
        directory,
        in_lines(shard, MES.audit),
        lines=DirectoryAuditLine,
        seals=DirectoryAuditSeal,
        database=directory.name,
    )


def _cursor_keys(settings: Settings) -> CursorKeys | None:
    if settings.cursor_key is None:
        fix = "set MES_STORAGE_CURSOR_KEY in every process"
        log.warning("page_cursors_end_with_this_process", fix=fix)
        return None
    previous = settings.cursor_key_previous
    return CursorKeys(
        settings.cursor_key.get_secret_value().encode(),
        previous.get_secret_value().encode() if previous is not None else None,
    )
