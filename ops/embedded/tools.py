"""PostgreSQL's programs as they are run here: found once, and never as root."""

from functools import cached_property
from pathlib import Path

from ops.embedded.programs import postgres_bin
from ops.embedded.errors import ProcMissing
from ops.embedded.processes import run_command
from ops.embedded.programs import launch_prefix


class PostgresTools:
    """The folder of PostgreSQL's programs, and the words that let root run them; found at first use."""

    def check(self) -> None:
        """Find out now whether PostgreSQL can be run here.

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
        """Give initdb's options for C.UTF-8: order by code point, which no library update changes."""
        # Debian's reads: postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)
        version = self.run("postgres", "--version", timeout_seconds=10).split()[2]
        if int(version.split(".")[0]) < 17:
            return ["--locale=C.UTF-8"]
        return ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
