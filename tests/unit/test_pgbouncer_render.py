"""The text of the pooler's files, the secrets in them, and what is found when a running pooler differs."""

import re
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from ops.errors import ExitStatus
from ops.pgbouncer import files
from ops.pgbouncer.admin import Row
from ops.pgbouncer.check import RunningPooler, compare
from ops.pgbouncer.errors import PoolsDoNotFit, SecretsDiffer, SecretUnusable, ServerSilent, UnknownVersion
from ops.pgbouncer.plan import Server, ServerLimits, plan_pools, servers_of
from ops.pgbouncer.pooler import Pooler
from ops.pgbouncer.render import PoolerConfig, render, settings_of
from ops.pgbouncer.userlist import common_secrets, fits, kept_secret, make_secret, password_for, unequal_roles
from ops.pgbouncer.versions import Version, parse_version
from sharding.errors import TopologyError
from sharding.topology import Topology

TOPOLOGY = """
[trees.directory]
kind = "directory"
[trees.shop]
kind = "single"
[trees.mes]
kind = "sharded"
[databases.shop]
tree = "shop"
dbname = "shop_prod"
primary = { host = "db0", port = 5432 }
[databases.directory]
tree = "directory"
dbname = "directory"
primary = { host = "db0", port = 5432 }
[databases.mes_0]
tree = "mes"
dbname = "mes"
primary = { host = "db1", port = 5432 }
replicas = [ { name = "mes_0r", host = "db2", port = 5432 } ]
[redis]
url = "redis://cache/0"
[files]
url = "file:///srv/files"
[pgbouncer]
host = "pool"
port = 6432
"""
OLD, NEW = Version(1, 18), Version(1, 24)
SECRETS = {"mes": "SCRAM", "shop": 'pass"word', "pgbouncer": "x"}


def load(tmp_path: Path, more: str = "") -> Topology:
    path = tmp_path / "topology.toml"
    path.write_text(TOPOLOGY + more)
    return Topology.load(path, environ={})


def wanted(topology: Topology, version: Version = OLD) -> PoolerConfig:
    assert topology.pgbouncer
    servers = servers_of(topology)
    limits = dict.fromkeys(servers, ServerLimits(100))
    processes = topology.pgbouncer.processes
    return PoolerConfig(
        topology.pgbouncer,
        version,
        tuple(plan_pools(servers, limits, reserve=20, processes=processes)),
    )


def test_a_pool_for_each_service_node_and_role(tmp_path: Path) -> None:
    texts = render(wanted(load(tmp_path)), SECRETS, folder=Path("/etc/pgbouncer"))
    entries = [line.split(" = ")[0] for line in texts["pgbouncer.ini"].splitlines() if " = host=" in line]
    assert entries == ["directory.mes", "directory.shop", "mes_0.mes", "mes_0r.mes", "shop.shop"]
    assert (
        "mes_0r.mes = host=db2 port=5432 dbname=mes pool_size=77 max_db_connections=77"
        in (texts["pgbouncer.ini"])
    )
    assert "; db0:5432: 100 max_connections - 3 superuser - 20 reserve = 77" in texts["pgbouncer.ini"]
    assert 'host "mes_0.mes" mes 127.0.0.1/32 scram-sha-256\n' in texts["hba.conf"]
    assert '"shop" "pass""word"\n' in texts["userlist.txt"]


def test_a_silent_server_is_named_with_its_databases(tmp_path: Path) -> None:
    path = tmp_path / "topology.toml"
    path.write_text(re.sub(r'"db\d", port = 5432', '"127.0.0.1", port = 1', TOPOLOGY))
    pooler = Pooler(Topology.load(path, environ={}))
    with pytest.raises(
        ServerSilent, match=r"127\.0\.0\.1:1 \(directory, mes_0, mes_0r, shop\) does not answer"
    ):
        pooler.config(NEW)
    with pytest.raises(PoolsDoNotFit, match=r"127\.0\.0\.1:1 \(directory, mes_0, mes_0r, shop\)"):
        pooler.config(NEW, max_connections=24)


def test_roles_and_databases_of_any_trees_have_their_pools(tmp_path: Path) -> None:
    tree = '[trees.ledger]\nkind = "single"\nrole = "books"\n[trees.cash]\nkind = "single"\nrole = "books"\n'
    databases = "".join(
        f'[databases.{name}]\ntree = "{name}"\ndbname = "{name}"\nprimary = {{ host = "db3", port = 5432 }}\n'
        for name in ("ledger", "cash")
    )
    pools = wanted(load(tmp_path, tree + databases)).pools
    found = {(each.pool.entry, each.pool.role) for each in pools if each.pool.service == "books"}
    assert found == {("cash.books", "books"), ("directory.books", "books"), ("ledger.books", "books")}


def test_the_same_topology_gives_the_same_text(tmp_path: Path) -> None:
    folder = Path("/etc/pgbouncer")
    assert render(wanted(load(tmp_path)), SECRETS, folder=folder) == render(
        wanted(load(tmp_path)), SECRETS, folder=folder
    )


def test_prepared_statements_only_where_they_work(tmp_path: Path) -> None:
    topology = load(tmp_path)
    assert "max_prepared_statements" not in settings_of(wanted(topology, Version(1, 20)))
    assert settings_of(wanted(topology, Version(1, 21)))["max_prepared_statements"] == "200"


@pytest.mark.parametrize(
    ("version", "keeps"), [(None, False), ("1.18", False), ("1.21.0", False), ("1.22", True)]
)
def test_the_library_prepares_statements_by_version(tmp_path: Path, version: str | None, keeps: bool) -> None:
    topology = load(tmp_path, f'version = "{version}"' if version else "")
    assert topology.pgbouncer
    assert topology.pgbouncer.keeps_prepared_statements is keeps


def test_several_processes_share_a_port_and_pass_on_cancel_requests(tmp_path: Path) -> None:
    topology = load(tmp_path, 'processes = 2\nsocket_dir = "/run/pgbouncer"\n')
    texts = render(wanted(topology, NEW), SECRETS, folder=Path("/etc/pgbouncer"))
    assert sorted(texts) == ["hba.conf", "pgbouncer-1.ini", "pgbouncer-2.ini", "userlist.txt"]
    second = texts["pgbouncer-2.ini"].splitlines()
    assert "so_reuseport = 1" in second
    assert "2 = host=/run/pgbouncer/2 port=6432" in second
    assert "peer_id = 2" in second
    assert "unix_socket_dir = /run/pgbouncer/2" in second
    assert "pool_size=38" in texts["pgbouncer-2.ini"]
    older = render(wanted(topology, OLD), SECRETS, folder=Path("/etc/pgbouncer"))
    assert "[peers]" not in older["pgbouncer-1.ini"]
    assert "1.18 has no peers: a cancel request" in older["pgbouncer-1.ini"]


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ("lisen = 1", "pgbouncer.lisen: unknown key; did you mean 'listen'?"),
        (
            "[pgbouncer.services.mes]\nwieght = 2",
            "pgbouncer.services.mes.wieght: unknown key; did you mean 'weight'?",
        ),
        ("processes = 2", "pgbouncer.socket_dir: missing key; 2 processes share one port"),
        ("[pgbouncer.services.pricing]\nweight = 2", "pgbouncer.services.pricing.databases: missing key"),
        (
            "[pgbouncer.services.mes]\ndatabases = ['mes_7']",
            "pgbouncer.services.mes.databases: 'mes_7' is no database of this file",
        ),
    ],
)
def test_a_fault_of_the_section_is_named(tmp_path: Path, more: str, fault: str) -> None:
    with pytest.raises(TopologyError) as caught:
        load(tmp_path, more)
    assert fault in str(caught.value)


def test_the_poolers_own_place_and_ambiguous_names_are_refused(tmp_path: Path) -> None:
    text = TOPOLOGY.replace('host = "pool"\nport = 6432', 'host = "db0"\nport = 5432').replace(
        '"mes_0r"', '"shop"'
    )
    path = tmp_path / "topology.toml"
    path.write_text(text)
    with pytest.raises(TopologyError) as caught:
        Topology.load(path)
    assert "pgbouncer.port: db0:5432 is databases.shop.primary" in str(caught.value)
    assert "databases.mes_0.replicas.0.name: 'shop' is a database, too" in str(caught.value)


def test_urls_lead_to_the_services_own_pool_and_owners_to_the_server(tmp_path: Path) -> None:
    services = "[pgbouncer.services.mes]\n[pgbouncer.services.pricing]\nrole = 'mes'\ndatabases = ['mes_0']"
    topology = load(tmp_path, services)

    def place(**options: object) -> str:
        url = topology.url("mes_0", **options)  # type: ignore[arg-type]
        return f"{url.host}:{url.port}/{url.database}"

    assert place(role="mes") == "pool:6432/mes_0.mes"
    assert place(role="mes", replica="mes_0r") == "pool:6432/mes_0r.mes"
    assert place(role="mes", service="pricing") == "pool:6432/mes_0.pricing"
    assert place(role="mes", service="reports") == "pool:6432/mes_0.mes"
    assert place(role="mes", direct=True) == "db1:5432/mes"
    assert place(role="mes_owner") == "db1:5432/mes"


def test_a_secret_must_be_the_same_everywhere() -> None:
    one, other = make_secret("mes", "word"), make_secret("mes", "word")
    first, second = Server("db0", 5432), Server("db1", 5432)
    assert common_secrets({"mes": {first: one, second: one}}) == {"mes": one}
    with pytest.raises(SecretsDiffer, match=r"db0:5432, db1:5432.*mesctl pgbouncer secrets") as caught:
        common_secrets({"mes": {first: one, second: other}})
    assert caught.value.exit_status == ExitStatus.REFUSED
    with pytest.raises(SecretUnusable, match="not stored as SCRAM on db1:5432"):
        common_secrets({"mes": {first: one, second: "md5abc"}})
    assert unequal_roles({"a": {first: one}, "b": {first: one, second: other}, "c": {first: None}}) == [
        "b",
        "c",
    ]


def test_the_consoles_secret_stays_as_long_as_it_fits() -> None:
    secret = make_secret("pgbouncer", "word")
    assert fits(secret, "word")
    assert kept_secret(secret, "pgbouncer", "word") == secret
    changed = kept_secret(secret, "pgbouncer", "other")
    assert changed != secret
    assert fits(changed, "other")


def test_files_are_the_owners_alone_and_a_diff_hides_secrets(tmp_path: Path) -> None:
    folder = tmp_path / "pgbouncer"
    before = {"userlist.txt": '"mes" "SCRAM-SHA-256$old"\n', "pgbouncer.ini": "a = 1\n"}
    files.write(folder, before)
    assert files.changes(folder, before) == {}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    after = {"userlist.txt": '"mes" "SCRAM-SHA-256$new"\n"shop" "word"\n', "pgbouncer.ini": "a = 2\n"}
    shown = files.changes(folder, after)
    assert "+a = 2" in shown["pgbouncer.ini"]
    assert '+"shop" "***"' in shown["userlist.txt"]
    assert "SCRAM" not in str(shown)
    assert "word" not in str(shown)
    same_roles = {"userlist.txt": '"mes" "SCRAM-SHA-256$new"\n'}
    assert files.changes(folder, same_roles) == {"userlist.txt": ["userlist.txt: a secret differs"]}


@pytest.mark.parametrize(
    ("line", "password"),
    [("*:*:*:mes:word", "word"), ("db1:5432:mes:mes:a\\:b", "a:b"), ("db9:*:*:mes:word", None)],
)
def test_a_password_is_found_as_libpq_finds_it(tmp_path: Path, line: str, password: str | None) -> None:
    (tmp_path / "pass").write_text(f"# comment\n{line}\n")
    topology = Topology.load(_with_passfile(tmp_path), environ={})
    assert password_for(topology.url("mes_0", role="mes", direct=True)) == password


def _with_passfile(tmp_path: Path) -> Path:
    path = tmp_path / "topology.toml"
    path.write_text('passfile = "pass"\n' + TOPOLOGY)
    return path


def running(topology: Topology) -> RunningPooler:
    """What the console of a pooler shows that is as it should be."""
    target = wanted(topology)
    return RunningPooler(
        "pool:6432",
        OLD,
        [{"key": key, "value": value, "changeable": "yes"} for key, value in settings_of(target).items()],
        [
            {
                "name": sized.pool.entry,
                "host": sized.server.host,
                "port": sized.server.port,
                "database": sized.dbname,
                "pool_size": sized.size,
                "max_connections": sized.size,
                "force_user": None,
                "paused": 0,
                "disabled": 0,
            }
            for sized in target.pools
        ],
        [],
        [{"name": name} for name in ("mes", "shop", "pgbouncer")],
    )


def test_a_pooler_that_is_as_it_should_be_has_no_findings(tmp_path: Path) -> None:
    topology = load(tmp_path)
    assert compare(wanted(topology), running(topology)) == []


def test_prepared_statements_that_somebody_has_switched_off_are_found(tmp_path: Path) -> None:
    """The library would prepare them, by the topology's version, and fail in the next transaction."""
    target = wanted(load(tmp_path, 'version = "1.24"'), NEW)
    settings = settings_of(target) | {"max_prepared_statements": "0"}
    config: list[Row] = [{"key": key, "value": value, "changeable": "yes"} for key, value in settings.items()]
    [found] = compare(target, replace(running(load(tmp_path)), version=NEW, config=config))
    assert (found.about, found.found, found.wanted) == ("max_prepared_statements", "0", "200")
    assert found.fix == "mesctl pgbouncer render, then mesctl pgbouncer reload"


def test_each_difference_is_named_with_its_fix(tmp_path: Path) -> None:
    topology = load(tmp_path)
    good = running(topology)
    databases = [dict(row) for row in good.databases]
    databases[0]["pool_size"] = 5
    databases[1]["paused"] = 1
    del databases[2]
    config = [dict(row) for row in good.config]
    config[0] |= {"value": "elsewhere", "changeable": "no"}
    pools = [{"database": "shop.shop", "user": "shop", "cl_waiting": 3, "sv_active": 38, "maxwait": 4}]
    bad = replace(good, version=NEW, databases=databases, config=config, users=good.users[1:], pools=pools)
    found = {each.about: each for each in compare(wanted(topology), bad)}
    assert sorted(found) == [
        "listen_addr",
        "pool directory.mes pool_size",
        "pool directory.shop",
        "pool mes_0.mes",
        "pool shop.shop as shop",
        "user mes",
        "version",
    ]
    assert "restart PgBouncer" in found["listen_addr"].fix
    assert found["pool directory.shop"].fix == "mesctl pgbouncer resume directory"
    assert found["pool shop.shop as shop"].found == "3 clients wait, 4.0 s"


def test_versions_are_read_from_what_the_program_says() -> None:
    assert parse_version("PgBouncer 1.18.0\nlibevent 2.1.12-stable") == OLD
    with pytest.raises(UnknownVersion, match="give --for-version"):
        parse_version("command not found")
