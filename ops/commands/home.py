"""Which embedded platform a verb is about."""

import typer

from ops.embedded.platform import Platform
from ops.errors import ExitStatus, OpsError
from ops.options import Options, note, options_of


class ForeignTopology(OpsError):
    """The topology belongs to servers that mesctl does not run."""

    exit_status = ExitStatus.USAGE

    def __init__(self, options: Options) -> None:
        self.options = options
        super().__init__(
            f"the embedded platform in {options.home} has its own topology file, and you named "
            f"{options.topology_path}: leave out --topology (and unset MES_STORAGE_TOPOLOGY)"
        )


def is_embedded(options: Options) -> bool:
    """Whether the topology is the one of the embedded platform in the home folder."""
    own = Platform(options.home).topology_path
    return options.topology_path.resolve() == own.resolve()


def platform_of(context: typer.Context, *, safe: bool = True) -> Platform:
    """Give the embedded platform of the home folder; it tells of its progress on stderr.

    Raises:
        ForeignTopology: another topology file was named.
    """
    options = options_of(context)
    if not is_embedded(options):
        raise ForeignTopology(options)
    return Platform(options.home, report=note, safe=safe)
