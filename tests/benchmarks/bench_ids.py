"""How many ids are made twice: ten million, by sixteen processes, through clock faults and freezes."""

import tempfile
from pathlib import Path

from tests.benchmarks.harness import Measured, benchmark, platform
from tests.integration.ids_faults import duplicates, handed_over, make_ids

MAKERS, EACH = 16, 625_000


@benchmark(name="id_duplicates", target=0, unit="ids")
def id_duplicates() -> Measured:
    """Clocks step back or stand still, processes freeze beyond their lease, the directory goes."""
    with platform() as topology, tempfile.TemporaryDirectory(prefix="mes-storage-ids-") as folder:
        superuser = topology.url("shop", role="postgres").set(drivername="postgresql").render_as_string()
        dbname = topology.database("directory").dbname
        made = make_ids(
            topology.path, Path(folder), superuser, dbname, makers=MAKERS, each=EACH, seconds=20.0
        )
    count = sum(len(ids) for ids in made)
    detail = f"{count:,} ids by {MAKERS} processes; {handed_over(made)} node numbers went from one to another"
    return Measured(duplicates(made), detail)
