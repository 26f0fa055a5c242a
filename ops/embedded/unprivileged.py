"""PostgreSQL refuses to run as root: how its programs are started by root all the same."""

import os
import subprocess
from functools import cache
from pathlib import Path

from ops.embedded.errors import NoUnprivilegedUser

NOBODY = 65534

WAYS: dict[str, tuple[str, ...]] = {
    # In a user namespace of its own, root's files belong to nobody and nobody is who we are: nothing
    # needs another owner, and process ids stay what they are outside.
    "unshare": ("unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}"),
    # A chroot refuses user namespaces. CAP_DAC_OVERRIDE lets nobody through folders below root's home;
    # what PostgreSQL's programs create belongs to nobody, which is what the server checks.
    "setpriv": (
        "setpriv",
        f"--reuid={NOBODY}",
        f"--regid={NOBODY}",
        "--clear-groups",
        "--inh-caps=+dac_override",
        "--ambient-caps=+dac_override",
    ),
}


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
