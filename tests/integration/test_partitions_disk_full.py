"""A disk that is full in the middle of a change: what is said and left, and that the next run mends it."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

import partitions
from partitions import Month, MonthlyRange
from partitions.archive import move
from partitions.archive_policy import ArchivePolicy
from partitions.errors import ActionFailed, ArchiveBatchFailed, OnlineChangeRefused
from partitions.manual import index
from partitions.online import Backfill, backfill
from sharding.ids import first_id_at
from tests.integration.partitions_rig import run as run_action
from tests.integration.partitions_shard import bare_server, servers_folder
from tests.integration.test_partitions_hostile import is_clean, send, standing

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
POLICY = MonthlyRange(
    table="archive",
    key="order_id",
    key_at=first_id_at,
    months_ahead=1,
    tablespace="tiny",
    analyze_every=timedelta(days=36_500),
)
CURRENT, COMING = (POLICY.partition_of(Month(2026, month)) for month in (11, 12))
ROWS = 2_000
FULL = "the disk is full: .*No space left on device"


@dataclass(frozen=True)
class Disk:
    """A small file system, on which a tablespace of the server is."""

    folder: Path

    def fill(self) -> None:
        """Leave nothing of it."""
        with (self.folder / "waste").open("wb", buffering=0) as waste:
            for size in (65_536, 4_096):
                while True:
                    try:
                        waste.write(bytes(size))
                    except OSError:
                        break

    def free(self) -> None:
        """Give it back."""
        (self.folder / "waste").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Disk]]:
    """Run a server whose tables come to a small disk; give its superuser's engine."""
    if os.geteuid():
        pytest.skip("NOT RUN WITHOUT ROOT: only root can mount the small disk that is to be full")
    folder = tmp_path_factory.mktemp("full")
    with bare_server(folder) as (server, engine):
        disk = Disk(servers_folder(server.data.parent / "disk"))
        mount = ["mount", "-t", "tmpfs", "-o", "size=12m,mode=1777", "tmpfs", str(disk.folder)]
        if (mounted := subprocess.run(mount, capture_output=True, text=True, check=False)).returncode:
            pytest.skip(f"NOT RUN WITHOUT MOUNT: {mounted.stderr.strip()}")
        try:
            send(
                engine,
                f"CREATE TABLESPACE tiny LOCATION '{servers_folder(disk.folder / 'space')}'",
                "ALTER ROLE CURRENT_USER SET default_tablespace = tiny",
            )
            yield engine, disk
        finally:
            server.stop()
            subprocess.run(["umount", str(disk.folder)], check=True)


@pytest.fixture
def owner(server: tuple[Engine, Disk]) -> Iterator[Engine]:
    """Give an archive with the current month, in which there are rows."""
    engine, disk = server
    send(
        engine,
        "DROP SCHEMA public CASCADE",
        "CREATE SCHEMA public",
        "CREATE TABLE archive (order_id bigint PRIMARY KEY, note text, at timestamptz) "
        "PARTITION BY RANGE (order_id)",
    )
    partitions.apply(engine, [POLICY], NOW - timedelta(days=31))
    send(
        engine,
        f"INSERT INTO archive SELECT {first_id_at(NOW)} + i, repeat('x', 500), '2026-01-01' "
        f"FROM generate_series(1, {ROWS}) AS i",
        "CHECKPOINT",
    )
    yield engine
    disk.free()


@pytest.fixture
def disk(server: tuple[Engine, Disk]) -> Disk:
    """Give the small disk."""
    return server[1]


def test_month_for_which_there_is_no_room_is_named_and_made_by_the_next_run(
    owner: Engine, disk: Disk
) -> None:
    disk.fill()
    with pytest.raises(ActionFailed, match=rf"^archive: create \+ attach 2026-12: {FULL}"):
        partitions.apply(owner, [POLICY], NOW)
    assert send(owner, f"SELECT to_regclass('{COMING}')") == [(None,)]
    disk.free()
    partitions.apply(owner, [POLICY], NOW)
    assert is_clean(owner, POLICY)


def test_index_for_which_there_is_no_room_is_built_anew_by_the_next_run(owner: Engine, disk: Disk) -> None:
    partitions.apply(owner, [POLICY], NOW)
    build = index(standing(owner, "archive"), "archive_note_idx", "note, order_id")
    disk.fill()
    with pytest.raises(
        ActionFailed, match=rf"^archive: create index archive_note_idx on 3 partitions: {FULL}"
    ):
        run_action(owner, build)
    disk.free()
    faults = [
        found.fault for found in partitions.check([POLICY], {"archive": standing(owner, "archive")}, NOW)
    ]
    assert "the index archive_note_idx is not on every partition" in faults
    partitions.apply(owner, [POLICY], NOW)
    assert is_clean(owner, POLICY)
    assert all(whole.valid for whole in standing(owner, "archive").indexes)


def test_backfill_for_which_there_is_no_room_goes_on_where_it_was(owner: Engine, disk: Disk) -> None:
    task = Backfill(name="fill", table=CURRENT, assign="note = repeat('y', 600)", where="note NOT LIKE 'y%'")
    first = backfill(owner, task, batch_rows=100, max_rows=100)
    disk.fill()
    with pytest.raises(OnlineChangeRefused, match=rf"^{CURRENT}: backfill fill: {FULL}"):
        backfill(owner, task, batch_rows=ROWS)
    disk.free()
    rest = backfill(owner, task, batch_rows=100)
    assert rest.finished
    assert first.rows_written + rest.rows_written == ROWS
    assert send(owner, "SELECT count(*) FROM archive WHERE note LIKE 'y%'") == [(ROWS,)]


def test_archive_for_which_there_is_no_room_loses_nothing(owner: Engine, disk: Disk) -> None:
    send(
        owner,
        "CREATE TABLE live (LIKE archive INCLUDING ALL)",
        f"INSERT INTO live SELECT order_id + {ROWS}, note, at FROM archive",
    )
    policy = ArchivePolicy(
        live="live",
        archive="archive",
        row_id="order_id",
        range_key="order_id",
        finished_at="at",
        grace=timedelta(days=30),
    )
    disk.fill()
    with pytest.raises(ArchiveBatchFailed, match=rf"^live: a batch was rolled back: {FULL}"):
        move(owner, policy, NOW, batch_rows=ROWS)
    disk.free()
    both = "SELECT (SELECT count(*) FROM live) AS live, (SELECT count(*) FROM archive) AS archived"
    [(live, archived)] = send(owner, both)
    assert live + archived == 2 * ROWS
    move(owner, policy, NOW, batch_rows=ROWS)
    assert send(owner, both) == [(0, 2 * ROWS)]
