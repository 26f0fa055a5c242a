"""The topology file: what is read from it, and one clear line for each fault."""

from pathlib import Path

import pytest

from app.topology import files_url, services_of
from sharding.errors import TopologyError, UnknownDatabase
from sharding.topology import Topology

GOOD = """
backend = "postgresql"
buckets = 64
passfile = "pgpass"

[databases.shop]
tree = "shop"
dbname = "shop"
primary = { host = "127.0.0.1", port = 40001 }

[databases.mes_1]
tree = "mes"
dbname = "mes_1"
primary = { host = "db1", port = 40007 }

[databases.mes_0]
tree = "mes"
dbname = "mes_0"
primary = { host = "db0", port = 40005 }
replicas = [ { name = "mes_0_replica", host = "db0r", port = 40006 } ]

[pool]
size = 3
max_overflow = 0
timeout_seconds = 2

[redis]
url = "redis://:secret@127.0.0.1:40010/0"

[files]
url = "file:///srv/files"

[services.shop]
host = "127.0.0.1"
port = 41001
"""


def load(tmp_path: Path, text: str = GOOD, **environ: str) -> Topology:
    path = tmp_path / "topology.toml"
    path.write_text(text)
    return Topology.load(path, environ=environ)


def faults_of(tmp_path: Path, text: str) -> tuple[str, ...]:
    with pytest.raises(TopologyError) as caught:
        load(tmp_path, text)
    assert str(caught.value).splitlines() == [f"topology.toml: {fault}" for fault in caught.value.faults]
    return caught.value.faults


def test_databases_of_one_tree_are_its_shards_in_name_order(tmp_path: Path) -> None:
    assert list(load(tmp_path).databases_of("mes")) == ["mes_0", "mes_1"]


def test_places_are_read(tmp_path: Path) -> None:
    topology = load(tmp_path)
    assert topology.databases["mes_0"].name == "mes_0"
    assert services_of(topology)["shop"].url == "http://127.0.0.1:41001"
    assert files_url(topology) == "file:///srv/files"
    assert (topology.pool.size, topology.pool.max_overflow, topology.pool.timeout_seconds) == (3, 0, 2.0)


def test_a_url_takes_the_passfile_beside_the_topology(tmp_path: Path) -> None:
    url = load(tmp_path).url("mes_0", role="mes")
    assert (url.drivername, url.username, url.password) == ("postgresql+psycopg", "mes", None)
    assert (url.host, url.port, url.database) == ("db0", 40005, "mes_0")
    assert url.query == {"passfile": str(tmp_path / "pgpass")}


def test_a_url_takes_a_password_from_the_environment(tmp_path: Path) -> None:
    topology = load(tmp_path, MES_STORAGE_PASSWORD_MES_OWNER="p@ss")
    assert topology.url("mes_0", role="mes_owner").password == "p@ss"
    assert topology.url("mes_0", role="mes").password is None


def test_a_url_of_a_replica(tmp_path: Path) -> None:
    url = load(tmp_path).url("mes_0", role="mes", replica="mes_0_replica")
    assert (url.host, url.port) == ("db0r", 40006)


@pytest.mark.parametrize(("database", "replica"), [("mes_9", None), ("mes_0", "mes_1_replica")])
def test_an_unknown_name_is_refused(tmp_path: Path, database: str, replica: str | None) -> None:
    with pytest.raises(UnknownDatabase, match="mes_0"):
        load(tmp_path).url(database, role="mes", replica=replica)


def test_what_is_shown_has_no_password(tmp_path: Path) -> None:
    shown = load(tmp_path, GOOD.replace("file:///srv/files", "s3://key:secret@bucket/p")).masked()
    assert shown["redis"]["url"] == "redis://:***@127.0.0.1:40010/0"
    assert "secret" not in str(shown)
    assert shown["databases"]["mes_0"]["primary"] == {"host": "db0", "port": 40005}


def test_pool_services_and_buckets_have_defaults(tmp_path: Path) -> None:
    topology = load(tmp_path, '[databases]\n[redis]\nurl = "redis://r"\n[files]\nurl = "memory:///"\n')
    assert (topology.trees["mes"].buckets, topology.pool.size, services_of(topology)) == (64, 10, {})


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            ("[databases.shop]", "[databases.shop]\nprimry = 1"),
            "databases.shop.primry: unknown key; did you mean 'primary'?",
        ),
        (("[files]", "[flies]"), "flies: unknown key; did you mean 'files'?"),
        (
            ('tree = "shop"', 'tree = "shop"\nzzz = 1'),
            "databases.shop.zzz: unknown key; known keys are tree, dbname, primary, replicas",
        ),
        (
            ('"db0r", port', '"db0r", prot'),
            "databases.mes_0.replicas.0.prot: unknown key; did you mean 'port'?",
        ),
        (('dbname = "shop"\n', ""), "databases.shop.dbname: missing key; add it"),
        (
            ('tree = "shop"', 'tree = "sjop"'),
            "databases.shop.tree: 'sjop' is unknown; it is one of 'shop', 'crm', 'mes' or 'directory'",
        ),
        (
            ("port = 40001", 'port = "40001"'),
            "databases.shop.primary.port: input should be a valid integer; it is '40001' (str)",
        ),
        (
            ("[databases.shop]", "[databases.Shop-1]"),
            "databases.Shop-1: 'Shop-1' is no name; use a-z, 0-9 and _, beginning with a letter",
        ),
        (
            ("buckets = 64", "buckets = 48"),
            "buckets: 48 does not divide the hash range; use a power of two, such as 64",
        ),
        (
            (
                'dbname = "mes_1"\nprimary = { host = "db1", port = 40007 }',
                'dbname = "mes_0"\nprimary = { host = "db0", port = 40005 }',
            ),
            "databases.mes_0.dbname: 'mes_0' on db0:40005 is databases.mes_1 already; "
            "give it a dbname or a primary of its own",
        ),
    ],
)
def test_a_fault_is_named_with_its_fix(tmp_path: Path, change: tuple[str, str], fault: str) -> None:
    assert change[0] in GOOD
    assert fault in faults_of(tmp_path, GOOD.replace(*change))


def test_every_fault_has_its_line(tmp_path: Path) -> None:
    text = GOOD.replace('dbname = "shop"', 'dbnam = "shop"').replace("port = 41001", "port = 0")
    assert faults_of(tmp_path, text) == (
        "databases.shop.dbname: missing key; add it",
        "databases.shop.dbnam: unknown key; did you mean 'dbname'?",
        "services.shop.port: input should be greater than or equal to 1; it is 0 (int)",
    )


def test_a_replica_name_may_be_used_once_in_the_file(tmp_path: Path) -> None:
    twice = '{ name = "r", host = "a", port = 1 }, { name = "r", host = "b", port = 1 }'
    text = GOOD.replace('{ name = "mes_0_replica", host = "db0r", port = 40006 }', twice)
    assert faults_of(tmp_path, text)[0] == "databases.mes_0.replicas.0.name: 'r' is used twice; rename one"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match=r"nowhere.toml: cannot be read at .*: No such file"):
        Topology.load(tmp_path / "nowhere.toml")


def test_a_file_that_is_not_toml(tmp_path: Path) -> None:
    [fault] = faults_of(tmp_path, 'backend = "postgresql"\nbuckets = \n')
    assert fault.startswith("is not TOML: ")
    assert "line 2" in fault


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "topology.toml").write_bytes(b"a = \xff")
    with pytest.raises(TopologyError, match="not UTF-8"):
        Topology.load(tmp_path / "topology.toml")
