"""No id is made twice, by sixteen processes, whatever their clocks, their freezes and the directory do."""

import os
from pathlib import Path

from sharding.errors import NodeLeaseExpired
from sharding.ids import IdGenerator, NodeWindow
from sharding.topology import Topology
from tests.integration.ids_faults import duplicates, handed_over, make_ids
from tests.servers import PostgresServers

MAKERS, EACH = 16, 6_000


def test_sixteen_processes_never_make_an_id_twice(
    topology: Topology, postgres: PostgresServers, tmp_path: Path
) -> None:
    dbname = topology.database("directory").dbname
    made = make_ids(
        topology.path, tmp_path, postgres.conninfo(), dbname, makers=MAKERS, each=EACH, seconds=5.0
    )
    assert [len(each) for each in made] == [EACH] * MAKERS
    assert duplicates(made) == 0
    # Else nothing was at stake: two processes must have had the same node, one after the other.
    assert handed_over(made) > 0


def test_a_forked_process_makes_none_with_its_parents_lease() -> None:
    ids = IdGenerator(NodeWindow(node=1, floor_ms=0, ceiling_ms=1 << 40))
    ids.next_id()
    child = os.fork()
    if child == 0:
        try:
            ids.next_id()
        except NodeLeaseExpired:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert ids.next_id()
