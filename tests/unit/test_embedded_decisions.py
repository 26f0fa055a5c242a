"""The embedded platform's decisions that need no server."""

import hashlib
import hmac
import random
import re
import socket
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from ops.embedded.errors import BinaryMissing, ReplicaNameTaken, TopologyNotEdited
from ops.embedded.pgpass import derived_secret, ensure_passwords, read_passwords
from ops.embedded.postgres import quoted
from ops.embedded.service import environment_of
from ops.embedded.shape import ALERTMANAGER, POOLER, PROMETHEUS, VALKEY, ListenAddress, shape_of
from ops.embedded.state import ComponentState, PlatformState, steps_down, steps_up
from ops.embedded.topology_file import (
    Draft,
    draft_mended,
    draft_new,
    load_text,
    with_free_ports,
    with_keys,
    with_pooler,
    with_port,
    without_keys,
    without_pooler,
)
from ops.embedded.valkey import acl_of, users_of
from ops.embedded.watchers import command_of, find_watcher
from ops.ports import LOOPBACK, NoFreePort, PortPicker, PortTaken, holder_of, is_free, start_on_free_port
from ops.project.project import ServiceEntry
from sharding.errors import TopologyError
from sharding.topology import Topology
from tests.project import PROJECT, ROLES, ROOT, TEMPLATE

SHOP = ComponentState(name="shop", kind="primary", state="running", wanted=True, pid=11)
REPLICA = ComponentState(name="mes_0_replica", kind="replica", state="absent", wanted=True)
PGBOUNCER = ComponentState(name="pgbouncer", kind="pooler", state="running", wanted=True, pid=12)
SERVICE = ComponentState(name="shop", kind="service", state="stopped", wanted=False)


ANEW = PortPicker(random.Random(7))
TEMPLATE_FILE = ROOT / "app" / "console" / "topology.toml"


def write(path: Path, draft: Draft) -> Topology:
    """Write a draft with free ports, and read it."""
    places = shape_of(load_text(draft.text, path.name), PROJECT.file.services).addresses
    path.write_text(with_free_ports(draft, places.values(), ANEW, path))
    return Topology.load(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give the topology file of a new platform, with a comment and an edit of its user."""
    path = tmp_path / "topology.toml"
    write(path, draft_new(TEMPLATE_FILE, named="app/console/topology.toml"))
    path.write_text(path.read_text() + "\n[pool]\nsize = 3  # my laptop is small\n")
    return path


def places_in(topology: Topology) -> dict[str, ListenAddress]:
    """Give where everything listens."""
    return shape_of(topology, PROJECT.file.services).addresses


def test_a_new_topology_is_the_template_with_ports_of_its_own(path: Path) -> None:
    topology = Topology.load(path)
    assert topology.databases.keys() == TEMPLATE.databases.keys()
    assert topology.trees == TEMPLATE.trees
    places, before = places_in(topology), places_in(TEMPLATE)
    assert places.keys() == before.keys()
    ports = {place.port for place in places.values()}
    assert len(ports) == len(places)
    assert not ports & {place.port for place in before.values()}
    assert path.read_text().startswith("# Written by `mesctl up` from app/console/topology.toml.\n")


def test_a_moved_port_leaves_comments_and_edits(path: Path) -> None:
    before = Topology.load(path)
    places = places_in(before)
    # The user happens to have the same number elsewhere.
    path.write_text(path.read_text() + f"\n[mail]\nport = {places[VALKEY].port}  # of another machine\n")
    path.write_text(with_port(path.read_text(), places[VALKEY], 31_000, path))
    path.write_text(with_port(path.read_text(), places["mes_0_replica"], 31_001, path))
    topology = Topology.load(path)
    moved = {name: place.port for name, place in places_in(topology).items()}
    assert moved == {name: place.port for name, place in places.items()} | {
        VALKEY: 31_000,
        "mes_0_replica": 31_001,
    }
    assert topology.sections["mail"] == {"port": places[VALKEY].port}
    assert topology.pool.size == 3
    assert "# my laptop is small" in path.read_text()


def test_a_port_that_cannot_be_edited_is_named(path: Path) -> None:
    place = places_in(Topology.load(path))["shop"]
    text = path.read_text().replace(f"port = {place.port} ", f"port = {hex(place.port)} ")
    with pytest.raises(
        TopologyNotEdited, match=r"databases.shop.primary.port could not be changed: write 31"
    ):
        with_port(text, place, 31_000, path)


def test_a_pooler_comes_and_goes_and_leaves_edits(path: Path) -> None:
    before = path.read_text()
    path.write_text(with_pooler(before, port=31_000, version="1.18"))
    pooled = Topology.load(path)
    assert pooled.url("crm", role="crm").database == "crm.crm"
    assert places_in(pooled)[POOLER].port == 31_000
    assert without_pooler(path.read_text() + "\n[pgbouncer.services.crm]\nweight = 2\n") == before


def test_a_file_that_lacks_nothing_of_the_template_is_left_as_it_is(path: Path) -> None:
    draft = draft_mended(path, TEMPLATE_FILE)
    assert (draft.text, draft.added, draft.notes) == (path.read_text(), (), ())


OLD = """\
# Written by `mesctl up`. Edit what you like; a port that is found taken is replaced, and nothing else.
backend = "postgresql"
buckets = 128  # my laptop is large
passfile = "pgpass"

"""


def test_a_file_of_release_0_1_gets_the_trees_of_the_template(path: Path) -> None:
    before = Topology.load(path)
    tables = re.split(r"(?m)^(?=\[)", path.read_text())[1:]
    path.write_text(OLD + "".join(table for table in tables if not table.startswith("[trees.")))
    with pytest.raises(TopologyError, match="belongs to a tree"):
        Topology.load(path)
    draft = draft_mended(path, TEMPLATE_FILE)
    assert draft.notes == (
        *(f"add [trees.{name}]" for name in ("directory", "shop", "crm", "mes", "board")),
        "move backend into the sharded trees",
        "move buckets into the sharded trees",
    )
    topology = write(path, draft)
    assert topology.trees["mes"].buckets == 128
    assert places_in(topology) == places_in(before)
    assert topology.pool.size == 3
    assert "# my laptop is small" in path.read_text()


@pytest.mark.parametrize("wrong", ["databases = 3", "this is no TOML", "[trees]\nmes = 1"])
def test_a_file_that_cannot_be_mended_is_left_to_its_reader(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "topology.toml"
    path.write_text(wrong)
    with pytest.raises(TopologyError, match=r"topology\.toml: "):
        load_text(draft_mended(path, TEMPLATE_FILE).text, path.name)


def test_a_tree_that_was_added_to_the_template_comes_with_free_ports(path: Path, tmp_path: Path) -> None:
    template = tmp_path / "template.toml"
    template.write_text(
        TEMPLATE_FILE.read_text()
        + """
[trees.stock]
kind = "single"
[databases.stock]
tree = "stock"
dbname = "stock"
primary = { host = "localhost", port = 5432 }
replicas = [ { name = "stock_replica", host = "::1", port = 5433 } ]
[stock]
names = [ "a", 'b"c' ]
[services.stock]
host = "127.0.0.1"
port = 8004
"""
    )
    before = places_in(Topology.load(path))
    draft = draft_mended(path, template)
    assert draft.notes == (
        "add [trees.stock]",
        "add [databases.stock]",
        "add [services.stock]",
        "add [stock]",
    )
    topology = write(path, draft)
    places = places_in(topology)
    assert {name: place for name, place in places.items() if name in before} == before
    assert places["stock"].port in range(15_000, 32_000)
    assert (places["stock"].host, places["stock_replica"].host) == (LOOPBACK, "::1")
    assert topology.sections["stock"] == {"names": ["a", 'b"c']}


STRANGERS = """
[trees.directory]
kind = "directory"
[trees.pay]
kind = "sharded"
[databases.directory]
tree = "directory"
dbname = "directory"
primary = { host = "192.0.2.1", port = 5432 }
replicas = [ { name = "near", host = "127.0.0.1", port = 5440 } ]
[databases.pay_0]
tree = "pay"
dbname = "one"
primary = { host = "localhost", port = 5432 }
[[databases.pay_0.replicas]]
name = "pay_0_near"
host = "127.0.0.1"
port = 5441
[[databases.pay_0.replicas]]
name = "far"
host = "db"
port = 1
[databases.pay_1]
tree = "pay"
dbname = "two"
primary = { host = "127.0.0.1", port = 5432 }
replicas = [ { name = "pay_1_near", host = "127.0.0.1", port = 5441 } ]
[databases.pay_2]
tree = "pay"
dbname = "all"
primary = { host = "::1", port = 5432 }
[redis]
url = "rediss://127.0.0.1"
[services.api]
host = "api.example.org"
port = 80
[services.web]
host = "127.0.0.1"
port = 8080
color = "blue"
"""
SERVICES = {name: ServiceEntry(module=f"shop.{name}", health="/up") for name in ("web", "api", "worker")}


def test_what_is_on_loopback_is_started_and_the_rest_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "topology.toml"
    path.write_text(STRANGERS)
    shape = shape_of(Topology.load(path), SERVICES)
    # Two databases of one address are in one server, and have one replica.
    assert [[database.dbname for database in server.databases] for server in shape.servers] == [
        ["one", "two"],
        ["all"],
    ]
    assert {name: (place.host, place.port) for name, place in shape.addresses.items()} == {
        "pay_0": (LOOPBACK, 5432),
        "pay_0_near": (LOOPBACK, 5441),
        "pay_2": ("::1", 5432),
        "web service": (LOOPBACK, 8080),
    }
    assert [(service.name, service.address is None) for service in shape.services] == [
        ("web", False),
        ("worker", True),
    ]
    assert {(state.title, state.detail) for state in shape.elsewhere} == {
        ("primary directory", "192.0.2.1:5432"),
        ("replica near", "127.0.0.1:5440 (its primary is elsewhere)"),
        ("replica far", "db:1"),
        ("valkey", "127.0.0.1"),
        ("service api", "api.example.org:80"),
    }
    assert len(shape.addresses["pay_0_near"].keys) == 2
    assert shape.servers[1].access("::1")[-1] == 'host "all" pay_owner,pay ::1/128 scram-sha-256'


def test_a_replica_with_the_name_of_a_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "topology.toml"
    path.write_text(STRANGERS.replace('name = "far"', 'name = "pay_2"'))
    with pytest.raises(
        ReplicaNameTaken, match=r"databases.pay_0.replicas.1.name: 'pay_2' is a database, too"
    ):
        shape_of(Topology.load(path), SERVICES)


def test_a_service_section_that_says_no_port_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "topology.toml"
    path.write_text(STRANGERS.replace("port = 8080", "prot = 8080"))
    with pytest.raises(TopologyError, match=r"services.web.port: missing key"):
        shape_of(Topology.load(path), SERVICES)


def test_only_its_own_roles_may_connect_to_a_database() -> None:
    shape = shape_of(TEMPLATE, {})
    access = {server.name: server.access(server.address.host) for server in shape.servers}
    assert access["crm"][-1] == "host crm crm_owner,crm 127.0.0.1/32 scram-sha-256"
    assert access["directory"][-1].split()[2] == "directory_owner,board,crm,mes,shop"
    assert not any("trust" in line or "0.0.0.0" in line for lines in access.values() for line in lines)


def test_passwords_are_made_once_and_readable_by_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "pgpass"
    first = ensure_passwords(path, ROLES[:2])
    second = ensure_passwords(path, ROLES)
    assert {role: second[role] for role in first} == first
    assert len(set(second.values())) == len(ROLES)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_passwords(path) == second


def test_a_password_that_is_added_changes_neither_the_others_nor_the_secrets(tmp_path: Path) -> None:
    path = tmp_path / "pgpass"
    first = ensure_passwords(path, ["shop", "shop_owner"], known={"shop": "a:b\\c"})
    assert first["shop"] == "a:b\\c"
    secret = derived_secret(path, purpose="page cursors")
    key = repr(sorted(first.items())).encode()
    assert secret == hmac.digest(key, b"page cursors", "sha256").hex(), "as it was in release 0.1"
    path.write_text("db.example.org:5432:*:stock:theirs\n" + path.read_text())
    second = ensure_passwords(path, ["shop", "stock"])
    assert second["shop"] == "a:b\\c"
    assert second["stock"] != "theirs"
    assert ensure_passwords(path, ["stock", "crm"])["stock"] == second["stock"]
    assert derived_secret(path, purpose="page cursors") == secret
    assert path.read_text().startswith("db.example.org:5432:*:stock:theirs\n")


def test_the_environment_of_a_service_has_the_secrets_that_the_project_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("MINE", "kept")
    monkeypatch.setenv("ALONE", "of all services")
    wanted = {"KEYS": "a={secret:one},b={secret:two}", "PLAIN": "false", "MINE": "replaced"}
    own = {"ALONE": "c={secret:two}"}
    passfile, topology = tmp_path / "pgpass", tmp_path / "topology.toml"
    project = tmp_path / "mes-storage.toml"

    def environment() -> dict[str, str]:
        return environment_of(wanted, own, topology=topology, project=project, passfile=passfile)

    base = {
        "MES_STORAGE_TOPOLOGY": str(topology),
        "MES_STORAGE_PROJECT": str(project),
        "PYTHONPATH": f"/elsewhere:{tmp_path}",
    }
    assert environment() == base
    ensure_passwords(passfile, ["shop"])
    one, two = (derived_secret(passfile, purpose=purpose) for purpose in ("one", "two"))
    assert environment() == base | {"KEYS": f"a={one},b={two}", "PLAIN": "false", "ALONE": f"c={two}"}


def test_only_the_services_that_have_rules_come_into_valkey() -> None:
    rules = {"shop": ("+ping", "(~orders:shop +xlen)"), "pricing": ()}
    assert users_of(rules) == ("mesctl", "shop")
    lines = acl_of(rules, {"redis_mesctl": "a", "redis_shop": "b"})
    assert [line.split()[:4] for line in lines] == [
        ["user", "mesctl", "reset", "on"],
        ["user", "shop", "reset", "on"],
        ["user", "default", "reset"],
    ]
    assert lines[1].endswith(" +ping (~orders:shop +xlen)")
    assert hashlib.sha256(b"b").hexdigest() in lines[1]
    assert acl_of({"pricing": ()}, {}) == ()


def test_both_sides_of_each_pair_of_services_get_the_same_key_and_the_third_gets_another() -> None:
    keys = {
        name: entry.environment.get("MES_STORAGE_MESSAGE_KEYS", "")
        for name, entry in PROJECT.file.services.items()
    }
    pairs = [(name, *part.split(":", 1)) for name, text in keys.items() for part in text.split(",") if part]
    secrets = {(name, peer): secret for name, peer, secret in pairs}
    assert len(secrets) == 12
    assert all(secrets[peer, name] == secret for (name, peer), secret in secrets.items())
    assert len(set(secrets.values())) == 6


def test_a_picked_port_is_free_and_never_given_twice() -> None:
    picker = PortPicker(random.Random(1))
    picker.avoid(range(15_000, 31_000))
    ports = {picker.pick() for _ in range(5)}
    assert len(ports) == 5
    assert ports <= set(range(31_000, 32_000))


def test_the_holder_of_a_port_is_named() -> None:
    with socket.create_server((LOOPBACK, 0)) as stranger:
        port = stranger.getsockname()[1]
        assert not is_free(port)
        assert "(pid " in holder_of(port)
    assert is_free(port)


def test_a_port_lost_at_the_last_moment_is_replaced() -> None:
    tried: list[int] = []

    def start(port: int) -> None:
        tried.append(port)
        if len(tried) < 3:
            raise PortTaken("shop", port, "nginx")

    assert start_on_free_port(PortPicker(random.Random(1)), start) == tried[2]
    assert len(set(tried)) == 3


def test_ports_that_are_all_lost_end_in_an_error() -> None:
    def start(port: int) -> None:
        raise PortTaken("shop", port, "nginx")

    with pytest.raises(NoFreePort):
        start_on_free_port(PortPicker(random.Random(1)), start)


def test_a_settings_value_cannot_break_out() -> None:
    assert quoted("it's a \\ path") == "'it''s a \\\\ path'"


def test_plans_name_what_does_not_run_and_stop_services_first() -> None:
    running = ComponentState(name="shop", kind="service", state="running", wanted=True, pid=12)
    assert steps_up([SHOP, REPLICA, SERVICE], services=False) == ["create and start replica mes_0_replica"]
    assert "start service shop" in steps_up([SHOP, REPLICA, SERVICE], services=True)
    moved = replace(SHOP, port=1, should_port=2)
    assert steps_up([moved], services=False) == ["restart primary shop on port 2"]
    assert steps_up([replace(moved, port=2)], services=False) == []
    assert steps_down([SHOP, REPLICA, PGBOUNCER, running]) == [
        "stop service shop (pid 12)",
        "stop pooler pgbouncer (pid 12)",
        "stop primary shop (pid 11)",
    ]


def test_the_platform_is_right_when_everything_that_should_run_does() -> None:
    assert PlatformState(home="h", components=(SHOP, SERVICE)).is_right
    assert not PlatformState(home="h", components=(SHOP, REPLICA)).is_right


@pytest.mark.parametrize(
    "text", ["[monitoring] # ours\nport = 1\n\n[redis]\nport = 2\n", "[redis]\nport = 2\n"]
)
def test_the_ports_of_what_watches_come_into_their_table_and_leave_it(text: str) -> None:
    with_ports = with_keys(text, "monitoring", {"prometheus_port": 9090, "alertmanager_port": 9093})
    content = tomllib.loads(with_ports)
    assert content["monitoring"]["prometheus_port"] == 9090
    assert content["redis"] == {"port": 2}
    left = without_keys(with_ports, "monitoring", ["prometheus_port", "alertmanager_port"])
    expected = tomllib.loads(text)
    assert tomllib.loads(left) == {"monitoring": {}, **expected}


def test_a_watcher_that_is_not_here_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BinaryMissing, match=r"Prometheus .*apt-get install prometheus, or .*--no-monitoring"):
        find_watcher(PROMETHEUS)


def test_what_watches_listens_on_loopback_and_keeps_bounded_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("prometheus", "prometheus-alertmanager"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    command = command_of(PROMETHEUS, tmp_path / "home", 9090)
    assert "--web.listen-address=127.0.0.1:9090" in command
    assert "--storage.tsdb.retention.size=4GB" in command
    assert "--cluster.listen-address=" in command_of(ALERTMANAGER, tmp_path / "home", 9093)
