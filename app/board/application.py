"""The board put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

from fastapi import FastAPI
from redis.asyncio import Redis

from app.access.credentials import TokenKeys
from app.board import repository
from app.board.actions import Actions, open_actions
from app.board.endpoints import Board, router
from app.board.errors import STATUSES
from app.board.live import LiveChanges, LiveEvent
from app.board.notices import NoticeSender, open_port
from app.board.pages import front
from app.board.pages.entry import show_error
from app.board.pages.pieces import Thumbnails
from app.board.pages.staff import Pages
from app.board.pages.stream import Feed, Streams
from app.board.projection import BoardChange, Projection
from app.board.repository import ListedOrder
from app.board.retention import OrderPruner
from app.causality import open_learned
from app.database import open_database
from app.delivery import in_one
from app.files import ModelStore
from app.flow.places import Places
from app.kit.clock import utc_now
from app.kit.health import Readiness
from app.kit.tasks import Background
from app.messaging.consumer import Consumer
from app.messaging.inbox import Pruner
from app.messaging.routing import ORDER_SERVICES, ServiceName
from app.messaging.signing import EntrySigner, parse_peer_keys
from app.messaging.streams import check_streams, open_redis
from app.models.board import BoardInbox
from app.serve import make_app, timeouts_of
from app.settings import Settings
from app.topology import board_keeps, files_url, is_sandbox, redis_url
from readreplica.cluster import Cluster
from readreplica.signing import TokenText, parse_keys
from readreplica.token import CausalToken
from sharding.topology import Topology


def build(settings: Settings, topology: Topology) -> FastAPI:
    """Make the board's application."""

    @asynccontextmanager
    async def parts(background: Background, readiness: Readiness) -> AsyncIterator[Board]:
        models = ModelStore.open(files_url(topology))
        signer = EntrySigner(ServiceName.BOARD, parse_peer_keys(settings.message_keys.get_secret_value()))
        tokens = TokenKeys.parse(settings.access_keys.get_secret_value(), is_sandbox=is_sandbox(topology))
        text = TokenText(parse_keys(settings.token_keys.get_secret_value()))
        async with (
            open_database(topology, "board", timeouts=timeouts_of(settings)) as orders,
            open_redis(redis_url(topology, "board")) as redis,
            open_actions(topology, tokens, text) as actions,
            open_port(settings) as port,
        ):
            readiness.need_databases({"board": orders})
            readiness.need("streams in Redis", partial(check_streams, redis, "board", ()))
            live = LiveChanges(redis)
            background.start("live changes", live.run)
            if port is not None:
                sender = NoticeSender(
                    orders=orders,
                    port=port,
                    tokens=tokens,
                    link_base=settings.notice_link_base,
                    language=settings.notice_language,
                )
                background.start("notices", sender.run)
            _start_receiving(background, orders, redis, signer, live, settings=settings, topology=topology)
            places = Places(redis, signer)
            pages = _pages_on(orders, live, actions, models, places)
            yield Board(pages=pages, orders=orders, live=live, actions=actions, places=places, now=utc_now)

    app = make_app(
        "board",
        description="Shows the orders of all services, as they say that these are.",
        settings=settings,
        topology=topology,
        router=router,
        statuses=STATUSES,
        parts=parts,
        front=front,
    )
    app.state.show_error = show_error
    return app


def _pages_on(
    orders: Cluster, live: LiveChanges, actions: Actions, models: ModelStore, places: Places
) -> Pages:
    async def read(event: LiveEvent) -> ListedOrder | None:
        """Read the order of an event, on a replica that has it."""
        if event.order_id is None:
            return None
        async with orders.read(after=event.token, autocommit=True) as session:
            return await repository.get_order(session, event.order_id)

    return Pages(
        orders=orders,
        actions=actions,
        streams=Streams(live, Feed(read)),
        models=models,
        thumbnails=Thumbnails(models),
        places=places,
    )


def services_of_databases(topology: Topology) -> dict[str, ServiceName]:
    """Return whose each database is."""
    return {
        name: ServiceName(database.tree)
        for name, database in topology.databases.items()
        if database.tree in set(ORDER_SERVICES)
    }


def _start_receiving(
    background: Background,
    orders: Cluster,
    redis: Redis,
    signer: EntrySigner,
    live: LiveChanges,
    *,
    settings: Settings,
    topology: Topology,
) -> None:
    """Start to handle what the services send. The board sends nothing, and so it has no relay."""
    changes: dict[int, BoardChange] = {}
    learned = open_learned(redis, "board", keep_seconds=settings.token_seconds)

    async def committed(order_id: int, token: CausalToken) -> None:
        await learned.keep(str(order_id), token)
        # Before the acknowledgement: a message whose change was not published comes again, and it is then.
        await live.publish(order_id, changes.pop(order_id, None), token)

    consumer = Consumer(
        redis,
        signer=signer,
        inbox=BoardInbox,
        transact=in_one(orders),
        handle=Projection(
            services_of_databases(topology), changes, is_written=bool(settings.notice_url.get_secret_value())
        ).handle,
        learned=committed,
    )
    background.start("consumer", consumer.run)
    pruner = Pruner(
        orders,
        BoardInbox,
        database="board",
        keep=timedelta(seconds=settings.inbox_keep_seconds),
        every_seconds=settings.inbox_prune_seconds,
    )
    background.start("pruner board", pruner.run)
    background.start("retention", OrderPruner(orders=orders, keep=board_keeps(topology)).run)
