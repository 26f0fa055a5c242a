"""Revisions that use the operations, on shards at work: under a load, and killed before every statement."""

import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, event

import partitions
from ops.fleet import open_engine
from ops.migrate import run
from ops.migrate.drift import find_drift
from ops.migrate.outcome import Direction, MigrationOutcome, Request
from ops.migrate.single import migrate_database
from partitions.online import add_foreign_key, apply, require_not_null
from partitions.steps import LockTimeouts
from sharding.topology import Topology
from tests.integration.partitions_load import under_load
from tests.integration.partitions_rig import MES, NOW, catalog_of
from tests.kill_points import kill_points
from tests.project import PROJECT

LOCK_TIMEOUT_SECONDS = 2.0
FORK = multiprocessing.get_context("fork")

REVISION = '''"""{name}."""

from alembic import op

revision = {name!r}
down_revision = {before!r}
phase = "pre"


def upgrade() -> None:
    op.{verb}({what}, lock_timeout_seconds={lock_timeout_seconds})


def downgrade() -> None:
    op.{back}({what_back}, lock_timeout_seconds={lock_timeout_seconds})
'''

HOT, DONE = (sorted(MES[0].groups[name]) for name in ("orders_hot", "orders_done"))  # type: ignore[union-attr]
WAS = {"orders_hot": HOT, "orders_done": DONE}
BECOMES = {**WAS, "orders_hot": [*HOT, "ON_HOLD"]}
HELD = "'orders_held', of='orders', values=['HELD'], key='status', concurrently=True"
FEW = "'few_idx', table='orders_hot', columns=['partner'], where=\"status = 'SUBMITTED'\", concurrently=True"
# Of another column: ATTACH, in a regrouping, takes whichever index of the partition equals the table's.
ALL = "'orders_operator_idx', table='orders', columns=['operator']"

# A name, the operation, and what undoes it.
CHANGES = {
    "create": (
        "create_partition",
        "'orders_held', of='orders', values=['HELD']",
        "drop_partition",
        "'orders_held', of='orders', values=['HELD']",
    ),
    "detach": ("detach_partition", HELD, "attach_partition", HELD),
    "attach": ("attach_partition", HELD, "detach_partition", HELD),
    "partial": ("create_partial_index", FEW, "drop_partial_index", FEW),
    "replace": (
        "replace_partial_index",
        FEW.replace("where=", "existing_where=").replace(", concurrently", ", where=None, concurrently"),
        "replace_partial_index",
        FEW.replace("concurrently", "existing_where=None, concurrently"),
    ),
    "everywhere": ("create_index_on_partitions", ALL, "drop_index_on_partitions", ALL),
    "status": (
        "regroup_partitions",
        f"'orders', key='status', existing={WAS}, new={BECOMES}",
        "regroup_partitions",
        f"'orders', key='status', existing={BECOMES}, new={WAS}",
    ),
}


@pytest.fixture
def versions(tmp_path: Path) -> Path:
    """Give the revisions of MES, with one more for each operation."""
    shutil.copytree(PROJECT.tree("mes").revisions.parent, tmp_path, dirs_exist_ok=True)
    before = run.head(PROJECT.tree("mes"))
    for name, (verb, what, back, what_back) in CHANGES.items():
        text = REVISION.format(
            name=name,
            before=before,
            verb=verb,
            what=what,
            back=back,
            what_back=what_back,
            lock_timeout_seconds=LOCK_TIMEOUT_SECONDS,
        )
        (tmp_path / "versions" / f"{name}.py").write_text(text)
        before = name
    return tmp_path / "versions"


@pytest.fixture
def owner(topology: Topology) -> Iterator[Engine]:
    """Connect to a shard with its months as its owner."""
    with open_engine(topology, topology.databases["mes_0"], role="mes_owner") as engine:
        partitions.apply(engine, MES, NOW)
        yield engine


@pytest.fixture
def service(topology: Topology) -> Iterator[Engine]:
    """Connect to the same shard as the service does."""
    engine = create_engine(topology.url("mes_0", role="mes"))
    yield engine
    engine.dispose()


def test_no_query_fails_or_waits_longer_than_lock_timeout(
    topology: Topology, owner: Engine, service: Engine, versions: Path
) -> None:
    waiting = partitions.RetryPolicy(LockTimeouts(LOCK_TIMEOUT_SECONDS), attempts=20, backoff_seconds=0.05)
    with owner.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE channels (channel text PRIMARY KEY)")
        connection.exec_driver_sql("INSERT INTO channels VALUES ('B2C'), ('B2B')")
    not_null = require_not_null("orders", "channel")
    foreign_key = add_foreign_key("orders", ["channel"], references="channels", referenced=["channel"])
    with under_load(service, NOW, report_seconds=0.5) as load:
        run.migrate(topology, PROJECT.tree("mes"), "up", "head", versions=versions)
        load.wait_for_more(20)
        for change in (not_null.reverse(), not_null, foreign_key, foreign_key.reverse()):
            apply(owner, change, retry=waiting)
            load.wait_for_more(20)
        run.migrate(
            topology, PROJECT.tree("mes"), "down", str(run.head(PROJECT.tree("mes"))), versions=versions
        )
        load.wait_for_more(20)
    assert load.errors == []
    assert load.longest_seconds <= LOCK_TIMEOUT_SECONDS
    assert load.orders > 0
    with owner.begin() as connection:
        connection.exec_driver_sql("DROP TABLE channels")
    assert [each.differences for each in find_drift(topology, PROJECT.tree("mes"))] == [(), ()]
    assert partitions.check(MES, catalog_of(owner), NOW) == []


@pytest.mark.kills
def test_killed_before_any_statement_the_next_upgrade_ends_clean(
    topology: Topology, owner: Engine, versions: Path
) -> None:
    before = str(run.head(PROJECT.tree("mes")))
    for name in CHANGES:
        for point in kill_points(every=2):
            if not is_killed(topology, versions, name, statement=point):
                break
            assert migrate(topology, versions, "up", name).done
            whole = catalog_of(owner)
            assert migrate(topology, versions, "down", before).done
        assert point >= 3
        assert catalog_of(owner) == whole
        before = name
    assert all(index.valid for index in catalog_of(owner)["orders"].indexes)
    assert migrate(topology, versions, "down", str(run.head(PROJECT.tree("mes")))).done
    mes_0, _ = find_drift(topology, PROJECT.tree("mes"))
    assert mes_0.differences == ()


def migrate(topology: Topology, versions: Path, direction: Direction, target: str) -> MigrationOutcome:
    request = Request.model_validate(
        {
            "project": str(PROJECT.path),
            "tree": "mes",
            "direction": direction,
            "target": target,
            "versions": str(versions),
        }
    )
    outcome = migrate_database(topology, "mes_0", request, report=lambda _line: None)
    assert outcome.done, outcome.error
    return outcome


def is_killed(topology: Topology, versions: Path, target: str, *, statement: int) -> bool:
    """Upgrade in a process that kills itself before one of its changes; False if it came to its end."""
    child = FORK.Process(target=_victim, args=(topology, versions, target, statement))
    child.start()
    child.join(timeout=60)
    assert child.exitcode in {0, -signal.SIGKILL}
    return child.exitcode != 0


def _victim(topology: Topology, versions: Path, target: str, statement: int) -> None:
    sent = count()

    @event.listens_for(Engine, "before_cursor_execute")
    def _count(*call: object) -> None:
        words = str(call[2]).split()
        changes = (
            words[0] in {"CREATE", "ALTER", "DROP", "DO", "COMMIT", "LOCK"} or "alembic_version" in words
        )
        if changes and words[:2] != ["SELECT", "alembic_version.version_num"] and next(sent) == statement:
            os.kill(os.getpid(), signal.SIGKILL)

    migrate(topology, versions, "up", target)
