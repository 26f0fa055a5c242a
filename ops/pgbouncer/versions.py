"""Which version of PgBouncer there is, and what it can do (from PgBouncer's changelog)."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from ops.pgbouncer.errors import UnknownVersion

_VERSION = re.compile(r"(?:PgBouncer )?(\d+)\.(\d+)")
# Debian puts it where an ordinary user's PATH does not look.
_PLACES = "/usr/sbin:/usr/local/sbin"


class Version(NamedTuple):
    """A version of PgBouncer; the third number never brings a feature."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


PEERS = Version(1, 19)
"""From here on a process passes a cancel request on to the one that has the query."""

PREPARED_STATEMENTS = Version(1, 21)
"""From here on prepared statements work in transaction mode."""


def parse_version(text: str) -> Version:
    """Read what `pgbouncer --version` or SHOW VERSION say.

    Raises:
        UnknownVersion: there is no version in it.
    """
    found = _VERSION.search(text)
    if found is None:
        raise UnknownVersion(f"it said {text.strip()[:60]!r}")
    return Version(int(found[1]), int(found[2]))


def find_program() -> Path | None:
    """Find `pgbouncer` on PATH or in Debian's place; None when there is none."""
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path=_PLACES)
    return Path(found) if found else None


def ask_version(program: Path | None) -> Version:
    """Ask the program.

    Raises:
        UnknownVersion: there is none, or it does not say.
    """
    if program is None:
        raise UnknownVersion("there is no pgbouncer on PATH")
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnknownVersion(str(error)) from error
    return parse_version(done.stdout or done.stderr)
