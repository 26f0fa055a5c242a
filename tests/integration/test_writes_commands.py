"""`mesctl shards in-doubt` and `mesctl shards reference` on three shards."""

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from ops.errors import ExitStatus
from ops.shards.in_doubt import open_shards
from sharding.writes.in_doubt import resolve, survey
from tests.integration.mesctl_rig import Mesctl, Said
from tests.integration.writes_rig import OWN, SHARDS, Wide
from tests.project import PRICE_LIST
from tests.psql import psql

UNIT = "c0ffee00" * 4
ROWS = """\
[[finishes]]
finish = "polished"
eur_per_cm2 = 1.45
[[finishes]]
finish = '100% "matte''s" \\x :y'
eur_per_cm2 = 0.1000
"""


@pytest.fixture
def mesctl(wide: Wide, capsys: pytest.CaptureFixture[str]) -> Mesctl:
    return Mesctl(wide.topology.path, capsys)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.toml"
    path.write_text(ROWS.replace("''s", "'s").replace("'100%", "'''100%").replace(":y'", ":y'''"))
    return path


def prepare(wide: Wide, shard: str, gid: str) -> None:
    with psycopg.connect(wide.conninfo(shard), autocommit=True) as connection:
        connection.execute("SET ROLE mes")
        connection.execute("BEGIN")
        connection.execute(b"INSERT INTO order_items VALUES (1, 1, 'brass', 'matte', 1, 'k', 'x')")
        connection.execute(f"PREPARE TRANSACTION '{gid}'".encode())


@pytest.fixture
def left(wide: Wide) -> Iterator[Wide]:
    """A unit that was left prepared on two shards, and a stranger on the third."""
    with wide.own_everything():
        for shard in SHARDS[:2]:
            prepare(wide, shard, f"mes-storage:{UNIT}:{shard}")
        prepare(wide, OWN, "bank:4711")
        yield wide
        wide.clear()  # ownership does not change while a prepared transaction has written


def test_the_list_tells_what_is_old_and_who_it_belongs_to(mesctl: Mesctl, left: Wide) -> None:
    said = mesctl("shards", "in-doubt", "list", "--json")
    assert said.status == ExitStatus.DONE
    assert [(row["shard"], row["verdict"], row["owner"]) for row in said.json] == [
        ("mes_0", "wait", "mes"),
        ("mes_1", "wait", "mes"),
        ("mes_2", "foreign", "mes"),
    ]
    assert "order_items RowExclusiveLock" in said.json[0]["locks"]
    said = mesctl("shards", "in-doubt", "list", "--older-than", "0s")
    assert said.status == ExitStatus.FAILED
    assert "presume abort" in said.out
    assert re.search(r"mes_2: bank:4711 is \d+ s old: vacuum cannot clean up behind it", said.err)


def test_a_young_unit_is_left_alone_and_an_old_one_is_aborted(mesctl: Mesctl, left: Wide) -> None:
    said = mesctl("shards", "in-doubt", "resolve")
    assert (said.status, said.out) == (ExitStatus.DONE, "nothing was to be done\n")
    assert f"mes_1: mes-storage:{UNIT}:mes_1 is left alone: its unit is young and undecided" in said.err
    assert "mes_2: bank:4711 is left alone: not one of ours" in said.err
    said = mesctl("shards", "in-doubt", "resolve", "--older-than", "0s", "--json")
    assert (said.status, [row["done"] for row in said.json]) == (ExitStatus.DONE, ["rollback prepared"] * 2)
    assert left.prepared() == {"mes_0": [], "mes_1": [], "mes_2": ["bank:4711"]}
    decided = "SELECT decision, label, shards, finished_at IS NOT NULL FROM two_phase_decisions"
    assert left.run("directory", decided) == [("abort", "presumed abort", "mes_0,mes_1", True)]


def test_a_decided_unit_is_committed_however_young(mesctl: Mesctl, left: Wide) -> None:
    decide = "INSERT INTO two_phase_decisions (tree, unit_id, decision, label, shards) VALUES"
    left.run("directory", f"{decide} ('mes', '{UNIT}', 'commit', 'merge', 'mes_0,mes_1')")
    script = mesctl("shards", "in-doubt", "resolve", "--dry-run").out
    assert script.count("COMMIT PREPARED") == 2
    assert mesctl("shards", "in-doubt", "resolve", f"mes-storage:{UNIT}:mes_0").status == ExitStatus.DONE
    assert [len(keys) for keys in left.keys().values()] == [1, 1, 0]


def decide(wide: Wide, unit_id: str, shards: str, *, age: str = "1 hour") -> None:
    columns = "(tree, unit_id, decision, label, shards, decided_at)"
    values = f"('mes', '{unit_id}', 'commit', 'merge', '{shards}', now() - interval '{age}')"
    wide.run("directory", f"INSERT INTO two_phase_decisions {columns} VALUES {values}")


LOST, ELSEWHERE, YOUNG = "deadbeef" * 4, "deadbee0" * 4, "0badf00d" * 4


def test_a_unit_that_no_shard_has_a_part_of_is_told_and_closed(mesctl: Mesctl, left: Wide) -> None:
    decide(left, LOST, "mes_0,mes_2")
    decide(left, YOUNG, "mes_0,mes_2", age="1 second")
    said = mesctl("shards", "in-doubt", "list", "--json")
    assert said.status == ExitStatus.FAILED
    assert [row["verdict"] for row in said.json] == ["wait", "wait", "foreign", "lost"]
    assert (said.json[3]["unit_id"], said.json[3]["label"]) == (LOST, "merge")
    assert f"unit {LOST} (merge) was to commit 36" in said.err
    assert "compare its rows on mes_0, mes_2" in said.err
    assert LOST in mesctl("shards", "in-doubt", "list").out
    script = mesctl("shards", "in-doubt", "close", LOST, "--dry-run").out
    is_open = f"SELECT finished_at IS NULL FROM two_phase_decisions WHERE unit_id = '{LOST}'"
    assert left.run("directory", is_open) == [(True,)]
    psql(left.conninfo("directory"), script)
    assert left.run("directory", is_open) == [(False,)]
    left.run("directory", "UPDATE two_phase_decisions SET finished_at = NULL")
    said = mesctl("shards", "in-doubt", "close", LOST, "--json")
    assert (said.status, said.json[0]["verdict"]) == (ExitStatus.DONE, "closed")
    assert left.run("directory", is_open) == [(False,)]
    assert mesctl("shards", "in-doubt", "list").status == ExitStatus.DONE


def test_a_unit_whose_parts_may_be_somewhere_is_not_closed(mesctl: Mesctl, left: Wide) -> None:
    decide(left, UNIT, "mes_0,mes_1")
    decide(left, YOUNG, "mes_0,mes_2", age="1 second")
    decide(left, LOST, "mes_0,mes_2")
    decide(left, ELSEWHERE, "mes_0,mes_9")
    for unit_id in (UNIT, YOUNG, ELSEWHERE, "nothing"):
        said = mesctl("shards", "in-doubt", "close", LOST, unit_id)
        assert (said.status, f"the unit {unit_id} is left as it is" in said.err) == (ExitStatus.REFUSED, True)
    assert "mes_9 cannot be looked at" in mesctl("shards", "in-doubt", "close", ELSEWHERE).err
    left.own.cluster.stop()
    try:
        said = mesctl("shards", "in-doubt", "close", LOST)
        assert (said.status, "mes_2 cannot be looked at" in said.err) == (ExitStatus.REFUSED, True)
    finally:
        left.own.start()
    ended = "SELECT count(*) FROM two_phase_decisions WHERE finished_at IS NOT NULL"
    assert left.run("directory", ended) == [(0,)]


async def test_a_part_that_is_gone_before_it_is_committed_leaves_the_unit_open(left: Wide) -> None:
    decide(left, UNIT, "mes_0,mes_1")
    async with open_shards(left.topology, "mes") as shards:
        seen = await survey(shards.clusters, shards.decisions)
        with psycopg.connect(left.conninfo("mes_1"), autocommit=True) as connection:
            connection.execute(f"ROLLBACK PREPARED 'mes-storage:{UNIT}:mes_1'".encode())
        ended = await resolve(shards.clusters, shards.decisions, seen)
        assert [(each.prepared.shard, each.was_gone) for each in ended] == [("mes_0", False), ("mes_1", True)]
        seen = await survey(shards.clusters, shards.decisions)
    assert [unit.unit_id for unit in seen.lost] == [UNIT]


def test_psql_takes_the_script_of_an_abort(mesctl: Mesctl, left: Wide) -> None:
    script = mesctl("shards", "in-doubt", "resolve", "--older-than", "0s", "--dry-run").out
    assert len(left.prepared()["mes_0"]) == 1
    psql(left.conninfo("directory"), script)
    assert left.prepared() == {"mes_0": [], "mes_1": [], "mes_2": ["bank:4711"]}
    # A coordinator that was faster is obeyed: the same script rolls nothing back.
    for shard in SHARDS[:2]:
        prepare(left, shard, f"mes-storage:{UNIT}:{shard}")
    left.run("directory", "UPDATE two_phase_decisions SET decision = 'commit'")
    psql(left.conninfo("directory"), script)
    assert [len(gids) for gids in left.prepared().values()] == [1, 1, 1]


def test_what_is_foreign_or_unknown_is_refused(mesctl: Mesctl, left: Wide) -> None:
    said = mesctl("shards", "in-doubt", "resolve", "bank:4711", "--older-than", "0s")
    assert said.status == ExitStatus.REFUSED
    assert "'bank:4711' is not of this project" in said.err
    said = mesctl("shards", "in-doubt", "resolve", "nothing")
    assert said.status == ExitStatus.REFUSED
    assert sum(map(len, left.prepared().values())) == 3


def faults(said: Said) -> dict[tuple[str, str], str]:
    return {(row["table"], row["shard"]): row["fault"] for row in said.json if row["fault"]}


def test_reference_tables_are_loaded_everywhere_and_agree(mesctl: Mesctl, wide: Wide, rows: Path) -> None:
    assert mesctl("shards", "reference", "check").status == ExitStatus.DONE
    said = mesctl("shards", "reference", "load", str(PRICE_LIST), "--json")
    assert said.status == ExitStatus.DONE
    assert len(said.json) == 3 * 3
    said = mesctl("shards", "reference", "check", "--json")
    assert {(row["version"], row["rows"]) for row in said.json if row["table"] == "materials"} == {(1, 5)}
    assert faults(said) == {}
    script = mesctl("shards", "reference", "load", str(rows), "--dry-run").out
    assert faults(mesctl("shards", "reference", "check", "--json")) == {}
    psql(wide.conninfo("directory"), script)
    said = mesctl("shards", "reference", "check", "--json")
    assert faults(said) == {}
    assert {row["version"] for row in said.json if row["table"] == "finishes"} == {2}
    again = mesctl("shards", "reference", "load", str(rows), "--json")
    assert {row["version"] for row in again.json} == {2}  # the same rows are no new version
    held = wide.query("SELECT finish, eur_per_cm2::text FROM finishes ORDER BY 1")
    assert set(map(tuple, held.values())) == {(('100% "matte\'s" \\x :y', "0.1000"), ("polished", "1.4500"))}


def test_a_change_by_hand_is_found_row_by_row_and_mended(mesctl: Mesctl, wide: Wide) -> None:
    mesctl("shards", "reference", "load", str(PRICE_LIST))
    wide.run("mes_1", "UPDATE finishes SET eur_per_cm2 = 99 WHERE finish = 'matte'")
    wide.run("mes_1", "DELETE FROM materials WHERE material = 'brass'")
    wide.run(OWN, "INSERT INTO finishes VALUES ('rough', 1)")
    said = mesctl("shards", "reference", "check", "--json")
    assert said.status == ExitStatus.FAILED
    assert set(faults(said)) == {("finishes", "mes_1"), ("materials", "mes_1"), ("finishes", OWN)}
    said = mesctl("shards", "reference", "check")
    found, wanted = (f"finish matte, eur_per_cm2 {price}" for price in ("99.0000", "0.9000"))
    assert f"mes_1 finishes (matte): {found}; it should be {wanted}" in said.out
    assert "mes_1 materials (brass): not there; it should be" in said.out
    assert "mes_2 finishes (rough): finish rough, eur_per_cm2 1.0000; it should be not there" in said.out
    assert "rough" not in mesctl("shards", "reference", "check", "--rows", "0").out
    script = mesctl("shards", "reference", "sync", "--dry-run").out
    assert script.count("\\connect") == 3
    assert mesctl("shards", "reference", "sync").status == ExitStatus.DONE
    assert faults(mesctl("shards", "reference", "check", "--json")) == {}
    assert mesctl("shards", "reference", "sync").out == "every copy is as published\n"


def test_a_shard_that_was_down_is_behind_and_catches_up(mesctl: Mesctl, wide: Wide, rows: Path) -> None:
    mesctl("shards", "reference", "load", str(PRICE_LIST))
    wide.own.cluster.stop()
    try:
        said = mesctl("shards", "reference", "load", str(rows), "--json")
        assert said.status == ExitStatus.FAILED
        assert [row["done"] for row in said.json] == ["as published", "as published", "failed"]
        assert mesctl("shards", "reference", "check").status == ExitStatus.FAILED
    finally:
        wide.own.start()
    said = mesctl("shards", "reference", "check", "--json")
    assert faults(said) == {("finishes", OWN): "version 1, and 2 is published"}
    assert mesctl("shards", "reference", "sync").status == ExitStatus.DONE
    assert faults(mesctl("shards", "reference", "check", "--json")) == {}


def test_a_shard_ahead_of_the_directory_is_not_overwritten(mesctl: Mesctl, wide: Wide, rows: Path) -> None:
    mesctl("shards", "reference", "load", str(PRICE_LIST))
    wide.run("mes_0", "UPDATE reference_versions SET version = 7 WHERE table_name = 'finishes'")
    assert "mes_0 has version 7" in mesctl("shards", "reference", "check").out
    said = mesctl("shards", "reference", "sync")
    assert said.status == ExitStatus.REFUSED
    assert mesctl("shards", "reference", "load", str(rows)).status == ExitStatus.DONE
    said = mesctl("shards", "reference", "check", "--json")
    assert (faults(said), {row["version"] for row in said.json if row["table"] == "finishes"}) == ({}, {8})


ROW = "[[finishes]]\nfinish = 'x'\n"


@pytest.mark.parametrize(
    ("text", "status", "fault"),
    [
        ("finishes = []", ExitStatus.REFUSED, "there are no rows"),
        (ROW, ExitStatus.REFUSED, "row 1: missing columns eur_per_cm2"),
        (f"{ROW}eur_per_cm2=1\nz=1", ExitStatus.REFUSED, "row 1: unknown columns z"),
        (f"{ROW}eur_per_cm2=1\n" * 2, ExitStatus.REFUSED, "the key ('x',) is there twice"),
        (f"{ROW}eur_per_cm2='much'", ExitStatus.FAILED, "invalid input syntax for type numeric"),
        ("[[orders]]\norder_id = 1", ExitStatus.FAILED, "'orders' is no reference table"),
        ("[finishes]\nfinish = 'x'", ExitStatus.USAGE, "must be an array of tables"),
        ("= 1", ExitStatus.USAGE, "is not TOML"),
    ],
)
def test_a_file_that_cannot_be_loaded_changes_nothing(
    mesctl: Mesctl, wide: Wide, *, text: str, status: ExitStatus, fault: str
) -> None:
    path = wide.topology.path.with_name("rows.toml")
    path.write_text(text)
    said = mesctl("shards", "reference", "load", str(path))
    assert (said.status, fault in said.err) == (status, True), said.err
    assert wide.run("directory", "SELECT count(*) FROM reference_contents") == [(0,)]


def test_a_file_that_is_not_there_is_named(mesctl: Mesctl, tmp_path: Path) -> None:
    said = mesctl("shards", "reference", "load", str(tmp_path / "none.toml"))
    assert (said.status, "none.toml: cannot be read" in said.err) == (ExitStatus.USAGE, True)
