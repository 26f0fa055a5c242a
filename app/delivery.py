"""Starts the relays, the consumer and the pruners of a service as its background tasks."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta

from redis.asyncio import Redis

from app.background import Background
from app.causality.store import open_learned
from app.messaging.consumer import Consumer, Handler, Transact
from app.messaging.pruner import Pruner
from app.messaging.relay import Relay
from app.messaging.signing import EntrySigner, parse_peer_keys
from app.orders import AnyOrder, OrderModels
from app.settings import Settings
from readreplica.cluster import Cluster
from readreplica.sessions import WriteSession
from readreplica.token import Committed


def start_delivery(
    background: Background,
    models: OrderModels[AnyOrder],
    *,
    settings: Settings,
    redis: Redis,
    databases: Mapping[str, Cluster],
    transact: Transact,
    handle: Handler,
) -> None:
    """Begin to send what a service owes and to handle what it is told.

    Parameters:
        background: keeps the tasks.
        models: the service's tables.
        settings: of this process.
        redis: from `app.messaging.streams.open_redis`; the caller closes it after the tasks have ended.
        databases: the service's databases by name; each has an outbox and an inbox, and so a relay
            and a pruner.
        transact: runs a unit of work on the database that holds an order.
        handle: does what a message asks for.

    Raises:
        MessageKeysMissing: nothing was started; messages could be neither signed nor verified.
    """
    signer = EntrySigner(models.service, parse_peer_keys(settings.message_keys.get_secret_value()))
    for name, cluster in databases.items():
        relay = Relay(
            cluster,
            redis,
            models.outbox,
            source=name,
            signer=signer,
            poll_seconds=settings.relay_poll_seconds,
            retry_seconds=settings.redelivery_seconds,
        )
        background.start(f"relay {name}", relay.run)
        pruner = Pruner(
            cluster,
            models.inbox,
            database=name,
            keep=timedelta(seconds=settings.inbox_keep_seconds),
            every_seconds=settings.inbox_prune_seconds,
        )
        background.start(f"pruner {name}", pruner.run)
    learned = open_learned(redis, models.service.value, keep_seconds=settings.token_seconds)
    consumer = Consumer(
        redis,
        signer=signer,
        inbox=models.inbox,
        transact=transact,
        handle=handle,
        learned=lambda order_id, token: learned.keep(str(order_id), token),
    )
    background.start("consumer", consumer.run)


def in_one(cluster: Cluster) -> Transact:
    """Run units of work on one database, which holds every order."""

    async def transact(_order_id: int, work: Callable[[WriteSession], Awaitable[bool]], /) -> Committed[bool]:
        return await cluster.transact(work)

    return transact
