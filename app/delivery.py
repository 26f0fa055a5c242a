"""The relays, the consumer and the pruners of a service, as its background tasks."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from redis.asyncio import Redis

from app.audit_log import Sealer, in_directory
from app.causality import open_learned
from app.database import open_directory
from app.flow.grants import HeardAllowance
from app.kit.health import Readiness
from app.kit.process import process_name
from app.kit.tasks import Background
from app.messaging.consumer import Consumer, Handler, Receives, Transact, receives_all
from app.messaging.inbox import Pruner
from app.messaging.relay import Relay
from app.messaging.routing import ServiceName, destinations_of
from app.messaging.signing import EntrySigner, parse_peer_keys
from app.messaging.streams import check_streams, open_redis
from app.orders import AnyOrder, OrderModels
from app.settings import Settings
from app.topology import has_board, redis_url
from readreplica.cluster import Cluster
from readreplica.sessions import WriteSession
from readreplica.token import Committed
from sharding.topology import Topology


@dataclass(frozen=True)
class Delivery:
    """What a service delivers by, for its other parts: its Redis, its keys, and how fast it sends to MES."""

    redis: Redis
    signer: EntrySigner
    to_mes: HeardAllowance


@asynccontextmanager
async def delivering(
    models: OrderModels[AnyOrder],
    background: Background,
    readiness: Readiness,
    *,
    settings: Settings,
    topology: Topology,
    databases: Mapping[str, Cluster],
    transact: Transact,
    handle: Handler,
    receives: Receives = receives_all,
) -> AsyncIterator[Delivery]:
    """Send what a service owes and handle what is sent to it, for as long as the tasks of `background` run.

    Parameters:
        models: the service's tables.
        background: keeps the tasks; it must end before this block does.
        readiness: from now on asks for the databases and the streams.
        settings: of this process.
        topology: where Redis is.
        databases: the service's databases by name; each has an outbox and an inbox, and so a relay
            and a pruner.
        transact: runs a unit of work on the database that holds an order.
        handle: does what a message asks for.
        receives: asked before a message is handled, with who has sent it.

    Raises:
        RedisUrlInvalid, MessageKeysMissing: nothing was started.
    """
    service = models.service.value
    async with (
        open_redis(redis_url(topology, service)) as redis,
        open_directory(topology, application_name=f"{service}-audit", role=service) as directory,
    ):
        readiness.need_databases(databases)
        readiness.need("streams in Redis", partial(check_streams, redis, service, databases))
        signer = EntrySigner(models.service, parse_peer_keys(settings.message_keys.get_secret_value()))
        sends_to_board = has_board(topology)
        if sends_to_board:
            signer.require_key(ServiceName.BOARD)
        to_mes = _allowance(redis, signer, settings)
        for name, cluster in databases.items():
            _start_sending(
                background,
                models,
                signer,
                redis,
                cluster,
                to_mes=to_mes,
                database=name,
                settings=settings,
                sends_to_board=sends_to_board,
            )
        for name, cluster in databases.items():
            anchor = in_directory(directory)
            sealer = Sealer(cluster, anchor, lines=models.audit, seals=models.seals, database=name)
            background.start(f"audit {name}", sealer.run)
        learned = open_learned(redis, service, keep_seconds=settings.token_seconds)
        consumer = Consumer(
            redis,
            signer=signer,
            inbox=models.inbox,
            transact=transact,
            handle=handle,
            receives=receives,
            learned=lambda order_id, token: learned.keep(str(order_id), token),
        )
        background.start("consumer", consumer.run)
        yield Delivery(redis, signer, to_mes)


def _start_sending(
    background: Background,
    models: OrderModels[AnyOrder],
    signer: EntrySigner,
    redis: Redis,
    cluster: Cluster,
    *,
    to_mes: HeardAllowance,
    database: str,
    settings: Settings,
    sends_to_board: bool,
) -> None:
    """Start the relay and the pruner of one database."""
    relay = Relay(
        cluster,
        redis,
        models.outbox,
        source=database,
        signer=signer,
        poll_seconds=settings.relay_poll_seconds,
        retry_seconds=settings.redelivery_seconds,
        send_traceparent=settings.send_traceparent,
        # What MES sends to others is not limited.
        allowances={ServiceName.MES: to_mes} if ServiceName.MES in destinations_of(signer.service) else {},
        has_board=sends_to_board,
    )
    background.start(f"relay {database}", relay.run)
    pruner = Pruner(
        cluster,
        models.inbox,
        database=database,
        keep=timedelta(seconds=settings.inbox_keep_seconds),
        every_seconds=settings.inbox_prune_seconds,
    )
    background.start(f"pruner {database}", pruner.run)


def _allowance(redis: Redis, signer: EntrySigner, settings: Settings) -> HeardAllowance:
    """Return what MES lets a service send to it."""
    floor = settings.flow_floor_per_second
    return HeardAllowance(
        redis,
        signer,
        signer.service.value,
        floor_per_second=floor,
        floor_burst=max(1, round(floor)),
        holder=process_name(),
    )


def in_one(cluster: Cluster) -> Transact:
    """Run units of work on one database, which holds every order."""

    async def transact(_order_id: int, work: Callable[[WriteSession], Awaitable[bool]], /) -> Committed[bool]:
        return await cluster.transact(work)

    return transact
