"""What a test needs that not every machine has: it is skipped without, and fails where it must be there."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REQUIRED = "MES_STORAGE_REQUIRE"
"""Names what this machine has to have, with commas between: `.ci/run` lists what it has installed."""


_NOT_RUN = "NOT RUN WITHOUT"


@dataclass(frozen=True)
class Need:
    """A program that a test runs.

    `package` is Debian's; `folders` are looked through beside PATH, where Debian hides some servers.
    """

    program: str
    package: str
    folders: tuple[str, ...] = ()

    def find(self) -> Path | None:
        """Give where the program is, None when it is not here."""
        path = os.pathsep.join([os.environ.get("PATH", os.defpath), *self.folders])
        found = shutil.which(self.program, path=path)
        return Path(found) if found else None


@dataclass(frozen=True)
class ExtensionNeed(Need):
    """An extension of PostgreSQL; what is found is the folder of the programs of a server that offers it."""

    debian: Path = Path("/usr/lib/postgresql")

    def find(self) -> Path | None:
        """Look in `$PG_BIN`, then in Debian's places, the newest first."""
        asked = os.environ.get("PG_BIN")
        newest_first = sorted(self.debian.glob("[0-9]*/bin"), key=lambda path: -int(path.parent.name))
        candidates = [*([Path(asked)] if asked else ()), *newest_first]
        return next((folder for folder in candidates if self._offers(folder)), None)

    def _offers(self, folder: Path) -> bool:
        try:
            words = [str(folder / "pg_config"), "--sharedir"]
            shared = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return False
        return (Path(shared) / "extension" / f"{self.program}.control").is_file()


NEEDS: Mapping[str, Need] = {
    "postgresql-15": Need("/usr/lib/postgresql/15/bin/initdb", "postgresql-15"),
    "pgbouncer": Need("pgbouncer", "pgbouncer", ("/usr/sbin",)),
    "etcd": Need("etcd", "etcd-server", ("/usr/sbin",)),
    "iproute2": Need("ip", "iproute2", ("/usr/sbin", "/sbin")),
    "prometheus": Need("prometheus", "prometheus"),
    "alertmanager": Need("prometheus-alertmanager", "prometheus-alertmanager"),
    "rsyslog": Need("rsyslogd", "rsyslog rsyslog-elasticsearch", ("/usr/sbin",)),
    "chromium": Need("chromium", "chromium"),
    # The OpenID provider of tests/oidc wants a Node.js newer than that of Debian 12.
    "npm": Need("npm", "npm, with Node.js 20 or newer"),
    "citus": ExtensionNeed("citus", "postgresql-15-citus-13.2, of Citus Data, or set PG_BIN"),
}


def require(name: str, *, needs: Mapping[str, Need] = NEEDS) -> Path:
    """Give the path of a program that the test needs.

    Where it is not here the test is skipped, and the line says how to get it. It fails instead where
    `MES_STORAGE_REQUIRE` names it: what was installed for the tests must be used by them.
    """
    need = needs[name]
    found = need.find()
    if found is not None:
        return found
    missing = f"{_NOT_RUN} {name.upper()}: {need.program} is not here; apt-get install {need.package}"
    if name in required(needs=needs):
        pytest.fail(missing)
    pytest.skip(missing)


def required(*, needs: Mapping[str, Need] = NEEDS) -> frozenset[str]:
    """Give the names in `MES_STORAGE_REQUIRE`.

    Raises:
        ValueError: one of them is not known, so that no test would ever ask for it.
    """
    names = frozenset(filter(None, map(str.strip, os.environ.get(REQUIRED, "").split(","))))
    unknown = sorted(names - needs.keys())
    if unknown:
        raise ValueError(f"{REQUIRED}: {', '.join(unknown)} is not among {', '.join(needs)}")
    return names


def skip_place(skipped: Any) -> Any:
    """Return what pytest reports of a skipped test, at this file where a program is missing.

    pytest folds what is skipped at one place for one reason into one line.

    Parameters:
        skipped: the report's `longrepr`; (file, line, reason) if the test was skipped.
    """
    match skipped:
        case (str(), _, str() as reason) if _NOT_RUN in reason:
            return (__file__, 1, reason)
    return skipped
