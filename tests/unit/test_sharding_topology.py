"""The topology file: what is read from it, and one clear line for each fault."""

from pathlib import Path

import pytest

from app.topology import files_url, redis_url, services_of
from sharding.errors import DirectoryMissing, TopologyError, TreeUnclear, UnknownDatabase, UnknownTree
from sharding.topology import Topology

GOOD = """
passfile = "pgpass"

[trees.shop]
kind = "single"

[trees.mes]
kind = "sharded"
buckets = 32

[trees.directory]
kind = "directory"

[databases.directory]
tree = "directory"
dbname = "directory"
primary = { host = "127.0.0.1", port = 40002 }

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


def test_the_password_of_a_user_of_redis_is_not_in_the_topology(tmp_path: Path) -> None:
    text = GOOD.replace("redis://:secret@127.0.0.1:40010/0", "redis://cache:40010/0")
    assert redis_url(load(tmp_path, text), "shop") == "redis://cache:40010/0"

    (tmp_path / "pgpass").write_text("*:*:*:redis_crm:other\n*:*:*:redis_shop:a\\:b/\\\\\n")
    assert redis_url(load(tmp_path, text), "shop") == "redis://shop:a%3Ab%2F%5C@cache:40010/0"
    assert redis_url(load(tmp_path, GOOD), "shop") == "redis://:secret@127.0.0.1:40010/0"

    environ = {"MES_STORAGE_PASSWORD_REDIS_SHOP": "of the environment"}
    topology = Topology.load(tmp_path / "topology.toml", environ=environ)
    assert redis_url(topology, "shop") == "redis://:secret@127.0.0.1:40010/0"
    (tmp_path / "topology.toml").write_text(text)
    topology = Topology.load(tmp_path / "topology.toml", environ=environ)
    assert redis_url(topology, "shop") == "redis://shop:of%20the%20environment@cache:40010/0"
    assert topology.masked()["redis"]["url"] == "redis://cache:40010/0"


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
    text = (
        GOOD.replace("buckets = 32\n", "").replace("[pool]", "[ours]").replace("[services.shop]", "[theirs]")
    )
    topology = load(tmp_path, text)
    assert (topology.trees["mes"].buckets, topology.pool.size, services_of(topology)) == (64, 10, {})


def test_only_trees_and_databases_are_required(tmp_path: Path) -> None:
    assert faults_of(tmp_path, "") == ("trees: missing key; add it", "databases: missing key; add it")
    assert load(tmp_path, GOOD[: GOOD.index("[pool]")]).sections == {}


def test_roles_and_directory_follow_from_the_tree(tmp_path: Path) -> None:
    topology = load(tmp_path, GOOD.replace('kind = "single"', 'kind = "single"\nrole = "web"\nowner = "dba"'))
    shop, shard = topology.databases["shop"], topology.databases["mes_0"]
    assert (shop.role, shop.owner, shop.is_shard) == ("web", "dba", False)
    assert (shard.role, shard.owner, shard.is_shard) == ("mes", "mes_owner", True)
    assert topology.directory_of("mes").name == topology.directory_of("directory").name == "directory"
    assert topology.users_of("directory") == ["mes", "web"]
    assert topology.sharded_tree() == "mes"


TWO = (
    GOOD
    + """
[trees.payments]
kind = "sharded"
directory = "ledgers"
id_space = "payments"

[trees.ledgers]
kind = "directory"

[databases.ledgers]
tree = "ledgers"
dbname = "ledgers"
primary = { host = "127.0.0.1", port = 40020 }

[databases.payments_0]
tree = "payments"
dbname = "payments_0"
primary = { host = "127.0.0.1", port = 40021 }
"""
)


def test_two_sharded_trees_with_a_directory_each(tmp_path: Path) -> None:
    named = TWO.replace('kind = "sharded"\nbuckets', 'kind = "sharded"\ndirectory = "directory"\nbuckets')
    named = named.replace('kind = "single"', 'kind = "single"\ndirectory = "directory"')
    topology = load(tmp_path, named)
    assert topology.directory_of("payments").name == "ledgers"
    assert topology.users_of("ledgers") == ["payments"]
    assert topology.users_of("directory") == ["mes", "shop"]
    with pytest.raises(TreeUnclear, match="has the sharded trees mes, payments: name one"):
        topology.sharded_tree()
    with pytest.raises(UnknownTree, match="no sharded tree 'shop'; it has mes, payments"):
        topology.sharded_tree("shop")


def test_a_tree_must_say_which_of_several_directories_is_its_own(tmp_path: Path) -> None:
    assert faults_of(tmp_path, TWO) == (
        "trees.shop.directory: missing key; there are several directories, so name one of directory, ledgers",
        "trees.mes.directory: missing key; there are several directories, so name one of directory, ledgers",
    )


def test_a_single_tree_needs_no_directory(tmp_path: Path) -> None:
    alone = GOOD[GOOD.index("[trees.shop]") : GOOD.index("[trees.mes]")]
    alone += GOOD[GOOD.index("[databases.shop]") : GOOD.index("[databases.mes_1]")]
    topology = load(tmp_path, alone)
    with pytest.raises(DirectoryMissing, match="the tree 'shop' has no directory"):
        topology.directory_of("shop")
    with pytest.raises(TreeUnclear, match="has no sharded tree"):
        topology.sharded_tree()


def test_tls_by_libpqs_keywords(tmp_path: Path) -> None:
    text = GOOD.replace(
        "[databases.shop]",
        '[tls]\nsslmode = "verify-full"\nsslrootcert = "ca.pem"\n[databases.shop]\n'
        'tls = { sslmode = "require", sslcert = "/etc/shop.pem", sslkey = "shop.key" }',
    )
    topology = load(tmp_path, text)
    assert topology.url("mes_0", role="mes", replica="mes_0_replica").query == {
        "sslmode": "verify-full",
        "sslrootcert": str(tmp_path / "ca.pem"),
        "passfile": str(tmp_path / "pgpass"),
    }
    assert topology.url("shop", role="shop").query == {
        "sslmode": "require",
        "sslcert": "/etc/shop.pem",
        "sslkey": str(tmp_path / "shop.key"),
        "passfile": str(tmp_path / "pgpass"),
    }


def test_a_table_of_the_application_is_read_by_its_model(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match=r"redis: missing table; add \[redis\]"):
        redis_url(load(tmp_path, GOOD.replace("[redis]", "[cache]")), "shop")
    with pytest.raises(TopologyError, match=r"redis.ulr: unknown key; did you mean 'url'\?"):
        redis_url(load(tmp_path, GOOD.replace('url = "redis', 'ulr = "redis')), "shop")
    assert (
        files_url(load(tmp_path, GOOD.replace("file:///srv/files", "files"))) == (tmp_path / "files").as_uri()
    )


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            ("[databases.shop]", "[databases.shop]\nprimry = 1"),
            "databases.shop.primry: unknown key; did you mean 'primary'?",
        ),
        (("[pool]", "[poool]"), "poool: unknown key; did you mean 'pool'?"),
        (("passfile", "passfiel"), "passfiel: unknown key; did you mean 'passfile'?"),
        (
            ('passfile = "pgpass"', "zzz = 1"),
            "zzz: unknown key; known keys are trees, databases, passfile, tls, pool, replicas, pgbouncer",
        ),
        (('passfile = "pgpass"', "buckets = 64"), "buckets: belongs to a tree; move it into [trees.NAME]"),
        (
            ('[trees.shop]\nkind = "single"', ""),
            'trees.shop: missing section; add [trees.shop] with kind = "single", "sharded" or "directory"',
        ),
        (
            ('kind = "single"', 'kind = "singel"'),
            "trees.shop.kind: 'singel' is unknown; it is one of 'single', 'sharded' or 'directory'",
        ),
        (
            ('kind = "single"', 'kind = "directory"'),
            "trees.mes.directory: missing key; there are several directories, so name one of shop, directory",
        ),
        (
            ('kind = "sharded"', 'kind = "single"'),
            "trees.mes.kind: mes_0, mes_1 are 2 databases, and 'single' has one; give the others trees of "
            "their own, or make it 'sharded'",
        ),
        (
            ('tree = "shop"', 'tree = "directory"'),
            "trees.directory: a directory is one database, and directory, shop are 2; give the others trees "
            "of their own",
        ),
        (
            ('tree = "shop"', 'tree = "mes"'),
            "trees.shop: no database has this tree; add [databases.NAME] with tree = 'shop', or remove it",
        ),
        (
            ('kind = "sharded"', 'kind = "sharded"\ndirectory = "shop"'),
            "trees.mes.directory: 'shop' is no tree of kind 'directory'; known are directory",
        ),
        (
            ('kind = "directory"', 'kind = "directory"\ndirectory = "directory"'),
            "trees.directory.directory: a directory has none itself; remove the key",
        ),
        (
            ('kind = "directory"', 'kind = "single"'),
            "trees.mes.directory: a sharded tree needs a directory, which keeps its shard map; add "
            '[trees.directory] with kind = "directory", and a database with tree = "directory"',
        ),
        (
            ('kind = "single"', 'kind = "single"\nbackend = "citus"'),
            "trees.shop.backend: 'citus' is for a tree of kind 'sharded'; remove the key",
        ),
        (
            ('tree = "shop"', 'tree = "shop"\nzzz = 1'),
            "databases.shop.zzz: unknown key; known keys are tree, dbname, primary, replicas, tls",
        ),
        (
            ('"db0r", port', '"db0r", prot'),
            "databases.mes_0.replicas.0.prot: unknown key; did you mean 'port'?",
        ),
        (('dbname = "shop"\n', ""), "databases.shop.dbname: missing key; add it"),
        (
            ('tree = "shop"', 'tree = "sjop"'),
            'trees.sjop: missing section; add [trees.sjop] with kind = "single", "sharded" or "directory"',
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
            ("buckets = 32", "buckets = 48"),
            "trees.mes.buckets: 48 does not divide the hash range; use a power of two, such as 64",
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
    text = GOOD.replace('dbname = "shop"', 'dbnam = "shop"').replace("max_overflow = 0", "max_overflow = -1")
    assert faults_of(tmp_path, text) == (
        "databases.shop.dbname: missing key; add it",
        "databases.shop.dbnam: unknown key; did you mean 'dbname'?",
        "pool.max_overflow: input should be greater than or equal to 0; it is -1 (int)",
    )


def test_a_replica_name_may_be_used_once_in_the_file(tmp_path: Path) -> None:
    twice = '{ name = "r", host = "a", port = 1 }, { name = "r", host = "b", port = 1 }'
    text = GOOD.replace('{ name = "mes_0_replica", host = "db0r", port = 40006 }', twice)
    assert faults_of(tmp_path, text)[0] == "databases.mes_0.replicas.0.name: 'r' is used twice; rename one"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match=r"nowhere.toml: cannot be read at .*: No such file"):
        Topology.load(tmp_path / "nowhere.toml")


def test_a_file_that_is_not_toml(tmp_path: Path) -> None:
    [fault] = faults_of(tmp_path, 'passfile = "pgpass"\ntls = \n')
    assert fault.startswith("is not TOML: ")
    assert "line 2" in fault


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "topology.toml").write_bytes(b"a = \xff")
    with pytest.raises(TopologyError, match="not UTF-8"):
        Topology.load(tmp_path / "topology.toml")
