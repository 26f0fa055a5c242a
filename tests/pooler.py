"""PgBouncer in front of the test servers, written as `mesctl pgbouncer render` does."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ops.embedded.pgpass import ensure_passwords
from ops.embedded.pooler import PgBouncerProcess
from ops.pgbouncer import files
from ops.pgbouncer.pooler import Pooler
from ops.pgbouncer.versions import ask_version
from ops.ports import LOOPBACK, PortPicker, start_on_free_port
from sharding.topology import Topology


@dataclass
class RunningPooler:
    """A pooler that runs, and the topology that leads through it."""

    topology: Topology
    path: Path
    folder: Path
    process: PgBouncerProcess
    program: Path
    port: int

    @property
    def pooler(self) -> Pooler:
        """Its consoles and its wanted state."""
        return Pooler(self.topology)

    def start(self) -> None:
        """Start it again."""
        self.process.start(program=self.program, port=self.port)

    def restart(self) -> None:
        """Stop it, and start it with the files as they are."""
        self.process.stop()
        self.start()

    def change(self, old: str, new: str) -> None:
        """Change the topology file, and write the pooler's files anew."""
        text = self.path.read_text()
        assert old in text
        self.path.write_text(text.replace(old, new))
        self.topology = Topology.load(self.path)
        write_files(self.topology, self.folder)


def write_files(topology: Topology, folder: Path) -> None:
    """Do as `mesctl pgbouncer render`."""
    pooler = Pooler(topology)
    files.write(folder, pooler.files(pooler.config(pooler.version()), folder))


@contextmanager
def run_pooler(
    path: Path, folder: Path, *, program: Path, section: str = "", services: str = ""
) -> Iterator[RunningPooler]:
    """Run a pooler in front of the databases of a topology file, which gets a section [pgbouncer].

    Parameters:
        path: the topology file.
        folder: for the pooler's files.
        program: `pgbouncer`.
        section: more lines of the section.
        services: the tables [pgbouncer.services.NAME].
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = path.read_text()
    passfile = Topology.load(path).passfile
    assert passfile is not None
    ensure_passwords(path.parent / passfile, ["pgbouncer"])
    process = PgBouncerProcess(
        ini=folder / "pgbouncer.ini", pidfile=folder / "pgbouncer.pid", log=folder / "pgbouncer.log"
    )

    def start(port: int) -> None:
        path.write_text(
            f'{before}\n[pgbouncer]\nhost = "{LOOPBACK}"\nport = {port}\nversion = "{ask_version(program)}"\n'
            f"{section}\n{services}\n"
        )
        write_files(Topology.load(path), folder)
        process.start(program=program, port=port)

    try:
        port = start_on_free_port(PortPicker(random.Random()), start)
        yield RunningPooler(Topology.load(path), path, folder, process, program, port)
    finally:
        process.stop()
        path.write_text(before)
