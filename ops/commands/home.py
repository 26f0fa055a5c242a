"""Which embedded platform a verb is about."""

import typer

from ops.embedded.home import Home
from ops.embedded.platform import Platform
from ops.embedded.source import TopologySource
from ops.errors import ExitStatus, OpsError
from ops.options import Options, options_of
from ops.output import note
from ops.project.file import ProjectMissing


class ForeignTopology(OpsError):
    """The topology that was named is not the one of the embedded platform."""

    exit_status = ExitStatus.USAGE

    def __init__(self, options: Options) -> None:
        self.options = options
        super().__init__(
            f"the embedded platform in {options.home} goes by another topology file than "
            f"{options.topology_path}, which you named: leave out --topology (and unset MES_STORAGE_TOPOLOGY)"
        )


def is_embedded(options: Options) -> bool:
    """Whether the topology is the one of the embedded platform in the home folder."""
    if options.named_topology is None:
        return True
    try:
        own = TopologySource(options.project(), Home(options.home)).path
    except ProjectMissing:
        return False
    return options.named_topology.resolve() == own.resolve()


def platform_of(context: typer.Context, *, safe: bool = True) -> Platform:
    """Return the embedded platform of the home folder; it reports its progress on stderr.

    Raises:
        ForeignTopology: another topology file was named.
        ProjectMissing, ProjectInvalid: there is no project, or its file is wrong.
    """
    options = options_of(context)
    if not is_embedded(options):
        raise ForeignTopology(options)
    return Platform(options.home, options.project(), report=note, safe=safe)
