"""The embedded platform's decisions that need no server."""

import random
import socket
from pathlib import Path

import pytest

from ops.embedded.errors import NoFreePort, NotOurTopology, PortTaken
from ops.embedded.pgpass import ensure_passwords, read_passwords
from ops.embedded.ports import LOOPBACK, PortPicker, holder_of, is_free, start_on_free_port
from ops.embedded.settings import quoted
from ops.embedded.shape import ported_components
from ops.embedded.state import ComponentState, PlatformState, steps_down, steps_up
from ops.embedded.topology_file import add_pooler, move_port, read_ports, remove_pooler, write_topology
from sharding.topology import Topology
from tests.project import DATABASES, ROLES

PORTS = {name: 20_000 + number for number, name in enumerate(ported_components())}
SHOP = ComponentState(name="shop", kind="primary", state="running", wanted=True, pid=11)
REPLICA = ComponentState(name="mes_0_replica", kind="replica", state="absent", wanted=True)
POOLER = ComponentState(name="pgbouncer", kind="pooler", state="running", wanted=True, pid=12)
SERVICE = ComponentState(name="shop", kind="service", state="stopped", wanted=False)


def test_a_written_topology_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "topology.toml"
    write_topology(path, PORTS, files=tmp_path / "files")
    topology = Topology.load(path)
    assert read_ports(topology) == PORTS
    assert {name: database.tree for name, database in topology.databases.items()} == {
        shape.name: shape.tree for shape in DATABASES
    }


def test_a_moved_port_leaves_comments_and_edits(tmp_path: Path) -> None:
    path = tmp_path / "topology.toml"
    write_topology(path, PORTS, files=tmp_path / "files")
    path.write_text(path.read_text() + "\n[pool]\nsize = 3  # my laptop is small\n")
    move_port(path, old=PORTS["valkey"], new=31_000)
    topology = Topology.load(path)
    assert read_ports(topology) == {**PORTS, "valkey": 31_000}
    assert topology.pool.size == 3
    assert "# my laptop is small" in path.read_text()


def test_a_pooler_comes_and_goes_and_leaves_edits(tmp_path: Path) -> None:
    path = tmp_path / "topology.toml"
    write_topology(path, PORTS, files=tmp_path / "files")
    path.write_text(path.read_text() + "\n[pool]\nsize = 3  # my laptop is small\n")
    before = path.read_text()
    add_pooler(path, port=31_000, version="1.18")
    pooled = Topology.load(path)
    assert pooled.url("crm", role="crm").database == "crm.crm"
    assert read_ports(pooled) == {**PORTS, "pgbouncer": 31_000}
    path.write_text(path.read_text() + "\n[pgbouncer.services.crm]\nweight = 2\n")
    remove_pooler(path)
    assert path.read_text() == before


def test_a_topology_without_a_component_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "topology.toml"
    write_topology(path, PORTS, files=tmp_path / "files")
    path.write_text(path.read_text().replace("[services.crm]", "[services.sales]"))
    with pytest.raises(NotOurTopology, match="no port for crm service"):
        read_ports(Topology.load(path))


def test_only_its_own_roles_may_connect_to_a_database() -> None:
    access = {shape.name: shape.access for shape in DATABASES}
    assert access["crm"][-1] == "host crm crm_owner,crm 127.0.0.1/32 scram-sha-256"
    assert access["directory"][-1].split()[2] == "directory_owner,shop,crm,mes"
    assert not any("trust" in line or "0.0.0.0" in line for lines in access.values() for line in lines)


def test_passwords_are_made_once_and_readable_by_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "pgpass"
    first = ensure_passwords(path, ROLES[:2])
    second = ensure_passwords(path, ROLES)
    assert {role: second[role] for role in first} == first
    assert len(set(second.values())) == len(ROLES)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_passwords(path) == second


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
    assert steps_down([SHOP, REPLICA, POOLER, running]) == [
        "stop service shop (pid 12)",
        "stop pooler pgbouncer (pid 12)",
        "stop primary shop (pid 11)",
    ]


def test_the_platform_is_right_when_everything_that_should_run_does() -> None:
    assert PlatformState(home="h", components=(SHOP, SERVICE)).is_right
    assert not PlatformState(home="h", components=(SHOP, REPLICA)).is_right
