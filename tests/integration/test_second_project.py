"""The verbs of `mesctl` for a second project: its tree beside the order system's, in one topology."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ops.errors import ExitStatus
from ops.shards.guard import init_shards
from partitions import Month
from sharding.shard_map import bucket_of
from sharding.topology import Topology
from tests.integration.mesctl_rig import Mesctl
from tests.integration.second_project import (
    MAP,
    SHARDS,
    SecondProject,
    forget_modules,
    payment,
    run_second_project,
    save_map,
    write_modules,
)
from tests.integration.shards_rig import EVEN
from tests.project import MES
from tests.psql import psql
from tests.servers import PostgresServers

NOW = datetime.now(UTC)
LONG_AGO = NOW - timedelta(days=200)
MONTH = f"payments_archive_{str(Month.of(LONG_AGO)).replace('-', '_')}"
TENANTS = {shard: next(key for key in range(-9, 99) if MAP.shard_of(key) == shard) for shard in SHARDS}
"""A key of each shard."""

UNIT = "feedbeef" * 4
TREE = ("--tree", "payments")


@pytest.fixture(scope="module")
def project(
    module_topology: Topology, postgres: PostgresServers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SecondProject]:
    """Give a topology of two sharded trees with a map each, whose shards know what they own."""
    folder = tmp_path_factory.mktemp("team")
    with run_second_project(folder, module_topology.path, postgres) as project:
        asyncio.run(save_map(project.topology, "payments", MAP))
        asyncio.run(save_map(project.topology, "mes", EVEN))
        init_shards(project.topology, MES, EVEN)
        yield project


@pytest.fixture
def mesctl(project: SecondProject, capsys: pytest.CaptureFixture[str]) -> Iterator[Mesctl]:
    yield Mesctl(project.topology.path, capsys, project.path)
    for shard in SHARDS:
        project.run(shard, "TRUNCATE payments, payments_archive, refunds, refunds_archive, currencies")


@pytest.fixture
def named(mesctl: Mesctl) -> Mesctl:
    """Have the shards know who they are."""
    assert mesctl("shards", "init", *TREE).status == ExitStatus.DONE
    return mesctl


@pytest.mark.parametrize(
    "words",
    [
        ("list",),
        ("locate", "5"),
        ("plan",),
        ("init",),
        ("check",),
        ("reference", "check"),
        ("reference", "sync"),
        ("reference", "load", "/dev/null"),
        ("in-doubt", "list"),
        ("in-doubt", "resolve"),
        ("in-doubt", "close", UNIT),
        ("citus", "preflight"),
        ("citus", "health"),
    ],
)
def test_with_several_sharded_trees_one_must_be_named(mesctl: Mesctl, words: tuple[str, ...]) -> None:
    said = mesctl("shards", *words)
    assert (said.status, said.out, said.err.count("\n")) == (ExitStatus.USAGE, "", 1)
    assert "--tree" in said.err
    assert "the topology has the sharded trees mes, payments: name one" in said.err
    unknown = mesctl("shards", *words, "--tree", "shop")
    assert (unknown.status, unknown.err.count("\n")) == (ExitStatus.USAGE, 1)
    assert "no sharded tree 'shop'" in unknown.err


def test_shards_are_told_what_their_own_map_gives_them(mesctl: Mesctl, project: SecondProject) -> None:
    script = mesctl("shards", "init", *TREE, "--dry-run").out
    assert script.count("shard_owns(shard_key bigint)") == len(SHARDS)
    told = mesctl("shards", "init", *TREE, "--json").json
    assert [(row["shard"], row["buckets"]) for row in told] == [(shard, 8) for shard in SHARDS]
    psql(project.servers.conninfo(), script)  # the same again
    assert mesctl("shards", "check", *TREE).out == "all 0 rows are where map version 1 has them\n"
    assert mesctl("shards", "check", "--tree", "mes").out == "all 0 rows are where map version 1 has them\n"
    wrong = payment(TENANTS[SHARDS[1]], 1, state="open", at=NOW)
    with pytest.raises(Exception, match="returned non-zero"):
        project.run(SHARDS[0], wrong)


def test_the_list_counts_what_the_policies_of_the_tree_say(named: Mesctl, project: SecondProject) -> None:
    tenant = TENANTS[SHARDS[0]]
    project.run(
        SHARDS[0],
        payment(tenant, 1, state="open", at=NOW)
        + payment(tenant, 2, state="settled", at=NOW)
        + payment(tenant, 3, state="done", at=NOW, table="refunds")
        + payment(tenant, 4, state="done", at=NOW, table="refunds_archive"),
    )
    said = named("shards", "list", *TREE, "--json").json
    assert (said["tree"], said["map_version"], said["buckets"]) == ("payments", 1, 16)
    counts = {row["shard"]: (row["live_rows"], row["archived_rows"]) for row in said["shards"]}
    assert counts == {SHARDS[0]: (3, 1), SHARDS[1]: (0, 0)}
    orders = named("shards", "list", "--tree", "mes")
    assert orders.out.endswith("tree mes, map version 1, 64 buckets\n")
    file = project.path.with_name("shards.prom")
    named("shards", "list", *TREE, "--metrics-file", str(file))
    assert 'mes_storage_shard_rows{tree="payments",shard="payments_0"} 4' in file.read_text()
    assert 'mes_storage_shard_map_version{tree="payments"} 1' in file.read_text()


@pytest.mark.parametrize("key", [0, 5, -1, -(2**63), 2**63 - 1])
def test_any_int8_is_located(mesctl: Mesctl, key: int) -> None:
    said = mesctl("shards", "locate", str(key), *TREE)
    bucket = bucket_of(key, 16)
    assert said.out == f"key {key} of payments: bucket {bucket} on {MAP.owners[bucket]}\n"
    facts = {"tree": "payments", "key": str(key), "bucket": bucket, "shard": MAP.owners[bucket]}
    assert mesctl("shards", "locate", str(key), *TREE, "--json").json == facts
    assert mesctl("shards", "locate", str(key), "--tree", "mes").status == ExitStatus.DONE


def test_what_is_no_key_is_wrong_usage(mesctl: Mesctl) -> None:
    for word in (str(2**63), "x", "--tre"):
        assert mesctl("shards", "locate", word, *TREE).status == ExitStatus.USAGE


def test_buckets_are_weighed_by_the_tables_of_the_tree(named: Mesctl, project: SecondProject) -> None:
    lines = [
        payment(TENANTS[SHARDS[0]], number, state="done", at=NOW, table="refunds") for number in range(50)
    ]
    project.run(SHARDS[0], "".join(lines) + "ANALYZE refunds;")
    rows = named("shards", "plan", *TREE, "--json").json
    assert (rows["tree"], rows["before"]) == ("payments", {SHARDS[0]: 50, SHARDS[1]: 0})
    # A plain table has a size, too.
    assert named("shards", "plan", *TREE, "--by", "bytes", "--json").json["before"][SHARDS[0]] > 8000
    load = named("shards", "plan", *TREE, "--by", "load")
    assert (load.status, load.err.count("\n")) == (ExitStatus.USAGE, 1)
    assert "no table of the tree payments says that its rows are changes" in load.err
    other = named("shards", "plan", *TREE, "--without", "mes_0")
    assert (other.status, "it has payments_0, payments_1" in other.err) == (ExitStatus.FAILED, True)


def test_partitions_of_every_tree_or_of_one(mesctl: Mesctl) -> None:
    planned = mesctl("partitions", "plan", "--json").json
    assert {row["database"] for row in planned} == {"mes_0", "mes_1", *SHARDS}
    own = mesctl("partitions", "plan", *TREE, "--json").json
    assert own == [row for row in planned if row["database"] in SHARDS]
    assert {row["table"] for row in own} == {"payments", "payments_archive"}
    assert mesctl("partitions", "check", *TREE).status == ExitStatus.FAILED
    assert mesctl("partitions", "apply", *TREE, "--json").json == own
    assert mesctl("partitions", "check", *TREE).status == ExitStatus.DONE
    assert mesctl("partitions", "check", *TREE, "--deep").status == ExitStatus.DONE
    assert mesctl("partitions", "check").status == ExitStatus.FAILED  # the other tree's
    listed = mesctl("partitions", "list", "--json").json
    assert {"payments_open", "orders_hot"} <= {row["partition"] for row in listed}
    # Their keys are integers, of which the team's policy knows the months.
    bounds = {row["bound"] for row in listed if row["table"] == "payments_archive"}
    assert bounds == {str(Month.of(NOW)), str(Month.of(NOW).next)}
    done = mesctl(
        "partitions", "split", "payments", "payments_settled", "--value", "refused", "--into", "refused"
    )
    assert done.status == ExitStatus.DONE, done.err
    assert mesctl("partitions", "merge", "payments", "refused", "--into", "payments_settled").status == 0
    unknown = mesctl("partitions", "analyze", "orders", *TREE)
    assert unknown.status == ExitStatus.REFUSED
    assert "there are payments, payments_archive" in unknown.err
    assert mesctl("partitions", "plan", "--tree", "shop").status == ExitStatus.USAGE


def test_a_table_of_several_trees_needs_one_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_modules(tmp_path)
    project = tmp_path / "mes-storage.toml"
    [ours, _] = project.read_text().split("[trees.mes]")
    project.write_text(ours + ours.replace("[trees.payments]", "[trees.test]"))
    trees = '[trees.payments]\nkind = "single"\n[trees.test]\nkind = "single"\n'
    databases = "".join(
        f'[databases.{name}]\ntree = "{name}"\ndbname = "{name}"\n'
        'primary = { host = "127.0.0.1", port = 1 }\n'
        for name in ("payments", "test")
    )
    topology = tmp_path / "topology.toml"
    topology.write_text(trees + databases)
    mesctl = Mesctl(topology, capsys, project)
    try:
        said = mesctl("partitions", "analyze", "payments")
        assert (said.status, said.err.count("\n")) == (ExitStatus.USAGE, 1)
        assert "payments is a partitioned table of the trees payments, test: name one by --tree" in said.err
        down = mesctl("partitions", "analyze", "payments", "--tree", "test")
        assert (down.status, down.err.startswith("mesctl: test: connection failed")) == (
            ExitStatus.FAILED,
            True,
        )
    finally:
        forget_modules(tmp_path)


def test_each_archive_of_a_tree_has_its_own_grace_period_and_months(
    mesctl: Mesctl, project: SecondProject
) -> None:
    mesctl("partitions", "apply", *TREE)
    mesctl("shards", "init", *TREE)
    tenant, lately = TENANTS[SHARDS[0]], NOW - timedelta(days=30)
    project.run(
        SHARDS[0],
        payment(tenant, 1, state="settled", at=LONG_AGO)
        + payment(tenant, 2, state="settled", at=lately)
        + payment(tenant, 3, state="done", at=lately, table="refunds"),
    )
    status = mesctl("archive", "status", *TREE, "--json").json
    assert {archive: state["waiting"] for archive, state in status[SHARDS[0]].items()} == {
        "payments_archive": 1,
        "refunds_archive": 1,
    }
    assert set(mesctl("archive", "status", "--json").json) == {"mes_0", "mes_1", *SHARDS}
    shown = mesctl("archive", "status", *TREE)
    assert (shown.status, "refunds_archive" in shown.out) == (ExitStatus.DONE, True)
    assert mesctl("archive", "run", *TREE, "--dry-run").out.count("SKIP LOCKED") == 4
    moved = mesctl("archive", "run", *TREE, "--json").json
    assert moved == {
        SHARDS[0]: {"payments_settled": 1, "refunds": 1},
        SHARDS[1]: {"payments_settled": 0, "refunds": 0},
    }
    # The month was made by the team's own ids.
    status = mesctl("archive", "status", *TREE, "--json").json
    assert status[SHARDS[0]]["payments_archive"]["archived"] == {MONTH: 1}
    assert mesctl("shards", "check", *TREE).out == "all 3 rows are where map version 1 has them\n"
    again = mesctl("archive", "run", *TREE, "--grace", "20d", "--json").json
    assert again[SHARDS[0]] == {"payments_settled": 1, "refunds": 0}


CURRENCIES = "[[currencies]]\ncurrency = 'EUR'\ndigits = 2\n[[currencies]]\ncurrency = 'JPY'\ndigits = 0\n"


def test_reference_tables_are_those_of_the_tree(
    mesctl: Mesctl, project: SecondProject, tmp_path: Path
) -> None:
    file = tmp_path / "currencies.toml"
    file.write_text(CURRENCIES)
    script = mesctl("shards", "reference", "load", str(file), *TREE, "--dry-run").out
    psql(project.conninfo("directory"), script)
    said = mesctl("shards", "reference", "check", *TREE, "--json")
    assert {(row["table"], row["shard"], row["version"], row["fault"]) for row in said.json} == {
        ("currencies", shard, 1, None) for shard in SHARDS
    }
    again = mesctl("shards", "reference", "load", str(file), *TREE, "--json")
    assert {row["version"] for row in again.json} == {1}
    file.write_text(CURRENCIES.replace("0", "3"))
    assert mesctl("shards", "reference", "load", str(file), *TREE).status == ExitStatus.DONE
    project.run(SHARDS[1], "DELETE FROM currencies WHERE currency = 'JPY'")
    assert mesctl("shards", "reference", "check", *TREE).status == ExitStatus.FAILED
    assert mesctl("shards", "reference", "sync", *TREE).status == ExitStatus.DONE
    assert project.run(SHARDS[1], "SELECT digits FROM currencies ORDER BY currency") == "2\n3\n"
    others = mesctl("shards", "reference", "check", "--tree", "mes", "--json").json
    assert {(row["table"], row["published"]) for row in others} == {
        ("materials", 0),
        ("finishes", 0),
        ("tariffs", 0),
    }
    strange = mesctl("shards", "reference", "load", str(file), "--tree", "mes")
    assert (strange.status, "currencies" in strange.err) == (ExitStatus.FAILED, True)


@pytest.fixture
def left(named: Mesctl, project: SecondProject) -> Iterator[Mesctl]:
    """Leave a unit of the second tree prepared."""
    insert = payment(TENANTS[SHARDS[0]], 7, state="open", at=NOW)
    gid = f"mes-storage:{UNIT}:{SHARDS[0]}"
    project.run(SHARDS[0], f"SET ROLE payments; BEGIN; {insert} PREPARE TRANSACTION '{gid}'")
    yield named
    ended = f"SELECT count(*) FROM pg_prepared_xacts WHERE gid = '{gid}'"
    if project.run(SHARDS[0], ended) == "1\n":
        project.run(SHARDS[0], f"ROLLBACK PREPARED '{gid}'")
    project.run("directory", "DELETE FROM two_phase_decisions")


def test_units_in_doubt_and_decisions_are_those_of_the_tree(left: Mesctl, project: SecondProject) -> None:
    listed = left("shards", "in-doubt", "list", *TREE, "--json").json
    assert [(row["shard"], row["owner"], row["verdict"]) for row in listed] == [
        (SHARDS[0], "payments", "wait")
    ]
    assert left("shards", "in-doubt", "list", "--tree", "mes", "--json").json == []
    script = left("shards", "in-doubt", "resolve", *TREE, "--older-than", "0s", "--dry-run").out
    psql(project.conninfo("directory"), script)
    decided = "SELECT tree, decision FROM two_phase_decisions"
    assert project.run("directory", decided) == "payments|abort\n"
    project.run(
        "directory",
        "UPDATE two_phase_decisions SET decision = 'commit', finished_at = NULL,"
        " decided_at = now() - interval '1 hour'",
    )
    assert left("shards", "in-doubt", "list", "--tree", "mes").status == ExitStatus.DONE
    lost = left("shards", "in-doubt", "list", *TREE)
    assert (lost.status, UNIT in lost.out) == (ExitStatus.FAILED, True)
    assert left("shards", "in-doubt", "close", UNIT, "--tree", "mes").status == ExitStatus.REFUSED
    assert left("shards", "in-doubt", "close", UNIT, *TREE).status == ExitStatus.DONE
    assert left("shards", "in-doubt", "list", *TREE).status == ExitStatus.DONE


def test_the_preflight_goes_by_what_the_models_declare(mesctl: Mesctl) -> None:
    found = mesctl("shards", "citus", "preflight", *TREE, "--json").json
    # The library's own tables are in no model of this team, and are no fault of it.
    assert [each for each in found if each["rule"] == "undeclared"] == []
    assert {each["where"] for each in found if each["rule"] == "unique key"} == {
        "payments",
        "payments_archive",
        "refunds",
        "refunds_archive",
    }


@pytest.mark.parametrize(
    ("tree", "words", "fault"),
    [
        ("sharded", ("shards", "list"), "trees.payments.directory: a sharded tree needs a directory"),
        ("sharded", ("partitions", "list"), "trees.payments.directory: a sharded tree needs a directory"),
        ('sharded"\nbackend = "citus', ("shards", "in-doubt", "list"), "'payments' has no directory"),
        ('sharded"\nbackend = "citus', ("shards", "reference", "check"), "'payments' has no directory"),
        ("single", ("shards", "list"), "the topology has no sharded tree"),
        ("single", ("partitions", "list"), None),
        ("single", ("archive", "status"), None),
    ],
)
def test_without_a_directory_what_needs_one_says_so_in_one_line(
    project: SecondProject,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    tree: str,
    words: tuple[str, ...],
    fault: str | None,
) -> None:
    path = tmp_path / "topology.toml"
    shard = project.topology.database(SHARDS[0])
    path.write_text(
        f'passfile = "{project.topology.passfile}"\n[trees.payments]\nkind = "{tree}"\n'
        f'[databases.payments_0]\ntree = "payments"\ndbname = "{shard.dbname}"\n'
        f'primary = {{ host = "127.0.0.1", port = {shard.primary.port} }}\n'
    )
    said = Mesctl(path, capsys, project.path)(*words)
    if fault is None:
        assert (said.status, said.err) == (ExitStatus.DONE, "")
    else:
        assert (said.status, said.out, said.err.count("\n")) == (ExitStatus.USAGE, "", 1)
        assert fault in said.err


def test_a_database_that_is_down_is_named_and_the_others_go_on(
    named: Mesctl, project: SecondProject, postgres: PostgresServers
) -> None:
    def let_in(name: str, allowed: str) -> None:
        dbname = project.topology.database(name).dbname
        psql(postgres.conninfo(), f"ALTER DATABASE {dbname} ALLOW_CONNECTIONS {allowed}")

    let_in(SHARDS[0], "false")
    try:
        listed = named("shards", "list", *TREE, "--json")
        assert (listed.status, [row["shard"] for row in listed.json["shards"]]) == (1, [SHARDS[1]])
        assert listed.err.startswith(f"mesctl: {SHARDS[0]}: connection failed")
        checked = named("shards", "check", *TREE, "--json")
        assert [(each["shard"], each["problem"][:21]) for each in checked.json["findings"]] == [
            (SHARDS[0], "cannot be looked at: ")
        ]
        for words in (("plan",), ("init",), ("init", "--dry-run"), ("citus", "preflight")):
            said = named("shards", *words, *TREE)
            assert (said.status, said.err.startswith(f"mesctl: {SHARDS[0]}: ")) == (1, True), said.err
        archived = named("archive", "status", *TREE, "--json")
        assert (archived.status, list(archived.json)) == (1, [SHARDS[1]])
    finally:
        let_in(SHARDS[0], "true")
    let_in("directory", "false")
    try:
        for words in (("list",), ("in-doubt", "list"), ("reference", "check"), ("reference", "sync")):
            said = named("shards", *words, *TREE)
            assert (said.status, said.err.startswith("mesctl: directory: ")) == (1, True), said.err
            assert said.err.count("\n") == 1
    finally:
        let_in("directory", "true")
