"""`mesctl demo` with a dozen orders: the whole platform, all clients, a killed MES, and the verdict."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, NullPool, create_engine, delete, insert, select

from app.models.crm import CrmOrder
from app.models.mes import MesArchivedOrder, MesOrder
from sharding.topology import Topology
from tests.platform_topology import name_shards

HOME = Path("build/demo")
ORDERS = 12
INTERRUPTED = 130


class Mesctl:
    """Runs `mesctl` in a folder of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-c", "from ops.cli import main; main()", *words]

    def environment(self) -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if not name.startswith("MES_STORAGE_")}

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*words), cwd=self.folder, env=self.environment(), stderr=subprocess.PIPE, text=True
        )

    def audit(self) -> tuple[int, set[str]]:
        """Audit the demo's platform; give the exit status and the kinds of faults."""
        done = self("--home", str(HOME), "orders", "audit", "--json")
        faults = json.loads(done.stdout)["faults"]
        return done.returncode, {fault for fault, count in faults.items() if count}


@pytest.fixture
def mesctl(tmp_path: Path) -> Iterator[Mesctl]:
    mesctl = Mesctl(tmp_path)
    yield mesctl
    if (tmp_path / HOME).exists():
        mesctl("--home", str(HOME), "down", "--delete", "--yes")


def test_every_order_is_accounted_for_and_the_audit_misses_one_that_is_taken_away(mesctl: Mesctl) -> None:
    demo = mesctl("demo", "--orders", str(ORDERS), "--keep", "--no-fsync")
    assert demo.returncode == 0, demo.stderr
    assert "killed with SIGKILL" in demo.stderr
    assert "MES is back" in demo.stderr
    last_line = demo.stdout.splitlines()[-1]
    assert last_line == f"{ORDERS} accepted, {ORDERS} accounted for, 0 lost, 0 duplicated"

    assert mesctl.audit() == (0, set())
    topology = Topology.load(mesctl.folder / HOME / "topology.toml")
    name_shards(topology)  # to own every bucket: a shard refuses a copy otherwise
    copy_to_other_shard(topology)
    delete_one_from_crm(topology)
    # The deleted order's history stays behind as an orphan.
    assert mesctl.audit() == (1, {"duplicate", "wrong shard", "missing", "orphan"})


def test_a_demo_that_is_told_to_end_leaves_nothing_running(mesctl: Mesctl) -> None:
    # More orders than can end before the signal comes.
    demo = mesctl.start("demo", "--orders", "500", "--no-fsync")
    assert demo.stderr is not None
    said = next(line for line in demo.stderr if "ordered" in line)
    assert "ended" in said
    demo.send_signal(signal.SIGTERM)
    demo.communicate(timeout=120)
    assert demo.returncode == INTERRUPTED
    status = json.loads(mesctl("--home", str(HOME), "status", "--json").stdout)
    assert {component["state"] for component in status["components"]} == {"stopped"}


def delete_one_from_crm(topology: Topology) -> None:
    with open_engine(topology, "crm").begin() as connection:
        victim = select(CrmOrder.order_id).limit(1).scalar_subquery()
        connection.execute(delete(CrmOrder).where(CrmOrder.order_id == victim))


def copy_to_other_shard(topology: Topology) -> None:
    """Put an order that one shard has archived on the other as well."""
    with open_engine(topology, "mes_0").begin() as mes_0, open_engine(topology, "mes_1").begin() as mes_1:
        archived = select(MesArchivedOrder.__table__)
        for here, there in ((mes_0, mes_1), (mes_1, mes_0)):
            if found := here.execute(archived.limit(1)).mappings().one_or_none():
                there.execute(insert(MesOrder).values(**found))
                return
    raise AssertionError("the demo has archived nothing")


def open_engine(topology: Topology, database: str) -> Engine:
    role = topology.database(database).tree
    return create_engine(topology.url(database, role=role), poolclass=NullPool)
