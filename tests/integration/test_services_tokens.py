"""A client reads what it has written, though the replica lags: by header, cookie, Redis and messages."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient, Response
from redis.asyncio import Redis

from app.delivery import in_one
from app.mes.application import build as build_mes
from app.messaging.consumer import Consumer
from app.messaging.message import Message
from app.messaging.routing import ServiceName
from app.messaging.signing import EntrySigner, parse_peer_keys
from app.messaging.streams import open_redis
from app.models.crm import CrmInbox
from app.topology import redis_url
from readreplica.asgi import COOKIE
from readreplica.httpx import CausalClient
from readreplica.sessions import WriteSession
from readreplica.signing import MOST_TOKENS, TOKEN_HEADER, TokenText, parse_keys
from readreplica.token import CausalToken
from readreplica.wal import Lsn
from sharding.engines import open_cluster
from sharding.topology import Topology
from tests.callers import ActingAs, by_operator
from tests.integration.messaging_rig import running, until
from tests.integration.replicas_rig import parameters
from tests.integration.services_rig import MODEL, fast_settings, new_key, ok, problem, save_map
from tests.message_keys import ALL_KEYS
from tests.servers import PostgresServers

KEYS = "test=" + "k" * 32
CALLER = "X-Caller"
TEXT = TokenText(parse_keys(KEYS))


@pytest.fixture(scope="module")
async def mes_app(module_topology: Topology) -> AsyncIterator[FastAPI]:
    """The MES, with signed tokens, over shards whose replica tests pause."""
    await save_map(module_topology)
    settings = fast_settings(module_topology).model_copy(
        update={"token_keys": type(fast_settings(module_topology).token_keys)(KEYS)}
        | {"cookie_secure": False, "caller_header": CALLER}
    )
    app = build_mes(settings, module_topology)
    async with app.router.lifespan_context(app):
        yield app


@asynccontextmanager
async def client_to(app: FastAPI, **options: Any) -> AsyncIterator[AsyncClient]:
    """A program, which keeps no cookies, unless it is given a jar."""
    transport = ASGITransport(app, raise_app_exceptions=False)
    jar = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    words: dict[str, Any] = {
        "transport": transport,
        "base_url": "http://service",
        "cookies": jar,
        "auth": ActingAs(),
    }
    async with AsyncClient(**words | options) as client:
        yield client


@contextmanager
def lagging(postgres: PostgresServers) -> Iterator[None]:
    """The replica has everything up to now, and later commits much later. It counts as good all the time."""
    postgres.wait_for_replica()
    with parameters(postgres.replica, recovery_min_apply_delay="1h"):
        yield


async def order(client: AsyncClient, **headers: str) -> Response:
    """Order as a partner."""
    answer = await client.post(
        "/v1/partners/atelier-nord/orders",
        files={"file": ("ring.stl", MODEL)},
        data={"material": "brass", "finish": "matte", "quantity": "3"},
        headers={"Idempotency-Key": new_key(), **headers},
    )
    ok(answer, 202)
    return answer


async def sees(client: AsyncClient, made: Response, **headers: str) -> int:
    """Read an order; give the status of the answer."""
    return (await client.get(f"/v1/orders/{made.json()['order_id']}", headers=headers)).status_code


async def test_without_a_token_the_lagging_replica_shows(mes_app: FastAPI, postgres: PostgresServers) -> None:
    # The other tests would prove nothing if this were not so.
    with lagging(postgres):
        async with client_to(mes_app) as writer, client_to(mes_app) as stranger:
            assert await sees(stranger, await order(writer)) == 404


async def test_header(mes_app: FastAPI, postgres: PostgresServers) -> None:
    with lagging(postgres):
        async with client_to(mes_app) as writer, client_to(mes_app) as reader:
            made = await order(writer)
            token = made.headers[TOKEN_HEADER]
            assert await sees(reader, made, **{TOKEN_HEADER: token}) == 200
            # What was reserved under the partner's key, on whichever shard, counts as well.
            assert TEXT.read(token).positions.keys() <= {"mes_0", "mes_1"}


async def test_hooks(mes_app: FastAPI, postgres: PostgresServers) -> None:
    with lagging(postgres):
        hooks = CausalClient().async_hooks()
        async with client_to(mes_app, event_hooks=hooks) as writer:
            made = await asyncio.gather(*(order(writer) for _ in range(4)))
        # Another client, without the writer's cookies, that shares the hooks.
        async with client_to(mes_app, event_hooks=hooks) as reader:
            assert [await sees(reader, one) for one in made] == [200] * 4


async def test_cookie(mes_app: FastAPI, postgres: PostgresServers) -> None:
    with lagging(postgres):
        async with client_to(mes_app, cookies={}) as browser:
            made = await order(browser)
            cookie = made.headers["Set-Cookie"]
            assert cookie.startswith(f"{COOKIE}=1~")
            assert {"HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=3600"} <= set(cookie.split("; "))
            assert "Secure" not in cookie
            assert await sees(browser, made) == 200
            shown = await browser.get(f"/v1/orders/{made.json()['order_id']}")
            assert "Set-Cookie" not in shown.headers  # it would say the same
            listed = ok(await browser.get("/v1/orders", params={"status": "SUBMITTED"}))
            assert made.json()["order_id"] in [one["order_id"] for one in listed["orders"]]


async def test_an_old_cookie_locks_nobody_out(mes_app: FastAPI, postgres: PostgresServers) -> None:
    forged = TokenText(parse_keys("test=" + "x" * 32)).write(CausalToken())
    for text in (forged, "yesterday", CausalToken().encode()):
        async with client_to(mes_app, cookies={COOKIE: text}) as browser:
            dropped = await browser.get("/healthz")
            assert dropped.status_code == 200
            assert f"{COOKIE}=; Path=/; Max-Age=0" in dropped.headers["Set-Cookie"]
        async with client_to(mes_app, cookies={COOKIE: text}) as browser:
            replaced = await order(browser)
            assert TEXT.read(replaced.headers["Set-Cookie"].partition("=")[2].partition(";")[0])


async def test_redis_for_callers_that_keep_nothing(
    mes_app: FastAPI, postgres: PostgresServers, module_topology: Topology
) -> None:
    with lagging(postgres):
        async with client_to(mes_app) as one, client_to(mes_app) as other:
            made = await order(one, **{CALLER: "nord"})
            assert await sees(other, made, **{CALLER: "nord"}) == 200
            assert await sees(other, made, **{CALLER: "sud"}) == 404
    async with open_redis(redis_url(module_topology, "test")) as redis:
        assert 0 < await redis.ttl("causal:nord") <= 3600


async def test_two_hundred_requests_keep_their_tokens_apart(
    mes_app: FastAPI, postgres: PostgresServers
) -> None:
    async with client_to(mes_app) as client:
        made = [await order(client) for _ in range(4)]
        asked = [TEXT.read(one.headers[TOKEN_HEADER]) for one in made]
        system = next(iter(asked[0].positions.values()))

        async def request(number: int) -> bool:
            mine = CausalToken({f"mes_{number % 2}": system._replace(lsn=Lsn(1 + number))})
            path = f"/v1/orders/{made[number % 4].json()['order_id']}"
            answer = await client.get(path, headers={TOKEN_HEADER: TEXT.write(mine)})
            return TEXT.read(answer.headers[TOKEN_HEADER]) == mine

        assert all(await asyncio.gather(*(request(number) for number in range(200))))


async def test_tokens_that_are_not_good_are_refused_by_name(mes_app: FastAPI) -> None:
    async with client_to(mes_app) as client:
        made = await order(client)
        token = TEXT.read(made.headers[TOKEN_HEADER])
        unknown = TokenText(parse_keys("gone=" + "k" * 32)).write(token)
        forged = TokenText(parse_keys("test=" + "x" * 32)).write(token)
        for text, name in (
            (unknown, "token-key-unknown"),
            (forged, "token-forged"),
            (token.encode(), "token-unsigned"),
            ("yesterday", "token-unsigned"),
            (",".join([TEXT.write(token)] * (MOST_TOKENS + 1)), "token-malformed"),
        ):
            answer = await client.get("/v1/orders", headers={TOKEN_HEADER: text})
            refused = problem(answer, 400)
            assert refused["type"].endswith(f":{name}")
            assert "header Causal-Token" in refused["detail"]
            assert answer.headers[TOKEN_HEADER] == ""
            # A write is refused before it writes, and not carried out with a token dropped.
            problem(await client.post("/v1/orders/17/take", headers={TOKEN_HEADER: text}), 400)


async def test_tokens_of_another_history(mes_app: FastAPI, postgres: PostgresServers) -> None:
    async with client_to(mes_app) as client:
        made = await order(client)
        postgres.wait_for_replica()
        real = TEXT.read(made.headers[TOKEN_HEADER])
        for change in (
            {"timeline": 0},  # superseded: all that survived of it is there
            {"lsn": Lsn(2**60)},  # from the future: taken for the primary's position
            {"system_identifier": 1},  # of another cluster: the primary
        ):
            odd = CausalToken({name: at._replace(**change) for name, at in real.positions.items()})
            assert await sees(client, made, **{TOKEN_HEADER: TEXT.write(odd)}) == 200


async def test_redis_that_is_away_is_gone_on_without(module_topology: Topology) -> None:
    settings = fast_settings(module_topology).model_copy(update={"caller_header": CALLER})
    path = module_topology.path.with_name("no-redis.toml")
    path.write_text(
        module_topology.path.read_text().replace(redis_url(module_topology, "test"), "redis://127.0.0.1:1/0")
    )
    gone = Topology.load(path)
    app = build_mes(settings, gone)
    async with app.router.lifespan_context(app), client_to(app) as client:
        made = await order(client, **{CALLER: "nord"})
        assert made.headers[TOKEN_HEADER]
        answer = await client.get("/v1/orders/17", headers={CALLER: "nord"})
        problem(answer, 404)


async def test_writes_are_refused_while_a_database_is_switched_over(mes_app: FastAPI) -> None:
    shards = mes_app.state.parts.operators.sessions.clusters
    async with client_to(mes_app) as client, AsyncExitStack() as stack:
        for shard in shards.values():
            await stack.enter_async_context(shard.drained(timeout_seconds=30))
        answer = await client.post("/v1/orders/17/take", headers=by_operator("Rosa"))
        refused = problem(answer, 503)
        assert refused["type"].endswith(":writes-refused")
        assert "nothing was written" in refused["detail"]
        assert answer.headers["Retry-After"] == "1"


async def test_reads_past_the_budget_are_told_when_to_come_again(
    module_topology: Topology, postgres: PostgresServers
) -> None:
    path = module_topology.path.with_name("narrow.toml")
    narrow = "[replicas]\nfallback_per_second = 0.2\nfallback_concurrency = 1\nreplay_wait_seconds = 0\n"
    path.write_text(module_topology.path.read_text() + narrow)
    app = build_mes(fast_settings(module_topology), Topology.load(path))
    async with app.router.lifespan_context(app), client_to(app) as client:
        with lagging(postgres):
            made = await order(client)
            path_of, token = f"/v1/orders/{made.json()['order_id']}", made.headers[TOKEN_HEADER]
            answers: list[Response] = []

            async def one_is_answered() -> bool:
                # The service reads for itself, too, out of the same budget: a turn comes every 5 s.
                asked = (client.get(path_of, headers={TOKEN_HEADER: token}) for _ in range(20))
                answers.extend(await asyncio.gather(*asked))
                return any(one.status_code == 200 for one in answers)

            await until(one_is_answered, seconds=30)
            refused = [one for one in answers if one.status_code != 200]
            assert refused
            for one in refused:
                assert problem(one, 503)["type"].endswith(":replicas-too-stale")
                assert one.headers["Retry-After"] == "5"
            listed = [client.get("/v1/orders", headers={TOKEN_HEADER: token}) for _ in range(20)]
            for one in await asyncio.gather(*listed):
                if one.status_code != 200:
                    assert problem(one, 503)["type"].endswith(":replicas-too-stale")


async def test_what_a_message_tells_of_is_there_to_read(
    mes_app: FastAPI, postgres: PostgresServers, module_topology: Topology
) -> None:
    """MES's event comes to a handler; its call back to the MES sees the order, on a replica that lags."""
    statuses: dict[str, list[int]] = {}

    async with AsyncExitStack() as stack:
        crm = await stack.enter_async_context(
            open_cluster(module_topology, "crm", role="crm", application_name="test")
        )
        redis: Redis = await stack.enter_async_context(open_redis(redis_url(module_topology, "test")))
        hooks = CausalClient(text=TEXT).async_hooks()
        caller = await stack.enter_async_context(client_to(mes_app, event_hooks=hooks))
        stranger = await stack.enter_async_context(client_to(mes_app))

        async def ask_back(_session: WriteSession, message: Message) -> None:
            assert message.token.positions.keys() == {message.source}
            path = f"/v1/orders/{message.order_id}"
            statuses[message.subject] = [(await one.get(path)).status_code for one in (stranger, caller)]

        consumer = Consumer(
            redis,
            signer=EntrySigner(ServiceName.CRM, parse_peer_keys(ALL_KEYS)),
            inbox=CrmInbox,
            transact=in_one(crm),
            handle=ask_back,
            block_seconds=0.05,
        )
        with lagging(postgres):
            async with client_to(mes_app) as partner, running(consumer):
                made = [str((await order(partner)).json()["order_id"]) for _ in range(3)]

                async def all_came() -> bool:
                    return statuses.keys() >= set(made)

                await until(all_came)
    assert [statuses[order_id] for order_id in made] == [[404, 200]] * 3
