"""The embedded platform as its users meet it: `mesctl up`, `down`, `status`, and what may come in between."""

import json
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
from cryptography import x509
from redis import Redis
from redis.exceptions import AuthenticationError

from app.topology import redis_url, services_of
from ops import cli
from ops.embedded import servers
from ops.embedded.home import Home
from ops.embedded.pgpass import derived_secret, read_passwords
from ops.embedded.platform import Platform
from ops.embedded.postgres import PostgresCluster
from ops.embedded.processes import is_alive
from ops.embedded.programs import PostgresTools, valkey_server
from ops.embedded.service import SECRET
from ops.embedded.valkey import Valkey
from ops.errors import ExitStatus
from ops.gateway.model import section_of
from ops.ports import PortPicker
from ops.waiting import wait_until
from sharding.topology import Topology
from tests.project import PROJECT

MESCTL = Path(sys.executable).with_name("mesctl")
SERVERS = (
    *("shop", "crm", "directory", "mes_0", "mes_0_replica", "mes_1", "mes_1_replica"),
    *("board", "board_replica", "valkey"),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the folder of a platform; whatever runs there at the end is stopped, and the data removed."""
    home = tmp_path_factory.mktemp("platform") / "home"
    try:
        yield home
    finally:
        Platform(home, PROJECT).delete()


@pytest.fixture
def said() -> list[str]:
    """Collect what the platform reports."""
    return []


@pytest.fixture
def platform(home: Path, said: list[str]) -> Platform:
    """Give a platform whose servers run."""
    platform = Platform(home, PROJECT, safe=False, report=said.append)
    # To migrate what is migrated takes a second; most tests leave everything as it was.
    if not (platform.home.exists() and platform.home.wanted() and platform.status().is_right):
        platform.up(services=False)
        said.clear()
    return platform


Mesctl = Callable[..., int]


@pytest.fixture
def mesctl(home: Path, monkeypatch: pytest.MonkeyPatch) -> Mesctl:
    """Run `mesctl` on the platform, in this process."""
    monkeypatch.delenv("MES_STORAGE_TOPOLOGY", raising=False)
    return lambda *arguments: cli.run(["--home", str(home), *arguments])


def connect(topology: Topology, database: str, role: str, replica: str | None = None) -> psycopg.Connection:
    """Connect to a database of the topology."""
    url = topology.url(database, role=role, replica=replica).set(drivername="postgresql")
    return psycopg.connect(url.render_as_string(hide_password=False), autocommit=True)


def pids(platform: Platform) -> dict[str, int | None]:
    """Give the pid of each server."""
    return {state.name: state.pid for state in platform.status().components if state.kind != "service"}


def crash(pid: int | None) -> None:
    """Kill a process with SIGKILL and wait until it is gone."""
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not is_alive(pid), timeout_seconds=60)


def test_status_shows_every_server_and_the_lag_of_replicas(
    platform: Platform, mesctl: Mesctl, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mesctl("status", "--json") == ExitStatus.DONE
    status: dict[str, Any] = json.loads(capsys.readouterr().out)
    states = {state["name"]: state for state in status["components"] if state["kind"] != "service"}
    assert tuple(states) == SERVERS
    assert {name for name, state in states.items() if state["state"] == "streaming"} == {
        "board_replica",
        "mes_0_replica",
        "mes_1_replica",
    }
    assert states["mes_0_replica"]["lag_bytes"] >= 0
    assert status["topology"]["databases"]["mes_0"]["replicas"][0]["name"] == "mes_0_replica"


def test_a_second_up_changes_nothing_and_says_so(
    platform: Platform, mesctl: Mesctl, capsys: pytest.CaptureFixture[str]
) -> None:
    before = pids(platform)
    assert mesctl("up", "--no-services", "--no-fsync") == ExitStatus.DONE
    printed = capsys.readouterr().err.splitlines()
    assert {line.split(":")[0] for line in printed if "runs already" in line} == set(SERVERS)
    assert pids(platform) == before


def test_every_cluster_has_an_identity_of_its_own_and_its_replica_shares_it(platform: Platform) -> None:
    topology = platform.topology()
    identity = "SELECT system_identifier FROM pg_control_system()"
    found = {}
    for name, database in topology.databases.items():
        with connect(topology, name, f"{database.tree}_owner") as connection:
            found[name] = connection.execute(identity).fetchone()
        for replica in database.replicas:
            with connect(topology, name, f"{database.tree}_owner", replica.name) as connection:
                assert connection.execute(identity).fetchone() == found[name]
    assert len(set(found.values())) == len(topology.databases)


def test_a_replica_streams_what_its_primary_commits(platform: Platform) -> None:
    topology = platform.topology()
    with (
        connect(topology, "mes_0", "mes_owner") as primary,
        connect(topology, "mes_0", "mes", "mes_0_replica") as replica,
    ):
        primary.execute("CREATE TABLE streamed AS SELECT 42 AS answer")
        primary.execute("GRANT SELECT ON streamed TO mes")
        try:
            exists = "SELECT to_regclass('streamed') IS NOT NULL"
            assert wait_until(lambda: replica.execute(exists).fetchone() == (True,), timeout_seconds=60)
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                replica.execute("CREATE TABLE nothing_may_be_written_here ()")
        finally:
            primary.execute("DROP TABLE streamed")


def test_a_service_connects_to_its_own_databases_only(platform: Platform) -> None:
    topology = platform.topology()
    for database in ("shop", "directory"):
        with connect(topology, database, "shop") as connection:
            assert connection.execute("SELECT current_user").fetchone() == ("shop",)
    for database in ("crm", "mes_0", "mes_1"):
        with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry"):
            connect(topology, database, "shop")
    shop = topology.databases["shop"].primary
    with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry"):
        psycopg.connect(
            host=shop.host,
            port=shop.port,
            dbname="postgres",
            user="shop",
            passfile=str(platform.home.passfile),
        )


def test_an_owner_sees_the_queries_of_services_and_services_do_not(platform: Platform) -> None:
    topology = platform.topology()
    with connect(topology, "mes_0", "mes_owner") as owner, connect(topology, "mes_0", "mes") as service:
        seen = "SELECT query FROM pg_stat_activity WHERE pid = %s"
        [query] = owner.execute(seen, [service.info.backend_pid]).fetchall()
        assert query != ("<insufficient privilege>",)
        assert service.execute(seen, [owner.info.backend_pid]).fetchall() == [("<insufficient privilege>",)]


def test_a_killed_postmaster_is_seen_and_started_again(
    platform: Platform, mesctl: Mesctl, said: list[str]
) -> None:
    topology = platform.topology()
    with connect(topology, "mes_1", "mes_owner") as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
    crash(pids(platform)["mes_1"])
    assert mesctl("status") == ExitStatus.FAILED
    platform.up(services=False)
    assert f"mes_1: starting on port {topology.databases['mes_1'].primary.port}" in said
    with connect(topology, "mes_1", "mes_owner") as connection:
        connection.execute("DROP TABLE kept")
    assert wait_until(lambda: platform.status().is_right, timeout_seconds=60)


def test_a_stolen_port_is_given_up_and_the_replica_follows(platform: Platform, said: list[str]) -> None:
    old = platform.topology().databases["mes_0"].primary.port
    replica = pids(platform)["mes_0_replica"]
    crash(pids(platform)["mes_0"])
    with closing(socket.create_server(("127.0.0.1", old))):
        topology = platform.up(services=False)
    new = topology.databases["mes_0"].primary.port
    assert new != old
    [moved] = [line for line in said if "is taken by" in line]
    assert moved.startswith(f"mes_0: port {old} is taken by ")
    assert f"(pid {os.getpid()}); moved to port {new}" in moved
    assert wait_until(lambda: platform.status().is_right, timeout_seconds=60), platform.status()
    assert pids(platform)["mes_0_replica"] == replica, "the replica was told, not started again"


def cluster_of(platform: Platform, name: str) -> PostgresCluster:
    """Give one of the platform's clusters."""
    home = platform.home
    data, log = home.data(name), home.log(name)
    return PostgresCluster(name, tools=PostgresTools(), data=data, log=log, passfile=home.passfile)


@pytest.fixture
def left_behind(platform: Platform) -> int:
    """Give mes_0's new port: it was edited, and `up` was killed before it came to the replica."""
    topology = platform.topology()
    old, new = topology.databases["mes_0"].primary.port, PortPicker(random.Random()).pick()
    text = platform.topology_path.read_text()
    platform.topology_path.write_text(re.sub(rf"\b{old}\b", str(new), text))
    primary = cluster_of(platform, "mes_0")
    primary.stop()
    settings = primary.data / "platform.conf"
    settings.write_text(re.sub(rf"\b{old}\b", str(new), settings.read_text()))
    primary.start(port=new)
    return new


def test_a_replica_that_was_left_behind_by_a_killed_up_follows_its_primary_after_the_next(
    platform: Platform, left_behind: int, mesctl: Mesctl, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mesctl("status") == ExitStatus.FAILED
    assert mesctl("up", "--no-services", "--no-fsync") == ExitStatus.DONE
    said = capsys.readouterr().err
    assert f"mes_0_replica: follows its primary to port {left_behind}" in said
    assert platform.status().is_right


def test_up_fails_for_as_long_as_a_replica_does_not_stream(
    platform: Platform, mesctl: Mesctl, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "STREAM_SECONDS", 1.0)
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_replication"
    with cluster_of(platform, "mes_0").connect() as connection:
        connection.execute("ALTER ROLE replicator NOLOGIN")
        connection.execute(end)
        try:
            assert mesctl("up", "--no-services", "--no-fsync") == ExitStatus.FAILED
            said = capsys.readouterr().err
            assert "mesctl: mes_0_replica runs, and does not stream from its primary" in said
            assert 'role "replicator" is not permitted to log in' in said
        finally:
            connection.execute("ALTER ROLE replicator LOGIN")
    monkeypatch.undo()
    platform.up(services=False)
    assert platform.status().is_right


def test_status_and_the_plan_say_what_runs_on_another_port_than_the_topology_has(
    platform: Platform, mesctl: Mesctl, capsys: pytest.CaptureFixture[str]
) -> None:
    text, topology = platform.topology_path.read_text(), platform.topology()
    picker, moved = PortPicker(random.Random()), text
    replica, valkey = (
        topology.database("mes_1").replicas[0].port,
        urlsplit(redis_url(topology, "mesctl")).port,
    )
    wanted = {replica: picker.pick(), valkey: picker.pick()}
    for old, new in wanted.items():
        moved = re.sub(rf"\b{old}\b", str(new), moved)
    platform.topology_path.write_text(moved)
    try:
        assert mesctl("status", "--json") == ExitStatus.FAILED
        states = {each["name"]: each for each in json.loads(capsys.readouterr().out)["components"]}
        for name, old in (("mes_1_replica", replica), ("valkey", valkey)):
            assert (states[name]["state"], states[name]["port"]) == ("faulty", old)
            assert f"listens on port {old}, and the topology has port {wanted[old]}" in states[name]["detail"]
        assert mesctl("up", "--no-services", "--dry-run") == ExitStatus.DONE
        assert capsys.readouterr().out.splitlines() == [
            f"would restart replica mes_1_replica on port {wanted[replica]}",
            f"would restart valkey on port {wanted[valkey]}",
        ]
    finally:
        platform.topology_path.write_text(text)
    assert platform.status().is_right


def test_status_says_who_has_the_port_of_what_does_not_run(platform: Platform) -> None:
    port = platform.topology().databases["crm"].primary.port
    crash(pids(platform)["crm"])
    with closing(socket.create_server(("127.0.0.1", port))):
        [crm] = [each for each in platform.status().components if each.title == "primary crm"]
    assert f"port {port} is taken by " in crm.detail
    platform.up(services=False)


def test_a_half_made_data_folder_is_made_anew(platform: Platform, said: list[str]) -> None:
    crash(pids(platform)["mes_1_replica"])
    whole = platform.home.data("mes_1_replica")
    partial = whole.with_name("mes_1_replica.partial")
    assert wait_until(lambda: not _has_processes(whole), timeout_seconds=60)
    whole.rename(partial)
    platform.up(services=False)
    assert f"mes_1_replica: removed the half-made data folder {partial}" in said
    assert not partial.exists()
    assert wait_until(lambda: platform.status().is_right, timeout_seconds=60), platform.status()


def _has_processes(folder: Path) -> bool:
    # The children of a killed postmaster end within moments.
    working = (link for link in Path("/proc").glob("[0-9]*/cwd") if link.exists())
    return any(link.resolve() == folder for link in working)


def test_a_topology_of_release_0_1_is_mended_and_nothing_is_started_anew(
    platform: Platform, mesctl: Mesctl, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before, text = pids(platform), platform.home.topology.read_text()
    head, *tables = re.split(r"(?m)^(?=\[)", text)
    kept = "".join(table for table in tables if not table.startswith("[trees."))
    platform.home.topology.write_text(f'backend = "postgresql"\nbuckets = 64\n{head}{kept}# mine\n')
    assert mesctl("status") == ExitStatus.USAGE
    assert "buckets: belongs to a tree; move it into [trees.NAME]" in capsys.readouterr().err
    platform.up(services=False)
    assert "topology.toml: add [trees.mes]" in said
    assert "topology.toml: move buckets into the sharded trees" in said
    assert platform.topology().trees["mes"].buckets == 64
    assert "# mine\n" in platform.home.topology.read_text()
    assert pids(platform) == before


def test_an_older_platform_gets_the_users_of_valkey_and_loses_nothing(
    platform: Platform, said: list[str]
) -> None:
    """As release 0.1 left it: Valkey lets everybody in, and there are no passwords of its users."""
    home, url = platform.home, urlsplit(platform.topology().sections["redis"]["url"])
    assert url.username is url.password is None
    assert url.port is not None
    secret = derived_secret(home.passfile, purpose="page cursors")
    valkey = Valkey(folder=home.valkey, pidfile=home.pidfile("valkey"), log=home.log("valkey"))
    valkey.stop()
    (home.valkey / "users.acl").unlink()
    lines = home.passfile.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("*:*:*:redis_")]
    home.passfile.write_text("".join(kept))
    valkey.start(program=valkey_server(), port=url.port)
    with Redis(port=url.port) as redis:
        redis.set("learned", "1")
    before = pids(platform)
    assert platform.status().is_right

    platform.up(services=False)

    assert "valkey: has the users mesctl, shop, crm, mes, board, default" in said
    assert pids(platform) == before
    assert platform.status().is_right
    passwords = read_passwords(home.passfile)
    with Redis(port=url.port, username="mesctl", password=passwords["redis_mesctl"]) as redis:
        assert redis.get("learned") == b"1"
    with Redis(port=url.port) as redis, pytest.raises(AuthenticationError):
        redis.ping()
    # Put back what the other passwords were derived of: services have secrets of it.
    home.passfile.write_text("".join(lines))
    assert derived_secret(home.passfile, purpose="page cursors") == secret
    platform.up(services=False)
    assert platform.status().is_right


def test_two_ups_at_once_are_refused(
    platform: Platform, mesctl: Mesctl, capsys: pytest.CaptureFixture[str]
) -> None:
    with platform.home.locked():
        assert mesctl("up") == ExitStatus.REFUSED
        assert mesctl("down") == ExitStatus.REFUSED
    assert capsys.readouterr().err.count(f"another mesctl (pid {os.getpid()}) is changing") == 2
    assert platform.status().is_right


def test_lost_passwords_are_told(
    platform: Platform, mesctl: Mesctl, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.move(platform.home.passfile, tmp_path / "pgpass")
    try:
        assert mesctl("up", "--no-services") == ExitStatus.FAILED
        assert "put it back" in capsys.readouterr().err
    finally:
        shutil.move(tmp_path / "pgpass", platform.home.passfile)


def test_down_stops_everything_keeps_the_data_and_may_be_repeated(
    platform: Platform, mesctl: Mesctl, capsys: pytest.CaptureFixture[str]
) -> None:
    before = pids(platform)
    assert mesctl("down", "--dry-run") == ExitStatus.DONE
    steps = capsys.readouterr().out.splitlines()
    assert steps[0].startswith("would stop replica board_replica")
    assert steps[-1].startswith("would stop valkey")
    assert pids(platform) == before
    assert mesctl("down") == ExitStatus.DONE
    assert not any(is_alive(pid) for pid in before.values() if pid)
    assert mesctl("down") == ExitStatus.DONE
    assert mesctl("status") == ExitStatus.DONE, "what should not run, need not"
    topology = platform.up(services=False)
    with connect(topology, "directory", "shop") as connection:
        assert connection.execute("SELECT count(*) FROM shard_map_versions").fetchone() == (1,)


def test_an_up_that_was_killed_midway_is_completed_by_the_next(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    command = [str(MESCTL), "--home", str(home.path), "up", "--no-services", "--no-fsync"]
    said: list[str] = []
    platform = Platform(home.path, PROJECT, safe=False, report=said.append)
    try:
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as mesctl:
            # As soon as initdb is at work.
            assert wait_until(lambda: any(home.path.glob("data/*.partial")), timeout_seconds=60)
            mesctl.kill()
        platform.up(services=False)
        assert any("removed the half-made data folder" in line for line in said)
        assert not list(home.path.glob("data/*.partial"))
        assert wait_until(lambda: platform.status().is_right, timeout_seconds=60), platform.status()
    finally:
        platform.delete()
    assert not home.path.exists()


def _is_a_problem(mesctl: Mesctl, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert mesctl("problems", "--json") == ExitStatus.FAILED
    found = {each["object"]: each for each in json.loads(capsys.readouterr().out)}
    assert (found[name]["severity"], found[name]["command"]) == ("page", "mesctl up")


def _is_bundled_without_secrets(platform: Platform, mesctl: Mesctl) -> None:
    file = platform.home.path / "incident.tar.gz"
    assert mesctl("bundle", str(file)) == ExitStatus.DONE
    with tarfile.open(file) as archive:
        parts = {each.name: archive.extractfile(each) for each in archive}
        whole = b"".join(part.read() for part in parts.values() if part).decode()
    file.unlink()
    assert any("/logs/" in name and "mes" in name for name in parts), parts.keys()
    passfile = platform.home.passfile
    purposes = SECRET.findall(PROJECT.path.read_text())
    secrets = {*read_passwords(passfile).values(), *(derived_secret(passfile, purpose=p) for p in purposes)}
    assert len(secrets) > 10
    assert [secret for secret in secrets if secret in whole] == []
    assert re.findall(r"://[^\s:/@]*:(?!\(masked\)|\*\*\*)[^\s@/]+@", whole) == []


def _are_behind_doors(platform: Platform) -> None:
    """Ask for routes at doors, by certificates that `up` has made."""
    topology, folder = platform.topology(), platform.home.certificates
    doors = section_of(topology).doors
    stranger = ssl.create_default_context(cafile=folder / "ca.pem")
    service = ssl.create_default_context(cafile=folder / "ca.pem")
    service.load_cert_chain(folder / "client.pem", folder / "client.key")

    def status(door: str, name: str, path: str, trust: ssl.SSLContext) -> int:
        with httpx.Client(verify=trust, trust_env=False) as client:
            url = f"https://localhost:{doors[door].port}{path}"
            return client.get(url, headers={"Host": name}, extensions={"sni_hostname": name}).status_code

    # The services answer, and know no caller; what is not behind a door is not there.
    assert status("staff", "mes.localhost", "/v1/orders", stranger) == 401
    assert status("external", "mes.api.localhost", "/v1/orders/17", stranger) == 401
    assert status("external", "mes.api.localhost", "/v1/orders", stranger) == 404
    assert status("customer", "shop.localhost", "/livez", stranger) == 404
    assert status("internal", "internal.crm.api.localhost", "/v1/orders", service) == 401
    assert status("staff", "dba.localhost", "/panels", stranger) == 401
    assert status("staff", "dba.localhost", "/livez", stranger) == 404
    with pytest.raises(httpx.TransportError):
        status("internal", "internal.crm.api.localhost", "/v1/orders", stranger)
    assert (folder / "external-door.key").stat().st_mode & 0o077 == 0
    # A stranger is shown the names of its door, and not those of the inner one.
    certificate = x509.load_pem_x509_certificate((folder / "external-door.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    hosts = names.get_values_for_type(x509.DNSName)
    assert hosts == ["localhost", "crm.api.localhost", "mes.api.localhost"]


@pytest.mark.long
def test_services_are_started_killed_and_started_again(
    platform: Platform, mesctl: Mesctl, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    platform.up()
    assert {line for line in said if line.endswith("service: started")} == {
        f"{name} service: started"
        for name in (
            *("shop", "crm", "mes", "board", "pricing"),
            *("mesctl-exporter", "mesctl-gateway", "mesctl-pages"),
        )
    }
    _are_behind_doors(platform)
    killed = platform.kill_service("mes")
    assert killed is not None
    assert mesctl("status", "--json") == ExitStatus.FAILED
    components = json.loads(capsys.readouterr().out)["components"]
    [mes] = [state for state in components if (state["name"], state["kind"]) == ("mes", "service")]
    assert (mes["state"], mes["wanted"]) == ("stopped", True)
    _is_a_problem(mesctl, capsys, "service mes")
    _is_bundled_without_secrets(platform, mesctl)
    assert platform.start_service("mes")
    assert not platform.start_service("mes"), "it runs already"
    assert platform.status().is_right
    before = {each.name: each.pid for each in platform.status().components if each.kind == "service"}
    with platform.topology_path.open("a") as topology:
        topology.write("# edited\n")
    said.clear()
    platform.up()
    assert "mes service: starting anew, for it has read the topology as it was" in said
    after = {each.name: each.pid for each in platform.status().components if each.kind == "service"}
    assert not before.items() & after.items()
    said.clear()
    platform.up()
    assert "mes service: runs already" in said
    capsys.readouterr()
    assert mesctl("up", "--no-fsync") == ExitStatus.DONE
    # The last line is where people begin, and how they come in.
    last, _, login = capsys.readouterr().out.splitlines()[-1].partition("  ")
    assert last == f"http://localhost:{services_of(platform.topology())['board'].port}/"
    assert "mesctl identities create" in login
    platform.down()
    assert not any(state.pid for state in platform.status().components)
