"""What can go wrong with the embedded platform, and what to do about it."""

import os
from collections.abc import Sequence
from pathlib import Path

from ops.errors import ExitStatus, OpsError


class EmbeddedError(OpsError):
    """Base of the errors of the embedded platform."""


class BinaryMissing(EmbeddedError):
    """A server program is not on this machine."""

    def __init__(self, program: str, looked_in: Sequence[str], remedy: str) -> None:
        self.program = program
        self.looked_in = tuple(looked_in)
        super().__init__(f"{program} was not found (looked in {', '.join(looked_in)}): {remedy}")


class PoolerMissing(BinaryMissing):
    """A pooler is wanted, and PgBouncer is not on this machine."""

    def __init__(self) -> None:
        super().__init__(
            "PgBouncer", ["PATH", "/usr/sbin"], "apt-get install pgbouncer, or `mesctl up --no-pgbouncer`"
        )


class ProcMissing(EmbeddedError):
    """A chroot without /proc: processes cannot be identified."""

    def __init__(self) -> None:
        super().__init__("/proc is not mounted here: mount it (`mount -t proc proc /proc`) and try again")


class NoUnprivilegedUser(EmbeddedError):
    """PostgreSQL refuses to run as root, and no way to leave root works here."""

    def __init__(self, tried: Sequence[str]) -> None:
        self.tried = tuple(tried)
        super().__init__(
            f"PostgreSQL refuses to run as root, and neither of {', '.join(tried)} works here: "
            "run this as an ordinary user"
        )


class CommandFailed(EmbeddedError):
    """A server program ended with an error."""

    def __init__(self, program: str, status: int | str, said: str) -> None:
        self.program = program
        self.status = status
        super().__init__(f"{program} failed ({status}): {said or 'it said nothing'}")


class ComponentFailed(EmbeddedError):
    """Base of the errors of one component, `name`."""

    def __init__(self, name: str, fault: str) -> None:
        self.name = name
        super().__init__(f"{name} {fault}")


class StartFailed(ComponentFailed):
    """A component did not come up."""

    def __init__(self, name: str, reason: str, log: Path, last_lines: str) -> None:
        self.log = log
        super().__init__(name, f"did not start: {reason}; the last lines of {log}:\n{last_lines}")


class ClusterSilent(ComponentFailed):
    """A PostgreSQL server that runs does not answer."""

    def __init__(self, name: str, port: int | None, said: str) -> None:
        self.port = port
        super().__init__(name, f"(port {port}): {said}")


class NotStreaming(ComponentFailed):
    """A replica runs, and its primary does not send to it; or it was promoted, and is none any more."""

    def __init__(self, name: str, data: Path, last_lines: str, *, promoted: bool) -> None:
        self.promoted = promoted
        anew = f"to have it copied anew, `mesctl down`, remove {data}, and `mesctl up`"
        if promoted:
            super().__init__(name, f"was promoted, and follows no primary any more: {anew}")
        else:
            super().__init__(name, f"runs, and does not stream from its primary; {anew}:\n{last_lines}")


class NotPrimary(ComponentFailed):
    """The server that the topology has as a primary follows another one."""

    def __init__(self, name: str, data: Path) -> None:
        super().__init__(
            name,
            f"is a standby, and a primary by the topology: promote it (`pg_ctl promote -D {data}`), "
            "or correct the topology",
        )


class StopFailed(ComponentFailed):
    """A component did not end in time."""

    def __init__(self, name: str, pid: int, timeout_seconds: float) -> None:
        self.pid = pid
        super().__init__(name, f"(pid {pid}) did not stop within {timeout_seconds:g} s")


class SeveralFailed(EmbeddedError):
    """Several components did not come up."""

    def __init__(self, errors: Sequence[OpsError]) -> None:
        self.errors = tuple(errors)
        super().__init__("\nmesctl: ".join(map(str, errors)))


class HomeBusy(EmbeddedError):
    """Another mesctl is changing the same folder."""

    exit_status = ExitStatus.REFUSED

    def __init__(self, home: Path, holder: str) -> None:
        self.home = home
        super().__init__(f"another mesctl (pid {holder}) is changing {home}: wait until it has finished")


class NotOurFolder(EmbeddedError):
    """The folder holds other things."""

    exit_status = ExitStatus.REFUSED

    def __init__(self, home: Path) -> None:
        self.home = home
        super().__init__(f"{home} is not empty and was not made by `mesctl up`: name another with --home")


class PasswordsLost(EmbeddedError):
    """There are databases, and no file with their passwords."""

    def __init__(self, passfile: Path) -> None:
        self.passfile = passfile
        super().__init__(
            f"{passfile} is gone, and with it the passwords of the databases beside it: put it back, "
            "or begin anew with `mesctl down --delete` and `mesctl up`"
        )


class TopologyUnusable(EmbeddedError):
    """Base of what is wrong with a topology file for `up`; each fault is a line that names the file."""

    exit_status = ExitStatus.USAGE

    def __init__(self, path: Path, *faults: str) -> None:
        self.path = path
        self.faults = faults
        super().__init__("\nmesctl: ".join(f"{path.name}: {fault}" for fault in faults))


class NoTopology(TopologyUnusable):
    """The project file names neither the topology to start nor a template of one."""

    def __init__(self, project: Path) -> None:
        super().__init__(
            project,
            'no topology to start: add `topology = "FILE"`, or [up] with '
            '`template = "FILE"`, a topology whose ports `mesctl up` chooses anew',
        )


class PassfileMissing(TopologyUnusable):
    """The topology does not say where passwords are, so that its other users would not find those of `up`."""

    def __init__(self, path: Path, passfile: Path) -> None:
        where = os.path.relpath(passfile, path.parent.resolve())
        super().__init__(path, f'passfile: missing key; add passfile = "{where}", where `up` writes it')


class ReplicaNameTaken(TopologyUnusable):
    """A replica and a database have one name, and would have one data folder."""

    def __init__(self, path: Path, key: str, name: str) -> None:
        self.key = key
        self.name = name
        super().__init__(path, f"{key}: {name!r} is a database, too; rename the replica")


class TeamsTopology(TopologyUnusable):
    """The topology file is the team's own, which is never edited."""

    def __init__(self, path: Path, change: str) -> None:
        super().__init__(path, f"is not edited by `mesctl up`: {change}")


class PortsTaken(TopologyUnusable):
    """Other programs listen where the team's topology has components; that file is not ours to edit."""

    exit_status = ExitStatus.REFUSED


class TopologyNotEdited(TopologyUnusable):
    """A value does not stand in the topology file in a way that we can change."""

    exit_status = ExitStatus.FAILED

    def __init__(self, path: Path, key: str, wanted: str) -> None:
        self.key = key
        super().__init__(path, f"{key} could not be changed: write {wanted} there yourself")


class UnknownService(EmbeddedError):
    """The platform has no such service."""

    exit_status = ExitStatus.USAGE

    def __init__(self, name: str, known: Sequence[str]) -> None:
        self.name = name
        super().__init__(f"there is no service {name!r}: there are {', '.join(known)}")
