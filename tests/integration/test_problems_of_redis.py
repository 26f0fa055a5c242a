"""What `mesctl problems` says of a Valkey that is stopped, frozen, full, behind, or does not let it in."""

import os
import random
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from redis import Redis

from app.console import redis_problems
from app.console.redis_problems import RedisFigures, find_redis_problems
from ops.embedded.programs import valkey_server
from ops.embedded.valkey import Valkey, acl_of, password_name, users_of
from ops.ports import LOOPBACK, PortPicker
from ops.problems.service import OpenProblem
from sharding.topology import Topology
from tests.integration.audit_rig import Clerk
from tests.integration.mesctl_rig import Mesctl
from tests.project import PROJECT
from tests.servers import ValkeyServer

RULES: Mapping[str, tuple[str, ...]] = {
    name: service.redis for name, service in PROJECT.file.services.items()
}
PASSWORDS = {password_name(user): f"password of {user}" for user in users_of(RULES)}


class Server:
    """A Valkey with the users of the project, and a topology that names it."""

    def __init__(self, folder: Path, topology_path: Path, shared_port: int) -> None:
        self.port = PortPicker(random.Random()).pick()
        self.valkey = Valkey(
            folder=folder / "valkey",
            pidfile=folder / "valkey.pid",
            log=folder / "valkey.log",
            password=PASSWORDS["redis_mesctl"],
        )
        self.valkey.start(program=valkey_server(), port=self.port, users=acl_of(RULES, PASSWORDS))
        text = topology_path.read_text()
        assert f":{shared_port}/0" in text
        topology_path.write_text(text.replace(f":{shared_port}/0", f":{self.port}/0"))
        self.path = topology_path
        self.where = f"Redis {LOOPBACK}:{self.port}"

    def send(self, number: signal.Signals) -> None:
        pid = self.valkey.pid()
        assert pid is not None
        os.kill(pid, number)

    def client(self) -> Redis:
        return Redis(port=self.port, username="mesctl", password=PASSWORDS["redis_mesctl"])

    def problems(self) -> list[OpenProblem]:
        return list(find_redis_problems(Topology.load(self.path)))


@pytest.fixture
def server(
    tmp_path: Path, topology_path: Path, monkeypatch: pytest.MonkeyPatch, valkey: ValkeyServer
) -> Iterator[Server]:
    monkeypatch.setenv("MES_STORAGE_PASSWORD_REDIS_MESCTL", PASSWORDS["redis_mesctl"])
    server = Server(tmp_path, topology_path, valkey.port)
    try:
        yield server
    finally:
        if server.valkey.pid() is not None:
            server.send(signal.SIGCONT)
        server.valkey.stop()


def test_a_healthy_one_is_none_and_a_stopped_one_is_a_page(server: Server) -> None:
    assert server.problems() == []
    server.valkey.stop()
    [found] = server.problems()
    assert (found.severity, found.object, found.command) == ("page", server.where, "mesctl status")
    assert found.what.startswith("does not answer: ")
    assert "refused" in found.what


@pytest.mark.usefixtures("stats_rights")
def test_the_verb_shows_a_frozen_one_in_one_line_and_in_time(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    Clerk(Topology.load(server.path)).shard_map()
    mesctl = Mesctl(server.path, capsys, PROJECT.path)
    mesctl("partitions", "apply")
    server.send(signal.SIGSTOP)
    began = time.monotonic()
    said = mesctl("problems", "--json")
    assert time.monotonic() - began < 10
    server.send(signal.SIGCONT)
    [found] = said.json
    assert (said.status, found["severity"], found["object"]) == (1, "page", server.where)
    assert found["what"].startswith("does not answer: Timeout")
    assert "\n" not in found["what"]
    assert mesctl("problems").out == "nothing is wrong\n"


@pytest.mark.parametrize("password", ["another", None])
def test_a_password_that_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch, password: str | None
) -> None:
    monkeypatch.delenv("MES_STORAGE_PASSWORD_REDIS_MESCTL")
    if password:
        monkeypatch.setenv("MES_STORAGE_PASSWORD_REDIS_MESCTL", password)
    [found] = server.problems()
    assert (found.severity, found.object) == ("ticket", server.where)
    assert found.what.startswith(f"refuses user {'mesctl' if password else 'default'}: ")
    assert found.command == (f"valkey-cli -h {LOOPBACK} -p {server.port} --user mesctl --askpass ACL WHOAMI")
    assert "another" not in str(found)


def test_memory_near_its_limit(server: Server) -> None:
    with server.client() as redis:
        for number in range(1000):  # no buffer of a connection is to be a part of it
            redis.set(f"much {number}", "x" * 20_000)
        most = int(redis.info("memory")["used_memory"] / 0.9)
        redis.config_set("maxmemory", most)
    [found] = server.problems()
    assert (found.severity, found.object) == ("ticket", server.where)
    assert found.what.startswith("memory is used up: ")
    assert found.what.endswith(f" of {most} bytes")
    assert found.command.endswith(f"CONFIG SET maxmemory {2 * most}")


def test_streams_that_are_long_or_none(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_problems, "MAX_ENTRIES", 20)
    with server.client() as redis:
        for _ in range(10):
            redis.xadd("orders:crm", {"a": "b"})
        redis.set("acks:mes_0", "no stream")
    found = {each.object: each for each in server.problems()}
    assert found.keys() == {f"stream {name} on {server.where}" for name in ("orders:crm", "acks:mes_0")}
    long, none = (found[f"stream {name} on {server.where}"] for name in ("orders:crm", "acks:mes_0"))
    assert (long.severity, long.command) == ("ticket", "mesctl status")
    assert long.what.startswith("has 10 of 20 entries")
    assert (none.severity, none.command) == (
        "page",
        f"valkey-cli -h {LOOPBACK} -p {server.port} DEL acks:mes_0",
    )
    assert none.what.startswith("cannot be read: WRONGTYPE")


def test_one_that_was_made_a_replica_takes_no_messages() -> None:
    figures = RedisFigures(is_replica=True, most_bytes=100, used_bytes=96)
    kinds = [each.severity for each in redis_problems.redis_problems(figures, where="Redis a", command="c")]
    assert kinds == ["page", "page"]
