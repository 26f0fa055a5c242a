"""Each service has its own user of Valkey, which may do what the service does, and nothing else."""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError
from structlog.testing import capture_logs

from app.crm.application import build as build_crm
from app.flow.grants import holder_key
from app.messaging.errors import RedisRefuses
from app.messaging.routing import ORDER_SERVICES, ServiceName, destinations_of
from ops.embedded.errors import StartFailed
from ops.embedded.programs import valkey_server
from ops.embedded.valkey import Valkey, acl_of, password_name, users_of
from ops.ports import LOOPBACK, PortPicker
from sharding.topology import Topology
from tests.integration.services_rig import client_of, fast_settings, ok, open_services
from tests.project import PROJECT

RULES: Mapping[str, tuple[str, ...]] = {
    name: service.redis for name, service in PROJECT.file.services.items()
}
PASSWORDS = {password_name(user): f"password of {user}" for user in users_of(RULES)}
USERS = acl_of(RULES, PASSWORDS)
SERVICES = [service.value for service in ServiceName]
Command = Callable[[Redis], Any]


@dataclass
class Server:
    """A Valkey of the test's own."""

    valkey: Valkey
    port: int

    def start(self, users: tuple[str, ...] = USERS) -> bool:
        return self.valkey.start(program=valkey_server(), port=self.port, users=users)

    def client(self, user: str | None = None, password: str | None = None) -> Redis:
        known = PASSWORDS[password_name(user)] if user else None
        return Redis(port=self.port, username=user, password=password or known, decode_responses=True)


def make_server(folder: Path, password: str | None) -> Server:
    valkey = Valkey(
        folder=folder / "valkey",
        pidfile=folder / "valkey.pid",
        log=folder / "valkey.log",
        password=password,
    )
    return Server(valkey, PortPicker(random.Random()).pick())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a Valkey with the users of the project."""
    server = make_server(tmp_path_factory.mktemp("access"), PASSWORDS["redis_mesctl"])
    server.start()
    try:
        yield server
    finally:
        server.valkey.stop()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Server]:
    """Give a Valkey that does not run yet."""
    server = make_server(tmp_path, PASSWORDS["redis_mesctl"])
    try:
        yield server
    finally:
        server.valkey.stop()


FORBIDDEN: Mapping[str, Command] = {
    "FLUSHALL": lambda redis: redis.flushall(),
    "CONFIG": lambda redis: redis.config_get("*"),
    "KEYS": lambda redis: redis.keys("*"),
    "SCAN": lambda redis: redis.scan(),
    "ACL": lambda redis: redis.acl_list(),
    "EVAL": lambda redis: redis.eval("return 1", 0),
    "SHUTDOWN": lambda redis: redis.shutdown(),
    "REPLICAOF": lambda redis: redis.replicaof("127.0.0.1", 1),
    "CLIENT": lambda redis: redis.client_list(),
    "DEL": lambda redis: redis.delete("orders:mes"),
    "any key": lambda redis: redis.set("mine", "1"),
}


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_service_cannot_administer(server: Server, service: str, name: str) -> None:
    with server.client(service) as redis, pytest.raises(NoPermissionError):
        FORBIDDEN[name](redis)


READING: Mapping[str, Callable[[Redis, str], Any]] = {
    "XRANGE": lambda redis, stream: redis.xrange(stream),
    "XREAD": lambda redis, stream: redis.xread({stream: "0"}),
    "XREADGROUP": lambda redis, stream: redis.xreadgroup("crm", "crm", {stream: ">"}),
    "XINFO STREAM": lambda redis, stream: redis.xinfo_stream(stream, full=True),
    "XTRIM": lambda redis, stream: redis.xtrim(stream, maxlen=0),
    "XDEL": lambda redis, stream: redis.xdel(stream, "1-1"),
    "XGROUP": lambda redis, stream: redis.xgroup_create(stream, "mine", id="0"),
}


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("name", READING)
def test_a_service_reads_no_other_ones_streams(server: Server, service: str, name: str) -> None:
    others = [f"orders:{other}" for other in SERVICES if other != service]
    acks = [stream for stream in ("acks:shop", "acks:crm", "acks:mes_0") if f"acks:{service}" not in stream]
    with server.client("mesctl") as admin, server.client(service) as redis:
        for stream in (*others, *acks):
            admin.xadd(stream, {"secret": "1"}, maxlen=1)
            with pytest.raises(NoPermissionError):
                READING[name](redis, stream)


@pytest.mark.parametrize("service", ServiceName)
def test_a_service_writes_to_those_alone_to_which_it_sends(server: Server, service: ServiceName) -> None:
    with server.client(service.value) as redis:
        for other in ServiceName:
            if other in destinations_of(service):
                assert redis.xadd(f"orders:{other.value}", {"a": "b"})
                assert redis.xlen(f"orders:{other.value}")
                continue
            with pytest.raises(NoPermissionError):
                redis.xadd(f"orders:{other.value}", {"a": "b"})
        with pytest.raises(NoPermissionError):
            redis.xadd("acks:mes_0" if service is ServiceName.MES else f"acks:{service.value}", {"a": "b"})
        with pytest.raises(NoPermissionError):
            redis.hgetall(f"causal-order:{'crm' if service is ServiceName.MES else 'mes'}:1")


@pytest.mark.parametrize("service", ORDER_SERVICES)
def test_grants_are_written_by_mes_alone(server: Server, service: ServiceName) -> None:
    with server.client(service.value) as redis:
        redis.hgetall("flow:grant:mes:crm")
        if service is ServiceName.MES:
            with redis.pipeline() as pipeline:
                pipeline.delete("flow:grant:mes:crm").hset("flow:grant:mes:crm", "a", "b")
                pipeline.pexpire("flow:grant:mes:crm", 1)
                assert pipeline.execute()
            return
        other = "crm" if service is ServiceName.SHOP else "shop"
        assert redis.set(holder_key(service.value), "me", nx=True, px=10)
        assert redis.pttl(holder_key(service.value)) <= 10
        with pytest.raises(NoPermissionError):
            redis.set(holder_key(other), "me")
        with pytest.raises(NoPermissionError):
            redis.hset("flow:grant:mes:crm", "per_second", "1000")
        with pytest.raises(NoPermissionError):
            redis.delete("flow:grant:mes:crm")


def test_the_board_writes_its_own_stream_of_changes_alone(server: Server) -> None:
    with server.client("board") as board, server.client("mes") as mes:
        entry = board.xadd("board:changes", {"order_id": "7"}, maxlen=10, approximate=True)
        assert board.xrange("board:changes")[-1][0] == entry
        assert board.xread({"board:changes": "0"}, count=1)
        assert board.xinfo_stream("board:changes")["last-generated-id"] == entry
        for stream in ("board:changes", "orders:shop"):
            with pytest.raises(NoPermissionError):
                (mes if stream == "board:changes" else board).xadd(stream, {"a": "b"})
        with pytest.raises(NoPermissionError):
            board.hset("flow:grant:mes:crm", "per_second", "1000")


def test_without_a_password_there_is_no_way_in(server: Server) -> None:
    for client in (server.client(), server.client("shop", "wrong"), server.client("crm", "password of shop")):
        with client as redis, pytest.raises(AuthenticationError):
            redis.ping()
    assert server.valkey.answers(server.port)
    text = (server.valkey.daemon.pidfile.parent / "valkey" / "users.acl").read_text()
    assert "password of" not in text


def test_an_older_server_gets_its_users_and_loses_nothing(own: Server) -> None:
    assert own.start(users=())
    with own.client() as redis:
        redis.xadd("orders:crm", {"a": "b"})
    assert not own.start(), "it was not started anew"
    with own.client() as redis, pytest.raises(AuthenticationError):
        redis.ping()
    with own.client("mesctl") as redis:
        assert redis.xlen("orders:crm") == 1
    assert not own.start()

    own.valkey.stop()
    assert own.start()
    with own.client("crm") as redis:
        assert redis.ping()


def test_users_are_changed_and_removed_while_it_runs(own: Server) -> None:
    own.start()
    rules = {"shop": RULES["shop"], "crm": ("+ping",)}
    new = PASSWORDS | {"redis_shop": "another"}
    with own.client("mesctl") as admin:
        admin.xadd("orders:crm", {"a": "b"})
        assert not own.start(acl_of(rules, new))
        assert {str(line).split()[1] for line in admin.acl_list()} == {"default", "mesctl", "shop", "crm"}
        assert admin.xlen("orders:crm") == 1
    with own.client("shop", "another") as redis:
        assert redis.ping()
    with own.client("crm") as redis, pytest.raises(NoPermissionError):
        redis.xlen("orders:crm")


def test_a_project_without_rules_has_a_server_that_lets_everybody_in(own: Server) -> None:
    own.start()
    assert own.start(users=())
    with own.client() as redis:
        assert redis.ping()
    assert not own.start(users=()), "it was not started anew again"


def test_a_rule_that_valkey_does_not_know_is_named(own: Server) -> None:
    with pytest.raises(StartFailed, match=r"(?s)valkey did not start.*Unknown command or category"):
        own.start(acl_of({"shop": ("+xadd +melt",)}, PASSWORDS))


def test_a_server_whose_password_is_lost_is_started_anew(own: Server) -> None:
    own.start()
    passwords = {name: f"new {password}" for name, password in PASSWORDS.items()}
    found = make_server(own.valkey.daemon.pidfile.parent, passwords["redis_mesctl"])
    found.port = own.port
    assert not found.valkey.answers(own.port)
    assert found.start(acl_of(RULES, passwords))
    assert found.valkey.answers(own.port)


@pytest.fixture
def locked_topology(topology: Topology, server: Server, monkeypatch: pytest.MonkeyPatch) -> Topology:
    """Give the test's databases with the Valkey that has users."""
    for name, password in PASSWORDS.items():
        monkeypatch.setenv(f"MES_STORAGE_PASSWORD_{name.upper()}", password)
    with server.client("mesctl") as admin:
        admin.flushall()
        admin.acl_log_reset()
    url = str(topology.sections["redis"]["url"])
    path = topology.path.with_name("locked.toml")
    path.write_text(topology.path.read_text().replace(url, f"redis://{LOOPBACK}:{server.port}/0"))
    return Topology.load(path)


async def test_the_services_may_do_all_that_they_do(locked_topology: Topology, server: Server) -> None:
    with capture_logs() as logs:
        async with open_services(locked_topology, caller_header="X-Caller") as services:
            for client in (services.shop, services.crm, services.mes):
                client.headers["X-Caller"] = "nord"
            order_id = await services.b2c()
            await services.shows(services.mes, order_id, "SUBMITTED")
            await services.price(order_id)
            await services.shows(services.crm, order_id, "PRICE_CALCULATED")
            await services.shows(services.shop, order_id, "PRICE_CALCULATED")
            ok(await services.crm.post(f"/v1/orders/{order_id}/approve"))
            await services.shows(services.mes, order_id, "MANUFACTURING_APPROVED")
            await services.shows(services.shop, order_id, "MANUFACTURING_APPROVED")
            for client in (services.shop, services.crm, services.mes):
                ok(await client.get("/readyz"))

    assert [log for log in logs if "permission" in str(log)] == []
    with server.client("mesctl") as admin:
        kept = {str(key).rpartition(":")[0] for key in admin.keys("causal*")}
        refused = admin.acl_log()
    assert kept >= {"causal", "causal-order:mes", "causal-order:crm", "causal-order:shop"}
    assert refused == []


async def test_a_wrong_password_is_one_line_at_the_start(
    locked_topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MES_STORAGE_PASSWORD_REDIS_CRM", "wrong")
    said = r"refuses user crm .*: set MES_STORAGE_PASSWORD_REDIS_CRM"
    with pytest.raises(RedisRefuses, match=said):
        await start_crm(locked_topology)
    monkeypatch.delenv("MES_STORAGE_PASSWORD_REDIS_CRM")
    with pytest.raises(RedisRefuses, match="refuses a client without a password"):
        await start_crm(locked_topology)


async def start_crm(topology: Topology) -> None:
    async with client_of(build_crm(fast_settings(topology), topology)):
        pass
