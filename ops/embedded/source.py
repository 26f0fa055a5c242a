"""The topology file that a platform goes by: the team's own, or the one that `up` writes and edits."""

from pathlib import Path

from ops.embedded.errors import NoTopology, PassfileMissing, TeamsTopology
from ops.embedded.home import Home
from ops.embedded.pooler import pooler_program
from ops.embedded.shape import PlatformShape
from ops.embedded.topology_file import (
    Draft,
    draft_mended,
    draft_new,
    load_text,
    replace_file,
    with_free_ports,
    with_keys,
    with_pooler,
    without_keys,
    without_pooler,
)
from ops.options import NoPlatform
from ops.pgbouncer.versions import ask_version
from ops.ports import PortPicker
from ops.project.project import Project
from sharding.topology import Topology

POOLER_TABLE = ("pgbouncer",)
POOLER_PORT = 6432
WATCHER_PORTS = {"prometheus_port": 9090, "alertmanager_port": 9093}


class TopologySource:
    """Where the topology of a platform is, and what `up` may do with it.

    The file that the project's key `topology` names is the team's own: it is read as it stands. Without the
    key it is `topology.toml` in the platform's folder, which is ours, made from the project's template.
    """

    def __init__(self, project: Project, home: Home) -> None:
        self._project = project
        self._home = home
        self.path = project.topology_path or home.topology
        self.is_ours = self.path.resolve() == home.topology.resolve()
        template = project.file.up.template
        self.template = project.root / template if template else None

    def load(self) -> Topology:
        """Read the topology.

        Raises:
            NoPlatform: the file is ours, and `up` was never called.
            TopologyError: it cannot be read or is wrong.
        """
        if self.is_ours and not self.path.exists():
            raise NoPlatform(self._home.path)
        return Topology.load(self.path)

    def preview(self, *, pgbouncer: bool | None, monitoring: bool | None = None) -> tuple[Draft, Topology]:
        """Draft the file as `up` would have it, and read what it would mean; nothing is written.

        Parameters:
            pgbouncer: have a pooler in it, or none; None leaves it as it is.
            monitoring: have ports of Prometheus and Alertmanager in it, or none; likewise.

        Raises:
            NoTopology: there is no file, and no template.
            TeamsTopology: the file would have to be edited, and is the team's own.
            PoolerMissing: a pooler is to be added, and PgBouncer is not on this machine.
            PassfileMissing: the file does not say where passwords are.
            TopologyError: it is wrong.
        """
        if not self.is_ours:
            topology = Topology.load(self.path)
            self._refuse_switch(topology, pgbouncer)
            self._refuse_watchers(topology, monitoring)
            draft = Draft(self.path.read_text(encoding="utf-8"), added=())
        else:
            draft = self._switch_watchers(self._switch(self._draft(), pgbouncer), monitoring)
            topology = load_text(draft.text, self.path.name)
        if topology.passfile is None:
            raise PassfileMissing(self.path, self._home.passfile)
        return draft, topology

    def passfile(self, topology: Topology) -> Path:
        """Return the file of passwords that a topology names."""
        return self.path.parent / (topology.passfile or self._home.passfile.name)

    def _draft(self) -> Draft:
        if self.template is not None:
            Topology.load(self.template)  # what is wrong with it must not come to be written
        if self.path.exists():
            return draft_mended(self.path, self.template)
        named = self._project.file.up.template
        if self.template is None or named is None:
            raise NoTopology(self._project.path)
        return draft_new(self.template, named=named)

    @staticmethod
    def _switch(draft: Draft, pgbouncer: bool | None) -> Draft:
        is_on = load_text(draft.text, "topology.toml").pgbouncer is not None
        if pgbouncer is None or pgbouncer == is_on:
            return draft
        if not pgbouncer:
            return Draft(without_pooler(draft.text), draft.added, draft.notes)
        version = ask_version(pooler_program())
        text = with_pooler(draft.text, port=POOLER_PORT, version=str(version))
        return Draft(text, (*draft.added, POOLER_TABLE), draft.notes)

    @staticmethod
    def _switch_watchers(draft: Draft, monitoring: bool | None) -> Draft:
        there = load_text(draft.text, "topology.toml").sections.get("monitoring", {})
        if monitoring is None:
            return draft
        if not monitoring:
            return Draft(without_keys(draft.text, "monitoring", WATCHER_PORTS), draft.added, draft.notes)
        lacking = {key: port for key, port in WATCHER_PORTS.items() if key not in there}
        text = with_keys(draft.text, "monitoring", lacking)
        return Draft(text, (*draft.added, *(("monitoring", key) for key in lacking)), draft.notes)

    def _refuse_watchers(self, topology: Topology, monitoring: bool | None) -> None:
        there = WATCHER_PORTS.keys() & topology.sections.get("monitoring", {}).keys()
        if monitoring and len(there) < len(WATCHER_PORTS):
            keys = " and ".join(WATCHER_PORTS)
            raise TeamsTopology(self.path, f"add {keys} to its section [monitoring] yourself")
        if monitoring is False and there:
            raise TeamsTopology(self.path, f"take {' and '.join(sorted(there))} away yourself")

    def _refuse_switch(self, topology: Topology, pgbouncer: bool | None) -> None:
        if pgbouncer and topology.pgbouncer is None:
            raise TeamsTopology(self.path, "add a section [pgbouncer] with host and port yourself")
        if pgbouncer is False and topology.pgbouncer is not None:
            raise TeamsTopology(self.path, "take its section [pgbouncer] away yourself")

    def write(self, draft: Draft, shape: PlatformShape, picker: PortPicker) -> bool:
        """Write the file, if it is to be another; what is new in it gets ports that are free.

        Parameters:
            shape: what the draft means.
        """
        if self.path.exists() and draft.text == self.path.read_text(encoding="utf-8"):
            return False
        picker.avoid(address.port for address in shape.addresses.values() if not draft.is_new(address))
        replace_file(self.path, with_free_ports(draft, shape.addresses.values(), picker, self.path))
        return True
